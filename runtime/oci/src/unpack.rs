//! Applies tar layers to a root file system (OCI image-spec, "Image Layer Filesystem Changeset").
//!
//! The tar stream is hostile until its hash has been compared at the end, and may stay so after: a signature says who
//! made an image, not that it is well made. So every path is resolved by the kernel inside the root (`openat2(2)` with
//! `RESOLVE_IN_ROOT`), `..` is refused, the last component is never followed, and there are limits on whatever is made:
//! entries, folders that only a path implies, bytes, blocks, names and depth. Device nodes and FIFOs are left out;
//! set-user-ID bits and file capabilities are dropped; what is lost so is told to the operator. What lies, by whatever way,
//! in a folder that the runtime mounts over is left out too: it would never be seen, but could be taken for what is there
//! then. Owners and modes are the image's own, in the container's numbers: nobody but root passes the folder above, and a
//! module sees it mounted read-only for its own users. Trusts that nobody else writes in the folder meanwhile.
//!
//! Of entries of one name in a layer the last counts. A whiteout hides what lower layers have and nothing of its own layer,
//! wherever in the layer it stands.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;

use edgewarden_names::{Digest, Reason};
use edgewarden_protocol::control::Layer;
use edgewarden_protocol::layer::Packing;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::OciError;
use crate::archive::{Archive, Kind, Member, PATH_BYTES_MAX, about, invalid, shown, too_large, unsupported};
use crate::error::{is_ours, refused};
use crate::execution::IDS;
use crate::packing::{CHUNKS_MAX, Pipe, pump};
use crate::tree::RUN;

/// Limits of one image's root file system (docs/specification.md).
const ENTRIES_MAX: usize = 200_000;
const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const DEPTH_MAX: usize = 64;
/// Folders that no entry describes.
const IMPLIED_MAX: usize = 4096;
/// Bytes that a file or folder takes from a disk at least.
const BLOCK_BYTES: u64 = 4096;
/// All names of one image together; those of a layer are held in memory.
const NAMES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// `nobody` of most systems.
const NOBODY: u32 = 65_534;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A root file system that is being made.
pub(crate) struct Unpacker {
    root: Folder,
    place: PathBuf,
    covered: &'static [(&'static str, u32)],
    entries: usize,
    implied: usize,
    names_bytes: usize,
    /// Bytes of uncompressed layers that may still come.
    bytes_left: u64,
    /// Bytes, in whole blocks and with holes, that may still be made.
    disk_left: u64,
    lost: Lost,
    /// The folder of the last entry, by its path: most entries lie beside the one before.
    last: Option<(Vec<u8>, Rc<Folder>)>,
    /// An operator who only looks at an image need not be root.
    gives_owners: bool,
}

/// What an image has and its root file system has not.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Entries that a mount would cover.
    pub covered: Noted,
    /// Device nodes and FIFOs.
    pub nodes: Noted,
    /// Files that would have given their rights to whoever executes them.
    pub privileges: Noted,
}

/// Entries, counted, and some of their names.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub count: usize,
    names: Vec<String>,
}

impl Noted {
    const NAMES_MAX: usize = 8;

    fn note(&mut self, name: &[u8]) {
        self.count = self.count.saturating_add(1);
        if self.names.len() < Self::NAMES_MAX {
            self.names.push(shown(name));
        }
    }

    /// The first names, safe to show.
    pub(crate) fn names(&self) -> String {
        let more = if self.count > self.names.len() { ", …" } else { "" };
        self.names.join(", ") + more
    }
}

struct Folder {
    fd: OwnedFd,
    inode: u64,
}

/// What one layer did. An inode that is used again is a new folder's: nothing of a lower layer is in that.
#[derive(Default)]
struct Applied {
    /// Folder and name of what the layer has.
    made: HashSet<(u64, Vec<u8>)>,
    /// Folders in which nothing of a lower layer is left.
    cleared: HashSet<u64>,
}

impl Applied {
    fn has(&self, parent: &Folder, name: &[u8]) -> bool {
        self.made.contains(&(parent.inode, name.to_vec()))
    }
}

