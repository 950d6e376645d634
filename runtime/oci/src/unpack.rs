//! Applies tar layers to a root file system (OCI image-spec, "Image Layer Filesystem Changeset").
//!
//! The tar stream is hostile until its hash has been compared at the end, and may stay so after: a signature says who
//! made an image, not that it is well made. So every path is resolved by the kernel inside the root (`openat2(2)` with
//! `RESOLVE_IN_ROOT`), `..` is refused, the last component is never followed, device nodes and FIFOs are refused,
//! set-user-ID bits and extended attributes (file capabilities) are dropped, and there are limits on whatever is made:
//! entries, folders that only a path implies, bytes, blocks, names and depth. What lies, by whatever way, in a folder that
//! the runtime mounts over is left out: it would never be seen, but could be taken for what is there then. Everything ends up owned by root and not writable; where an image's own user owned a file, what that user
//! could read or run everyone in the container can. Trusts that nobody else writes in the folder meanwhile.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use edgewarden_names::{Digest, Reason};
use edgewarden_protocol::control::Layer;
use flate2::read::MultiGzDecoder;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::OciError;
use crate::error::refused;
use crate::hashing::Hashing;
use crate::manifest::{DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_TAR};

/// Limits of one image's root file system (docs/specification.md).
const ENTRIES_MAX: usize = 200_000;
const UNPACKED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const PATH_BYTES_MAX: usize = 4096;
const DEPTH_MAX: usize = 64;
/// Folders that no entry describes.
const IMPLIED_MAX: usize = 4096;
/// Bytes that a file or folder takes from a disk at least.
const BLOCK_BYTES: u64 = 4096;
const PAX_BYTES_MAX: u64 = 64 * 1024;
/// Entries of one layer, those that only say something about the next one too.
const HEADERS_MAX: usize = 3 * ENTRIES_MAX;
/// All names of one image together; those of a layer are held in memory.
const NAMES_BYTES_MAX: usize = 32 * 1024 * 1024;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// A root file system that is being made.
pub(crate) struct Unpacker {
    root: OwnedFd,
    place: PathBuf,
    covered: &'static [(&'static str, u32)],
    entries: usize,
    implied: usize,
    names_bytes: usize,
    /// Bytes of uncompressed layers that may still come.
    bytes_left: u64,
    /// Bytes, in whole blocks, that may still be made.
    disk_left: u64,
    left_out: usize,
}

fn too_large(rule: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, rule)
}

fn unsupported(rule: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, rule)
}

