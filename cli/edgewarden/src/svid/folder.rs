//! A folder of files that belong together, all of one moment.
//!
//! ```text
//! DIR/.svid-<n>/svid.pem …   one generation, complete before anybody is pointed to it
//! DIR/current -> .svid-<n>   switched by one rename
//! DIR/svid.pem -> current/svid.pem
//! ```
//!
//! A reader that opens `DIR/current` once, and the files through it, never sees files of two generations. The
//! generation before is kept until the next, for a reader who is about to open it. What a process that died left behind
//! goes at the next start. A private key's file is never open to others, not while it is being written either.
//!
//! Trusts the folder's owner: a folder that others may change is refused.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use edgewarden_platform::durable;
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

const CURRENT: &str = "current";
const GENERATION: &str = ".svid-";
/// Anybody may pass: each file says for itself who may read it.
const FOLDER_MODE: u32 = 0o755;
const OTHERS_WRITE: u32 = 0o022;

/// One file of a generation.
#[derive(PartialEq, Eq)]
pub struct Document {
    pub name: String,
    pub bytes: Zeroizing<Vec<u8>>,
    pub mode: u32,
}

/// Folder of generations of files, held by one process at a time.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Makes the folder if there is none, and removes what nobody points to.
    pub fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let ours = metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw();
        if !ours || metadata.mode() & OTHERS_WRITE != 0 {
            return Err(io::Error::other("others may change what is in it; give it to this user alone"));
        }
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => io::Error::other("another `edgewarden svid watch` keeps it"),
            other => other.into(),
        })?;
        let folder = Self { path: path.to_owned(), _lock: lock };
        durable::sweep(&folder.path)?;
        folder.remove_all_but(&[folder.current().as_deref()])?;
        Ok(folder)
    }

    /// Makes these documents the current ones. When it fails, the ones before still are, unless only a link to the new
    /// ones could not be made.
    pub fn put(&self, documents: &[Document]) -> io::Result<()> {
        let before = self.current();
        let name = self.new_generation()?;
        let generation = self.path.join(&name);
        let written = documents
            .iter()
            .try_for_each(|document| {
                durable::write(&generation.join(&document.name), &document.bytes, document.mode)
            })
            // Until here nobody else could look into it.
            .and_then(|()| std::fs::set_permissions(&generation, Permissions::from_mode(FOLDER_MODE)))
            .and_then(|()| self.point(OsStr::new(CURRENT), Path::new(&name)));
        if written.is_err() {
            // The first error is the one to report; what cannot be removed now goes at the next start.
            drop(std::fs::remove_dir_all(&generation));
        }
        written?;
        self.remove_all_but(&[Some(&name), before.as_deref()])?;
        documents.iter().try_for_each(|document| {
            self.point(OsStr::new(&document.name), &Path::new(CURRENT).join(&document.name))
        })
    }

    /// The generation that is pointed to.
    fn current(&self) -> Option<OsString> {
        std::fs::read_link(self.path.join(CURRENT)).ok().map(PathBuf::into_os_string)
    }

    /// With a number above all that there are. None is used twice: who has looked up a generation by its name would find
    /// another one in its place.
    fn new_generation(&self) -> io::Result<OsString> {
        let mut next = 0_u64;
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(GENERATION)?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        let name = format!("{GENERATION}{next}");
        DirBuilder::new().mode(0o700).create(self.path.join(&name))?;
        Ok(name.into())
    }

    /// Makes `name` a link to `target`, by one rename.
    fn point(&self, name: &OsStr, target: &Path) -> io::Result<()> {
        let link = self.path.join(name);
        if std::fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(());
        }
        // Of the form that `durable::sweep` removes. Nobody else writes here, so the name is free once swept.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".link.ew-tmp");
        let temporary = self.path.join(temporary);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &temporary)?;
        std::fs::rename(&temporary, &link)?;
        File::open(&self.path)?.sync_all()
    }

    fn remove_all_but(&self, kept: &[Option<&OsStr>]) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name.as_bytes().starts_with(GENERATION.as_bytes()) && !kept.contains(&Some(&name)) {
                std::fs::remove_dir_all(self.path.join(&name))?;
            }
        }
        Ok(())
    }
}