impl Unpacker {
    /// `root` is an empty folder. What is in the folders `covered` of it is left out.
    pub(crate) fn new(root: &Path, covered: &'static [(&'static str, u32)]) -> Result<Self, OciError> {
        let what = || OciError::io(format!("open `{}`", root.display()));
        let root = Folder::of(OwnedFd::from(File::open(root).map_err(what())?)).map_err(what())?;
        let unpacker = Self {
            place: place(&root.fd).map_err(what())?,
            root,
            covered,
            entries: 0,
            implied: 0,
            names_bytes: 0,
            bytes_left: UNPACKED_BYTES_MAX,
            disk_left: UNPACKED_BYTES_MAX,
            lost: Lost::default(),
            last: None,
            gives_owners: Uid::effective().is_root(),
        };
        unpacker.make_covered().map_err(what())?;
        Ok(unpacker)
    }

    /// They are there from the beginning, so that a link to one of them leads to it.
    fn make_covered(&self) -> io::Result<()> {
        for name in self.covered.iter().map(|(name, _)| *name).chain([RUN]) {
            if kind_of(&self.root.fd, name.as_bytes())?.is_none() {
                mkdirat(&self.root.fd, name, Mode::from_bits_truncate(0o755))?;
                // The umask must not decide who gets in.
                fchmodat(
                    &self.root.fd,
                    name,
                    Mode::from_bits_truncate(0o755),
                    FchmodatFlags::NoFollowSymlink,
                )?;
            }
        }
        Ok(())
    }

    pub(crate) fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Counts something that is about to be made.
    fn charge(&mut self, name_bytes: usize, bytes: u64) -> io::Result<()> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > ENTRIES_MAX {
            return Err(too_large("too many entries"));
        }
        self.names_bytes = self.names_bytes.saturating_add(name_bytes);
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(too_large("the names are too long"));
        }
        let blocks = bytes.div_ceil(BLOCK_BYTES).saturating_add(1).saturating_mul(BLOCK_BYTES);
        let left = self.disk_left.checked_sub(blocks);
        self.disk_left = left.ok_or_else(|| too_large("the root file system is too large"))?;
        Ok(())
    }

    fn is_covered(&self, first: &[u8]) -> bool {
        self.covered.iter().any(|(name, _)| name.as_bytes() == first)
    }

    /// Applies one layer from its stored bytes, then compares both of its hashes. After an error the root is rubbish.
    pub(crate) fn apply(&mut self, layer: &Layer, blob: impl Read + Send) -> Result<(), OciError> {
        let packing = match Packing::of(&layer.media_type) {
            Ok(packing) => packing,
            Err(why) => {
                let kind = shown(layer.media_type.as_bytes());
                return refused(Reason::ImageUnsupported, &layer.digest, format!("`{kind}`: {why}"));
            }
        };
        let (chunks, pipe) = mpsc::sync_channel(CHUNKS_MAX);
        let (spare, spared) = mpsc::sync_channel(CHUNKS_MAX);
        let bytes_left = self.bytes_left;
        let (applied, passed) = std::thread::scope(|scope| {
            let reading = std::thread::Builder::new()
                .name("layer".into())
                .spawn_scoped(scope, move || pump(packing, blob, layer.size, bytes_left, &chunks, &spared))?;
            let applied = self.apply_tar(Pipe::new(pipe, spare));
            // A decoder that gives up has found something that it cannot make sense of.
            let passed = reading.join().unwrap_or_else(|_| Err(invalid("it cannot be decompressed")));
            io::Result::Ok((applied, passed))
        })
        .map_err(OciError::io("begin a thread"))?;
        let passed = passed.map_err(|error| failed(&layer.digest, &error))?;
        if passed.packed != layer.digest {
            return refused(Reason::ImageContent, &layer.digest, "the layer's bytes do not match its digest");
        }
        let plain = passed.plain.map_err(|error| failed(&layer.digest, &error))?;
        applied.map_err(|error| failed(&layer.digest, &error))?;
        match plain {
            Some((digest, bytes)) if digest == layer.diff_id => {
                self.bytes_left = self.bytes_left.saturating_sub(bytes);
                Ok(())
            }
            _ => refused(
                Reason::ImageContent,
                &layer.digest,
                "the uncompressed layer does not match its diff_id",
            ),
        }
    }

    fn apply_tar(&mut self, mut stream: Pipe) -> io::Result<()> {
        let mut archive = Archive::new(&mut stream);
        let mut layer = Applied::default();
        let mut name = b"the beginning".to_vec();
        loop {
            let member = archive.next_member().map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => invalid(format!("{error} (after `{}`)", shown(&name))),
                _ => error,
            })?;
            let Some(member) = member else { break };
            self.apply_member(&mut archive, &member, &mut layer)
                .map_err(|error| about(&member.name, &error))?;
            name = member.name;
        }
        // What follows the archive belongs to the layer too.
        io::copy(&mut stream, &mut io::sink()).map(drop)
    }

    fn apply_member(
        &mut self,
        archive: &mut Archive<impl BufRead>,
        member: &Member,
        layer: &mut Applied,
    ) -> io::Result<()> {
        if let Kind::Unknown(kind) = member.kind {
            let kind = kind.escape_ascii();
            return Err(unsupported(format!("it is of a kind that is not unpacked (`{kind}`)")));
        }
        let path = clean(&member.name)?;
        self.charge(member.name.len(), 0)?;
        let Some((above, last)) = split(&path) else {
            // The root itself: its mode is ours.
            return if member.kind == Kind::Folder { Ok(()) } else { Err(invalid("the root is no folder")) };
        };
        let named = last.strip_prefix(WHITEOUT).unwrap_or(last);
        let parent = match self.folder(above)? {
            // What is to be mounted over is a folder and stays one, whatever the image wants there.
            Some(parent)
                if parent.inode == self.root.inode
                    && (self.is_covered(named) || named == RUN.as_bytes())
                    && (member.kind != Kind::Folder || last != named) =>
            {
                None
            }
            parent => parent,
        };
        let Some(parent) = parent else {
            self.lost.covered.note(&path);
            return Ok(());
        };
        if last == OPAQUE {
            self.clear(&parent, layer)?;
            return self.make_covered();
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
                return Err(invalid("a whiteout names nothing"));
            }
            return self.hide(&parent, hidden, layer);
        }
        let existing = kind_of(&parent.fd, last)?;
        layer.made.insert((parent.inode, last.to_vec()));
        if member.kind == Kind::Folder && existing == Some(SFlag::S_IFDIR) {
            self.own(&parent, last, member)?;
            return Ok(fchmodat(&parent.fd, last, mode(member), FchmodatFlags::FollowSymlink)?);
        }
        if member.kind == Kind::HardLink {
            return self.link(&parent, last, existing, member);
        }
        if existing.is_some() {
            self.remove(&parent, last)?;
        }
        self.make(archive, &parent, last, member)
    }

    fn make(
        &mut self,
        archive: &mut Archive<impl BufRead>,
        parent: &Folder,
        name: &[u8],
        member: &Member,
    ) -> io::Result<()> {
        match member.kind {
            Kind::Folder => {
                mkdirat(&parent.fd, name, Mode::S_IRWXU)?;
                self.own(parent, name, member)?;
                fchmodat(&parent.fd, name, mode(member), FchmodatFlags::FollowSymlink)?;
            }
            Kind::File => {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = File::from(openat(&parent.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
                self.charge(0, member.size)?;
                archive.contents(member, |offset, bytes| file.write_all_at(bytes, offset))?;
                if member.is_sparse() {
                    file.set_len(member.size)?;
                }
                self.own(parent, name, member)?;
                fchmod(&file, mode(member))?;
                if member.mode & 0o6000 != 0 || member.capabilities {
                    self.lost.privileges.note(&member.name);
                }
            }
            Kind::Symlink => {
                let target =
                    member.link.as_deref().ok_or_else(|| invalid("it is a link without a target"))?;
                if target.len() > PATH_BYTES_MAX {
                    return Err(invalid("the target of a link is too long"));
                }
                // Kept as it is: it is only ever followed inside the root, here and in the container.
                symlinkat(target, &parent.fd, name)?;
                self.own(parent, name, member)?;
            }
            _ => self.lost.nodes.note(&member.name),
        }
        Ok(())
    }

    /// Gives what was made its owner, where this process can. Who is above the range of a module's users is nobody's.
    fn own(&self, parent: &Folder, name: &[u8], member: &Member) -> io::Result<()> {
        if !self.gives_owners {
            return Ok(());
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id < IDS).unwrap_or(NOBODY);
        let (user, group) = (Uid::from_raw(id(member.owner)), Gid::from_raw(id(member.group)));
        Ok(fchownat(&parent.fd, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    fn link(
        &mut self,
        parent: &Folder,
        name: &[u8],
        existing: Option<SFlag>,
        member: &Member,
    ) -> io::Result<()> {
        let target = member.link.as_deref().ok_or_else(|| invalid("it is a link without a target"))?;
        let target = clean(target)?;
        let (above, last) = split(&target).ok_or_else(|| invalid("it is a hard link to the root"))?;
        let from = self.existing_folder(above)?;
        if self.lies_covered(&from.fd)? {
            return Err(unsupported("it is a hard link to something in a folder that is mounted over"));
        }
        // A link as such can have two names too; it is not followed.
        if !matches!(kind_of(&from.fd, last)?, Some(SFlag::S_IFREG | SFlag::S_IFLNK)) {
            return Err(invalid(format!("it is a hard link to `{}`, no file of the image", shown(&target))));
        }
        if (from.inode, last) == (parent.inode, name) {
            return Ok(());
        }
        if existing.is_some() {
            self.remove(parent, name)?;
        }
        Ok(linkat(&from.fd, last, &parent.fd, name, AtFlags::empty())?)
    }

    /// Removes from a folder what lower layers put there. Each folder is looked through once in a layer.
    fn clear(&mut self, folder: &Folder, layer: &mut Applied) -> io::Result<()> {
        if !layer.cleared.insert(folder.inode) {
            return Ok(());
        }
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", folder.fd.as_raw_fd()))? {
            self.hide(folder, &entry?.file_name().into_vec(), layer)?;
        }
        Ok(())
    }

    /// Removes what lower layers have of this name.
    fn hide(&mut self, parent: &Folder, name: &[u8], layer: &mut Applied) -> io::Result<()> {
        match kind_of(&parent.fd, name)? {
            None => Ok(()),
            Some(SFlag::S_IFDIR) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let folder = Folder::of(openat(&parent.fd, name, flags, Mode::empty())?)?;
                self.clear(&folder, layer)?;
                if layer.has(parent, name) {
                    return Ok(());
                }
                self.last = None;
                match unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir) {
                    // Something of this layer is in it.
                    Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
                    other => Ok(other?),
                }
            }
            Some(_) if layer.has(parent, name) => Ok(()),
            Some(_) => self.remove(parent, name),
        }
    }

    /// Removes one name and what is below it; never follows a link. That there is none is no error.
    fn remove(&mut self, parent: &Folder, name: &[u8]) -> io::Result<()> {
        let kind = kind_of(&parent.fd, name)?;
        if kind != Some(SFlag::S_IFREG) {
            // Paths may lead elsewhere from here on.
            self.last = None;
        }
        match kind {
            None => Ok(()),
            Some(SFlag::S_IFDIR) => {
                let folder = PathBuf::from(format!("/proc/self/fd/{}", parent.fd.as_raw_fd()));
                std::fs::remove_dir_all(folder.join(OsStr::from_bytes(name)))
            }
            Some(_) => Ok(unlinkat(&parent.fd, name, UnlinkatFlags::NoRemoveDir)?),
        }
    }

    /// A folder of the root, links followed inside the root only.
    fn existing_folder(&self, path: &[u8]) -> io::Result<Folder> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Folder::of(openat2(&self.root.fd, if path.is_empty() { b".".as_slice() } else { path }, how)?)
    }

    /// `true` when the folder lies in one that is mounted over, or is one.
    fn lies_covered(&self, folder: &OwnedFd) -> io::Result<bool> {
        let place = place(folder)?;
        let inside = place.strip_prefix(&self.place).map_err(|_| invalid("a folder left the root"))?;
        let first = inside.components().next();
        Ok(first.is_some_and(|first| self.is_covered(first.as_os_str().as_bytes())))
    }

    /// Like [`Self::existing_folder`], with what is missing of it made. `None` for one that is mounted over.
    fn folder(&mut self, path: &[u8]) -> io::Result<Option<Rc<Folder>>> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Some(Rc::clone(folder)));
        }
        let folder = self.folder_or_make(path)?.map(Rc::new);
        self.last = folder.as_ref().map(|folder| (path.to_vec(), Rc::clone(folder)));
        Ok(folder)
    }

    fn folder_or_make(&mut self, path: &[u8]) -> io::Result<Option<Folder>> {
        if path.split(|byte| *byte == b'/').next().is_some_and(|first| self.is_covered(first)) {
            return Ok(None);
        }
        match self.existing_folder(path) {
            Ok(folder) if self.lies_covered(&folder.fd)? => return Ok(None),
            Ok(folder) => {
                self.check_depth(&folder.fd)?;
                return Ok(Some(folder));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (above, last) = split(path).ok_or_else(|| invalid("the root is gone"))?;
        let Some(parent) = self.folder_or_make(above)? else { return Ok(None) };
        self.implied = self.implied.saturating_add(1);
        if self.implied > IMPLIED_MAX {
            return Err(too_large("too many folders have no entry of their own"));
        }
        self.charge(path.len(), 0)?;
        match mkdirat(&parent.fd, last, Mode::from_bits_truncate(0o755)) {
            // A link that leads nowhere: making what it points to is not ours.
            Err(Errno::EEXIST) => return Err(invalid(format!("`{}` is a broken link", shown(path)))),
            other => other?,
        }
        // The umask must not decide who gets in.
        fchmodat(&parent.fd, last, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)?;
        let folder = self.existing_folder(path)?;
        self.check_depth(&folder.fd)?;
        Ok(Some(folder))
    }

    /// A path of few parts may lead through links to a folder that lies deep: what walks the tree later must not.
    fn check_depth(&self, folder: &OwnedFd) -> io::Result<()> {
        let depth = |path: &Path| path.components().count();
        // A path that is too long for the kernel to tell is an error too.
        if depth(&place(folder)?) > depth(&self.place).saturating_add(DEPTH_MAX) {
            return Err(invalid("folders are nested too deeply"));
        }
        Ok(())
    }

    /// Makes the places over which the runtime mounts, so that it has nothing to make in a tree that is fixed.
    pub(crate) fn mount_points(&mut self, files: &[&str]) -> Result<(), OciError> {
        let failed = |path: &str| {
            let what = format!("make the mount point `/{path}`");
            move |source: io::Error| OciError::Io { what, source }
        };
        for (path, mode) in self.covered {
            // Runtimes give what they mount the mode of the folder below.
            let mode = Mode::from_bits_truncate(*mode);
            fchmodat(&self.root.fd, *path, mode, FchmodatFlags::NoFollowSymlink)
                .map_err(|error| failed(path)(error.into()))?;
        }
        for path in files {
            let (folder, last) =
                split(path.as_bytes()).ok_or_else(|| failed(path)(invalid("names no file")))?;
            let parent = self.folder(folder).map_err(failed(path))?;
            // A link to a folder that is mounted over: what would be mounted there would be nowhere.
            let parent = parent.ok_or_else(|| {
                let rule = "it lies in a folder that is mounted over";
                edgewarden_names::Refusal::new(Reason::ImageInvalid, format!("/{path}"), rule)
            })?;
            let kind = kind_of(&parent.fd, last).map_err(failed(path))?;
            if kind.is_some_and(|kind| kind != SFlag::S_IFREG) {
                // A link could lead the mount elsewhere.
                self.remove(&parent, last).map_err(failed(path))?;
            }
            if kind != Some(SFlag::S_IFREG) {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&parent.fd, last, flags, Mode::S_IRUSR)
                    .map_err(|error| failed(path)(error.into()))?;
                fchmod(&file, Mode::from_bits_truncate(0o444)).map_err(|error| failed(path)(error.into()))?;
            }
        }
        Ok(())
    }
}