impl Unpacker {
    /// `root` is an empty folder. What is in the folders `covered` of it is left out.
    pub(crate) fn new(root: &Path, covered: &'static [(&'static str, u32)]) -> Result<Self, OciError> {
        let what = || OciError::io(format!("open `{}`", root.display()));
        let root = OwnedFd::from(File::open(root).map_err(what())?);
        let unpacker = Self {
            place: place(&root).map_err(what())?,
            root,
            covered,
            entries: 0,
            implied: 0,
            names_bytes: 0,
            bytes_left: UNPACKED_BYTES_MAX,
            disk_left: UNPACKED_BYTES_MAX,
            left_out: 0,
        };
        unpacker.make_covered().map_err(what())?;
        Ok(unpacker)
    }

    /// They are there from the beginning, so that a link to one of them leads to it.
    fn make_covered(&self) -> io::Result<()> {
        for (name, _) in self.covered {
            if kind_of(&self.root, name)?.is_none() {
                mkdirat(&self.root, *name, Mode::S_IRWXU)?;
            }
        }
        Ok(())
    }

    /// Entries that were left out, because a mount would cover them.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
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

    fn is_covered(&self, first: &str) -> bool {
        self.covered.iter().any(|(name, _)| *name == first)
    }

    /// Applies one layer from its stored bytes, then compares both of its hashes. After an error the root is rubbish.
    pub(crate) fn apply(&mut self, layer: &Layer, blob: impl Read) -> Result<(), OciError> {
        let packed = Hashing::new(blob, layer.size);
        let (packed, plain, bytes) = match layer.media_type.as_str() {
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => {
                let mut plain = Hashing::new(MultiGzDecoder::new(packed), self.bytes_left);
                self.apply_tar(&layer.digest, &mut plain)?;
                let (packed, digest, bytes) = plain.finish();
                (packed.into_inner(), digest, bytes)
            }
            OCI_LAYER_TAR => {
                let mut plain = Hashing::new(packed, self.bytes_left);
                self.apply_tar(&layer.digest, &mut plain)?;
                plain.finish()
            }
            other => {
                return refused(
                    Reason::ImageUnsupported,
                    &layer.digest,
                    format!("layers of type `{other}` are not unpacked, only tar and tar with gzip"),
                );
            }
        };
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        let mut packed = packed;
        // What follows the compressed stream belongs to the blob too.
        io::copy(&mut packed, &mut io::sink()).map_err(|error| failed(&layer.digest, &error))?;
        let (_, digest, _) = packed.finish();
        if digest != layer.digest {
            return refused(Reason::ImageContent, &layer.digest, "the layer's bytes do not match its digest");
        }
        if plain != layer.diff_id {
            return refused(
                Reason::ImageContent,
                &layer.digest,
                "the uncompressed layer does not match its diff_id",
            );
        }
        Ok(())
    }

    fn apply_tar(&mut self, layer: &Digest, stream: &mut impl Read) -> Result<(), OciError> {
        let applied = self.apply_entries(stream).and_then(|()| io::copy(stream, &mut io::sink()).map(drop));
        applied.map_err(|error| failed(layer, &error))
    }

    /// Headers of long names are read here and not by the library, which has no limit on them.
    fn apply_entries(&mut self, stream: &mut impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(stream);
        let mut made = BTreeSet::new();
        let mut headers = 0_usize;
        let (mut long_name, mut long_link) = (None, None);
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            headers = headers.saturating_add(1);
            if headers > HEADERS_MAX {
                return Err(too_large("too many headers"));
            }
            match entry.header().entry_type() {
                tar::EntryType::GNULongName => {
                    long_name = Some(small(&mut entry, PATH_BYTES_MAX as u64 + 1)?);
                }
                tar::EntryType::GNULongLink => {
                    long_link = Some(small(&mut entry, PATH_BYTES_MAX as u64 + 1)?);
                }
                tar::EntryType::XGlobalHeader => {}
                tar::EntryType::XHeader => {
                    let records = small(&mut entry, PAX_BYTES_MAX)?;
                    for record in tar::PaxExtensions::new(&records) {
                        let record = record?;
                        match record.key_bytes() {
                            b"path" => long_name = Some(record.value_bytes().to_vec()),
                            b"linkpath" => long_link = Some(record.value_bytes().to_vec()),
                            // The header's own size would say something else: two readers, two archives.
                            b"size" => {
                                return Err(unsupported("a size in an extended header is not supported"));
                            }
                            key if key.starts_with(b"GNU.sparse") => {
                                return Err(unsupported("sparse files are not supported"));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = long_link
                        .take()
                        .or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                    self.apply_entry(&mut entry, &name, link.as_deref(), &mut made)?;
                }
            }
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        name: &[u8],
        link: Option<&[u8]>,
        made: &mut BTreeSet<String>,
    ) -> io::Result<()> {
        let path = clean(name)?;
        self.charge(name.len(), 0)?;
        let Some((folder, last)) = split(&path) else {
            // The root itself: its mode is ours.
            return if entry.header().entry_type().is_dir() {
                Ok(())
            } else {
                Err(invalid("the root is not a folder"))
            };
        };
        let kind = entry.header().entry_type();
        let named = last.strip_prefix(WHITEOUT).unwrap_or(last);
        let parent = match self.folder(folder)? {
            // What is to be mounted over is a folder and stays one, whatever the image wants there.
            Some(_) if folder.is_empty() && self.is_covered(named) && !kind.is_dir() => None,
            parent => parent,
        };
        let Some(parent) = parent else {
            self.left_out = self.left_out.saturating_add(1);
            return Ok(());
        };
        self.check_depth(&parent)?;
        if last == OPAQUE {
            clear(&parent, folder, made)?;
            return self.make_covered();
        }
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden.starts_with(WHITEOUT) || hidden == "." || hidden == ".." {
                return Err(invalid("a whiteout names nothing"));
            }
            // A whiteout hides what lower layers have, not what this one made.
            return if made.contains(&join(folder, hidden)) { Ok(()) } else { remove(&parent, hidden) };
        }
        let existing = kind_of(&parent, last)?;
        if kind.is_dir() && existing == Some(SFlag::S_IFDIR) {
            made.insert(path.clone());
            return Ok(fchmodat(&parent, last, mode(entry.header(), true)?, FchmodatFlags::FollowSymlink)?);
        }
        if !made.insert(path.clone()) {
            return Err(invalid(&format!("`{}` is there twice", path.escape_debug())));
        }
        if existing.is_some() {
            remove(&parent, last)?;
        }
        match kind {
            tar::EntryType::Directory => {
                mkdirat(&parent, last, Mode::S_IRWXU)?;
                fchmodat(&parent, last, mode(entry.header(), true)?, FchmodatFlags::FollowSymlink)?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let permissions = mode(entry.header(), false)?;
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(&parent, last, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
                let size = entry.header().entry_size()?;
                self.charge(0, size)?;
                if io::copy(entry, &mut file)? != size {
                    return Err(invalid("the archive ends inside a file"));
                }
                fchmod(&file, permissions)?;
            }
            tar::EntryType::Symlink => {
                let target = link.ok_or_else(|| invalid("a symbolic link without a target"))?;
                if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) {
                    return Err(invalid("a symbolic link without a usable target"));
                }
                // Kept as it is: it is only ever followed inside the root, here and in the container.
                symlinkat(target, &parent, last)?;
            }
            tar::EntryType::Link => {
                let target = clean(link.ok_or_else(|| invalid("a hard link without a target"))?)?;
                let (folder, name) = split(&target).ok_or_else(|| invalid("a hard link to the root"))?;
                let from = self.existing_folder(folder)?;
                if self.lies_covered(&from)? {
                    let path = path.escape_debug();
                    return Err(unsupported(&format!(
                        "`{path}` is a hard link to something in a folder that is mounted over"
                    )));
                }
                if kind_of(&from, name)? != Some(SFlag::S_IFREG) {
                    return Err(invalid(&format!(
                        "`{}` is a hard link to no file of the image",
                        path.escape_debug()
                    )));
                }
                linkat(&from, name, &parent, last, AtFlags::empty())?;
            }
            _ => {
                let what = match kind {
                    tar::EntryType::Block | tar::EntryType::Char => "a device node",
                    tar::EntryType::Fifo => "a FIFO",
                    _ => "of an unknown kind",
                };
                return Err(unsupported(&format!("`{}` is {what}", path.escape_debug())));
            }
        }
        Ok(())
    }

    /// A folder of the root, links followed inside the root only.
    fn existing_folder(&self, path: &str) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.root, if path.is_empty() { "." } else { path }, how)?)
    }

    /// `true` when the folder lies in one that is mounted over, or is one.
    fn lies_covered(&self, folder: &OwnedFd) -> io::Result<bool> {
        let place = place(folder)?;
        let inside = place.strip_prefix(&self.place).map_err(|_| invalid("a folder left the root"))?;
        let first = inside.components().next().and_then(|first| first.as_os_str().to_str());
        Ok(first.is_some_and(|first| self.is_covered(first)))
    }

    /// Like [`Self::existing_folder`], with what is missing of it made. `None` for one that is mounted over.
    fn folder(&mut self, path: &str) -> io::Result<Option<OwnedFd>> {
        if path.split('/').next().is_some_and(|first| self.is_covered(first)) {
            return Ok(None);
        }
        match self.existing_folder(path) {
            Ok(folder) => return Ok(if self.lies_covered(&folder)? { None } else { Some(folder) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (above, last) = split(path).ok_or_else(|| invalid("the root is gone"))?;
        let Some(parent) = self.folder(above)? else { return Ok(None) };
        self.check_depth(&parent)?;
        self.implied = self.implied.saturating_add(1);
        if self.implied > IMPLIED_MAX {
            return Err(too_large("too many folders have no entry of their own"));
        }
        self.charge(path.len(), 0)?;
        match mkdirat(&parent, last, Mode::from_bits_truncate(0o755)) {
            // A link that leads nowhere: making what it points to is not ours.
            Err(Errno::EEXIST) => {
                return Err(invalid(&format!("`{}` is a broken link", path.escape_debug())));
            }
            other => other?,
        }
        // The umask must not decide who gets in.
        fchmodat(&parent, last, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)?;
        self.existing_folder(path).map(Some)
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
            fchmodat(&self.root, *path, mode, FchmodatFlags::NoFollowSymlink)
                .map_err(|error| failed(path)(error.into()))?;
        }
        for path in files {
            let (folder, last) = split(path).ok_or_else(|| failed(path)(invalid("names no file")))?;
            let parent = self.folder(folder).map_err(failed(path))?;
            // A link to a folder that is mounted over: what would be mounted there would be nowhere.
            let parent = parent.ok_or_else(|| {
                let rule = "it lies in a folder that is mounted over";
                edgewarden_names::Refusal::new(Reason::ImageInvalid, format!("/{path}"), rule)
            })?;
            let kind = kind_of(&parent, last).map_err(failed(path))?;
            if kind.is_some_and(|kind| kind != SFlag::S_IFREG) {
                // A link could lead the mount elsewhere.
                remove(&parent, last).map_err(failed(path))?;
            }
            if kind != Some(SFlag::S_IFREG) {
                let flags =
                    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&parent, last, flags, Mode::S_IRUSR)
                    .map_err(|error| failed(path)(error.into()))?;
                fchmod(&file, Mode::from_bits_truncate(0o444)).map_err(|error| failed(path)(error.into()))?;
            }
        }
        Ok(())
    }
}

