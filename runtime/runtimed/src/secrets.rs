//! A module's secrets as files at `/run/secrets`, in a file system in memory of its container.
//!
//! The container has it mounted read-only; what is written goes through a view that only this process has
//! ([`edgewarden_platform::mounts`]), so it works the same for a module that outlived an earlier daemon. A new set of
//! values is written beside the old one and takes its place by one rename, as Kubernetes does for its secret volumes:
//!
//! ```text
//! /run/secrets/db-password -> ..data/db-password
//! /run/secrets/..data      -> ..<revision>
//! /run/secrets/..<revision>/db-password
//! ```
//!
//! A reader that opens a file gets one version whole. Nothing is written to a disk: where the kernel knows `noswap`
//! (Linux 6.3) it is a tmpfs with it, elsewhere a ramfs, which is never swapped. Its size is bounded by what `identityd`
//! releases, and by the mount where it can be.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use edgewarden_names::Refusal;
use edgewarden_platform::mounts::writable_view;
use edgewarden_platform::process::Process;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::deployment::Module;
use edgewarden_protocol::secret::SecretFiles;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::context::Context;
use crate::error::RunError;
use crate::identity::CallError;

/// Folder of a module's secrets in its container.
pub const PLACE: &str = "/run/secrets";
/// Two sets of the longest values of a module, each file in whole pages.
const SIZE: &str = "size=4m";
const FILES_MAX: &str = "nr_inodes=512";
const FOLDER_MODE: u32 = 0o500;
/// Names that begin so are ours: a deployment's files do not begin with a dot.
const OURS: &str = "..";
const CURRENT: &str = "..data";
const NEXT: &str = "..next";
const REVISION_BYTES: usize = 64;

/// Mounts the folder at `place`, empty. `owner`: user and group. Blocks.
pub fn make(place: &Path, owner: (u32, u32)) -> Result<(), RunError> {
    let what = || RunError::io("make the folder of the module's secrets");
    std::fs::DirBuilder::new().mode(0o700).create(place).map_err(what())?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mode = format!("mode={FOLDER_MODE:o}");
    let (kind, options) = if knows_noswap() {
        ("tmpfs", format!("{mode},uid={},gid={},{SIZE},{FILES_MAX},noswap", owner.0, owner.1))
    } else {
        // It takes no more than a mode; who owns it is set when it is filled.
        ("ramfs", mode)
    };
    mount(Some(kind), place, Some(kind), flags, Some(options.as_str())).map_err(|error| what()(error.into()))
}

/// Asks the kernel, once: a mount that nobody sees and that is gone at once.
fn knows_noswap() -> bool {
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| std::thread::scope(|scope| scope.spawn(try_noswap).join().unwrap_or(false)))
}

fn try_noswap() -> bool {
    use nix::sched::{CloneFlags, unshare};
    let tried = unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).and_then(|()| {
        let no_flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, no_flags, None::<&str>)?;
        mount(Some("tmpfs"), "/proc", Some("tmpfs"), MsFlags::MS_RDONLY, Some("noswap"))?;
        umount2("/proc", MntFlags::MNT_DETACH)
    });
    tried.is_ok()
}

/// Brings the files of an instance up to date. At its start all must be there.
pub async fn deliver(
    context: &Context,
    module: &Module,
    instance: &str,
    process: &Process,
    owner: Option<(u32, u32)>,
) -> Result<(), Refusal> {
    if module.secrets.is_empty() {
        return Ok(());
    }
    let failed =
        |error: RunError| Refusal::new(edgewarden_names::Reason::Internal, &module.name, error.chain());
    let opened = process.clone();
    let folder = context.blocking(move || SecretFolder::open(&opened, owner)).await.map_err(failed)?;
    let release = questions::SecretsRelease { instance: instance.to_owned(), have: folder.current() };
    let files = context.identityd.call(release).await.map_err(CallError::refusal)?;
    let versions: Option<Vec<String>> = files.as_ref().map(|files| {
        files.files.iter().map(|file| format!("{} version {}", file.name, file.version)).collect()
    });
    context.blocking(move || folder.put(files.as_deref())).await.map_err(failed)?;
    if let Some(versions) = versions {
        tracing::info!(%instance, secrets = versions.join(", "), "secrets are in place");
    }
    Ok(())
}

/// The folder of a container, open for writing. Dropping it closes the view.
#[derive(Debug)]
struct SecretFolder {
    root: PathBuf,
    /// User and group that may read. Known at the start, found again later.
    owner: (u32, u32),
    _view: Option<std::os::fd::OwnedFd>,
}

impl SecretFolder {
    fn open(process: &Process, owner: Option<(u32, u32)>) -> Result<Self, RunError> {
        use std::os::unix::fs::MetadataExt as _;
        let what = || RunError::io("open the folder of the module's secrets");
        let view = writable_view(process, Path::new(PLACE)).map_err(what())?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
        let owner = match owner {
            Some(owner) => {
                chown(&root, Some(owner.0), Some(owner.1)).map_err(what())?;
                owner
            }
            None => std::fs::metadata(&root).map(|found| (found.uid(), found.gid())).map_err(what())?,
        };
        Ok(Self { root, owner, _view: Some(view) })
    }

    /// The revision that readers see.
    fn current(&self) -> Option<String> {
        let target = std::fs::read_link(self.root.join(CURRENT)).ok()?;
        let revision = target.to_str()?.strip_prefix(OURS)?;
        is_revision(revision).then(|| revision.to_owned())
    }

    /// Puts a set in the place of the one before. Without one, removes what an attempt that was cut off left.
    fn put(&self, files: Option<&SecretFiles>) -> Result<(), RunError> {
        let what = || RunError::io("write the module's secrets");
        if let Some(files) = files {
            if !is_revision(&files.revision) {
                return Err(RunError::Runtime("identityd named no revision of the secrets".into()));
            }
            self.write(files).map_err(what())?;
            self.switch(files).map_err(what())?;
        }
        self.sweep().map_err(what())
    }