impl Folder {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { inode: fstat(&fd)?.st_ino, fd })
    }
}

/// A refusal for the image's fault, or an I/O error for this machine's.
fn failed(layer: &Digest, error: &io::Error) -> OciError {
    if let Some(number) = error.raw_os_error()
        && is_ours(number)
    {
        return OciError::io(format!("unpack {layer}"))(io::Error::from_raw_os_error(number));
    }
    let reason = match error.kind() {
        io::ErrorKind::FileTooLarge => Reason::ImageTooLarge,
        io::ErrorKind::Unsupported => Reason::ImageUnsupported,
        _ => Reason::ImageInvalid,
    };
    edgewarden_names::Refusal::new(reason, layer, format!("the layer cannot be unpacked: {error}")).into()
}

/// The path below the root: no leading `/`, no `.`, no empty parts; `..` is refused rather than resolved.
fn clean(name: &[u8]) -> io::Result<Vec<u8>> {
    if name.len() > PATH_BYTES_MAX {
        return Err(invalid("a name is too long"));
    }
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(invalid(format!("`{}` leads out of its folder", shown(name))));
    }
    if parts.len() > DEPTH_MAX {
        return Err(invalid("folders are nested too deeply"));
    }
    Ok(parts.join(&b'/'))
}

fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    let mut parts = path.rsplitn(2, |byte| *byte == b'/');
    let last = parts.next()?;
    Some((parts.next().unwrap_or_default(), last))
}

/// The path of an open folder, as the kernel sees it.
fn place(folder: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn kind_of(parent: &impl AsFd, name: &[u8]) -> io::Result<Option<SFlag>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Without set-user-ID and set-group-ID bits.
fn mode(member: &Member) -> Mode {
    let kept = if member.kind == Kind::Folder { 0o1777 } else { 0o777 };
    Mode::from_bits_truncate(member.mode & kept)
}