/// Removes what lower layers put in a folder.
fn clear(folder: &OwnedFd, path: &str, made: &BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let name = entry?.file_name();
        let name = name.to_str().ok_or_else(|| invalid("a name is not UTF-8"))?;
        let inside = format!("{}/", join(path, name));
        let kept = made.contains(&join(path, name))
            || made.range(inside.clone()..).next().is_some_and(|m| m.starts_with(&inside));
        if !kept {
            remove(folder, name)?;
        }
    }
    Ok(())
}

/// A refusal for the image's fault, or an I/O error for this machine's.
fn failed(layer: &Digest, error: &io::Error) -> OciError {
    const OURS: [Errno; 7] =
        [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE];
    if let Some(number) = error.raw_os_error()
        && OURS.contains(&Errno::from_raw(number))
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

fn invalid(rule: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule)
}

fn small(entry: &mut tar::Entry<'_, impl Read>, bytes_max: u64) -> io::Result<Vec<u8>> {
    if entry.header().entry_size()? > bytes_max {
        return Err(invalid("a name or extended header is too long"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// The path below the root: no leading `/`, no `.`, no empty parts; `..` is refused rather than resolved.
fn clean(name: &[u8]) -> io::Result<String> {
    let name = std::str::from_utf8(name).map_err(|_| invalid("a name is not UTF-8"))?;
    if name.len() > PATH_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(invalid("a name is too long or holds control characters"));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(invalid(&format!("`{}` leads out of its folder", name.escape_debug())));
    }
    if parts.len() > DEPTH_MAX {
        return Err(invalid("folders are nested too deeply"));
    }
    Ok(parts.join("/"))
}

fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() { None } else { Some(path.rsplit_once('/').unwrap_or(("", path))) }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}") }
}

/// The path of an open folder, as the kernel sees it.
fn place(folder: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn kind_of(parent: &impl AsFd, name: &str) -> io::Result<Option<SFlag>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes one name and what is below it; never follows a link. That there is none is no error.
fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match kind_of(parent, name)? {
        None => Ok(()),
        Some(SFlag::S_IFDIR) => {
            std::fs::remove_dir_all(format!("/proc/self/fd/{}/{name}", parent.as_raw_fd()))
        }
        Some(_) => Ok(unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?),
    }
}

/// Readable and not writable, without set-user-ID, set-group-ID and sticky bits.
fn mode(header: &tar::Header, folder: bool) -> io::Result<Mode> {
    let mut mode = header.mode()? & 0o555;
    if header.uid()? != 0 {
        mode |= (mode >> 6) & 0o5;
    }
    if folder {
        // Root must get in to check the tree, and a folder that nobody may enter only hides things.
        mode |= 0o500;
    }
    Ok(Mode::from_bits_truncate(mode | 0o400))
}
