//! The digest of a whole file tree: names, kinds, modes, owners, link targets and contents.
//!
//! It answers one question: is this root file system still what was unpacked from verified layers?

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use edgewarden_names::Digest;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::OciError;
use crate::hashing::Hasher;

/// Folders, with their modes, that the runtime mounts over in each container: nothing of an image lies there.
pub(crate) const MOUNT_FOLDERS: &[(&str, u32)] =
    &[("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("tmp", 0o1777)];
/// The folder in which the runtime mounts. It has what the image has there, and is a folder of its own in each image: a
/// link would lead the mounts elsewhere.
pub(crate) const RUN: &str = "run";

/// Walks `root` in the order of names. Times and link counts do not count.
pub(crate) fn digest(root: &Path) -> Result<Digest, OciError> {
    let mut hasher = Hasher::new();
    walk(&mut hasher, root, Path::new("")).map_err(OciError::io(format!("read `{}`", root.display())))?;
    Ok(hasher.finish())
}

/// The folder at this path of an unpacked image, as a path without links. Links are followed inside the image only, and
/// what lies where the runtime mounts is nothing, so that `/proc/self/fd/7` and links to it are nothing: what a runtime
/// finds there would not be the image's (CVE-2024-21626). `/tmp` alone, which is empty and the module's own, is a folder.
pub fn folder(root: &Path, path: &str) -> Option<String> {
    let (_, place) = resolve(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
    (place == "/tmp" || !is_covered(&place)).then_some(place)
}

/// Like [`folder`], for one that is to be made where the image has none: its place, below the folders that there are.
pub fn folder_to_be(root: &Path, path: &str) -> Option<String> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    for above in path.ancestors() {
        let missing = path.strip_prefix(above).ok()?.to_str()?;
        match resolve(root, above.to_str()?, OFlag::O_PATH) {
            Ok((_, place)) if missing.is_empty() => return folder(root, &place),
            Ok(_) => {
                let place = folder(root, above.to_str()?).filter(|_| plain)?;
                // A link that leads nowhere here may lead somewhere in the container.
                let first = above.join(Path::new(missing).components().next()?);
                if resolve(root, first.to_str()?, OFlag::O_PATH | OFlag::O_NOFOLLOW).is_ok() {
                    return None;
                }
                return Some(format!("{}/{missing}", place.trim_end_matches('/')));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    None
}

/// The file at this path of an unpacked image, open for reading. As for folders.
pub fn file(root: &Path, path: &str) -> Option<File> {
    // Nothing else than files is read, and a FIFO that somebody put there must not hang us.
    let (file, place) = resolve(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?;
    let file = File::from(file);
    (!is_covered(&place) && file.metadata().is_ok_and(|metadata| metadata.is_file())).then_some(file)
}

/// `true` when the folders where the runtime mounts are as unpacking leaves them: empty. Anything in them would lead a
/// path elsewhere than the same path leads in the container.
pub fn mount_folders_are_empty(root: &Path) -> bool {
    let run = root.join(RUN).symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    run && MOUNT_FOLDERS.iter().all(|(name, _)| {
        let path = root.join(name);
        path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
            && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
    })
}

fn is_covered(place: &str) -> bool {
    let first = place.split('/').nth(1);
    first.is_some_and(|first| first == RUN || MOUNT_FOLDERS.iter().any(|(name, _)| *name == first))
}

/// The file at a path, opened, and its place below `root`.
fn resolve(root: &Path, path: &str, flags: OFlag) -> std::io::Result<(OwnedFd, String)> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(&root, path, how)?;
    let place = |number: i32| std::fs::read_link(format!("/proc/self/fd/{number}"));
    let (above, place) = (place(root.as_raw_fd())?, place(found.as_raw_fd())?);
    let below = place.strip_prefix(above).ok().and_then(Path::to_str);
    let below = below.ok_or_else(|| std::io::Error::other("it is not below the root"))?;
    Ok((found, format!("/{below}")))
}

/// Each part is preceded by its length, so that no two trees have one encoding.
fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

fn walk(hasher: &mut Hasher, root: &Path, below: &Path) -> std::io::Result<()> {
    let path = root.join(below);
    let metadata = path.symlink_metadata()?;
    field(hasher, below.as_os_str().as_bytes());
    field(hasher, format!("{:o} {} {}", metadata.mode(), metadata.uid(), metadata.gid()).as_bytes());
    let kind = metadata.file_type();
    if kind.is_symlink() {
        field(hasher, std::fs::read_link(&path)?.as_os_str().as_bytes());
    } else if kind.is_dir() {
        let mut names = std::fs::read_dir(&path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        hasher.update(&(names.len() as u64).to_be_bytes());
        for name in names {
            walk(hasher, root, &below.join(name))?;
        }
    } else if kind.is_file() {
        hasher.update(&metadata.len().to_be_bytes());
        let mut file = File::open(&path)?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = std::io::Read::read(&mut file, &mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).ok_or(std::io::ErrorKind::InvalidData)?);
        }
    } else {
        // Unpacking makes no other kind: whatever this is, it was not verified.
        let what = if kind.is_fifo() { "a FIFO" } else { "a device or socket" };
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("`{}` is {what}", below.display()),
        ));
    }
    Ok(())
}