    fn write(&self, files: &SecretFiles) -> io::Result<()> {
        let folder = self.root.join(format!("{OURS}{}", files.revision));
        // An attempt that was cut off.
        remove(&folder)?;
        // Nobody else enters before everything is there.
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        for secret in &files.files {
            if secret.file.contains('/') || secret.file.starts_with('.') || secret.file.is_empty() {
                return Err(io::Error::other("identityd named a file that is none"));
            }
            let path = folder.join(&secret.file);
            let mut file = File::options().write(true).create_new(true).mode(0o400).open(&path)?;
            file.write_all(secret.value.expose())?;
            chown(&path, Some(self.owner.0), Some(self.owner.1))?;
            file.set_permissions(Permissions::from_mode(secret.mode & 0o444))?;
        }
        chown(&folder, Some(self.owner.0), Some(self.owner.1))?;
        std::fs::set_permissions(&folder, Permissions::from_mode(FOLDER_MODE))
    }

    fn switch(&self, files: &SecretFiles) -> io::Result<()> {
        // Links first: those of new files lead nowhere until the rename, and then all lead to the new set.
        for secret in &files.files {
            let link = self.root.join(&secret.file);
            if link.symlink_metadata().is_err() {
                symlink(Path::new(CURRENT).join(&secret.file), &link)?;
            }
        }
        let next = self.root.join(NEXT);
        remove(&next)?;
        symlink(format!("{OURS}{}", files.revision), &next)?;
        std::fs::rename(&next, self.root.join(CURRENT))
    }

    /// Removes what the current set does not hold.
    fn sweep(&self) -> io::Result<()> {
        let current = self.current().map(|revision| format!("{OURS}{revision}"));
        let mut kept = BTreeSet::new();
        if let Some(current) = &current {
            kept.extend([CURRENT.to_owned(), current.clone()]);
            for entry in std::fs::read_dir(self.root.join(current))? {
                kept.insert(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn is_revision(text: &str) -> bool {
    text.len() == REVISION_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A file, a link, or a folder with what is in it; none of it is no error.
fn remove(path: &Path) -> io::Result<()> {
    let gone = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::SecretName;
    use edgewarden_protocol::secret::{SecretFile, SecretValue};

    fn folder(root: &Path) -> SecretFolder {
        let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        SecretFolder { root: root.to_owned(), owner: (user, group), _view: None }
    }

    fn set(mark: char, files: &[(&str, &str)]) -> SecretFiles {
        let file = |(name, value): &(&str, &str)| SecretFile {
            name: SecretName::parse("any").unwrap(),
            version: 1,
            file: (*name).to_owned(),
            mode: 0o440,
            value: SecretValue::new(value.as_bytes().to_vec().into()),
        };
        SecretFiles { revision: mark.to_string().repeat(64), files: files.iter().map(file).collect() }
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_set_takes_the_place_of_the_old_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let read = |name: &str| std::fs::read_to_string(root.path().join(name)).ok();
        folder.put(None).unwrap();
        assert_eq!(folder.current(), None);
        folder.put(Some(&set('a', &[("password", "one"), ("user", "u")]))).unwrap();
        assert_eq!((read("password"), read("user")), (Some("one".into()), Some("u".into())));
        let mode = std::fs::metadata(root.path().join("password")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o440);
        // Who has the old one open keeps it.
        let held = File::open(root.path().join("password")).unwrap();
        folder.put(Some(&set('b', &[("password", "two"), ("token", "t")]))).unwrap();
        assert_eq!(
            (read("password"), read("user"), read("token")),
            (Some("two".into()), None, Some("t".into()))
        );
        assert_eq!(io::read_to_string(held).unwrap(), "one");
        assert_eq!(names(root.path()), [&format!("..{}", "b".repeat(64)), "..data", "password", "token"]);
        assert_eq!(folder.current(), Some("b".repeat(64)));
        folder.put(Some(&set('c', &[]))).unwrap();
        assert_eq!(names(root.path()), [&format!("..{}", "c".repeat(64)), "..data"]);
    }

    #[test]
    fn what_a_cut_left_is_removed_and_never_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        folder.put(Some(&set('a', &[("password", "one")]))).unwrap();
        // Cut while the second set was written, with its links there already.
        let half = root.path().join(format!("..{}", "b".repeat(64)));
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("password"), "tw").unwrap();
        symlink("..data/token", root.path().join("token")).unwrap();
        symlink("nowhere", root.path().join(NEXT)).unwrap();
        assert_eq!(std::fs::read_to_string(root.path().join("password")).unwrap(), "one");
        folder.put(Some(&set('b', &[("password", "two")]))).unwrap();
        assert_eq!(std::fs::read_to_string(root.path().join("password")).unwrap(), "two");
        std::fs::create_dir(root.path().join(format!("..{}", "a".repeat(64)))).unwrap();
        folder.put(None).unwrap();
        assert_eq!(names(root.path()), [&format!("..{}", "b".repeat(64)), "..data", "password"]);
    }

    #[test]
    fn foreign_names_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        for bad in ["../x", "x/y", "..data", ""] {
            assert!(folder.put(Some(&set('a', &[(bad, "one")]))).is_err(), "{bad}");
        }
        for bad in ["", "a", &"A".repeat(64), &"/".repeat(64)] {
            let files = SecretFiles { revision: bad.into(), ..set('a', &[]) };
            assert!(folder.put(Some(&files)).is_err(), "{bad}");
        }
        assert_eq!(folder.current(), None);
    }
}
