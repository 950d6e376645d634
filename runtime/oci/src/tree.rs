//! The digest of a whole file tree: names, kinds, modes, owners, link targets and contents.
//!
//! It answers one question: is this root file system still what was unpacked from verified layers?

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use edgewarden_names::Digest;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::OciError;
use crate::hashing::Hasher;

/// Walks `root` in the order of names. Times and link counts do not count.
pub(crate) fn digest(root: &Path) -> Result<Digest, OciError> {
    let mut hasher = Hasher::new();
    walk(&mut hasher, root, Path::new("")).map_err(OciError::io(format!("read `{}`", root.display())))?;
    Ok(hasher.finish())
}

/// Is there a folder at this path of an unpacked image? Links are followed inside the image only, so that `/proc/self/fd/7`
/// and links to it are nothing: what a runtime finds there would not be the image's (CVE-2024-21626).
pub fn has_folder(root: &Path, path: &str) -> bool {
    resolve(root, path, OFlag::O_DIRECTORY).is_ok()
}

/// Is there a file at this path of an unpacked image? As for folders.
pub fn has_file(root: &Path, path: &str) -> bool {
    resolve(root, path, OFlag::empty())
        .is_ok_and(|file| std::fs::File::from(file).metadata().is_ok_and(|metadata| metadata.is_file()))
}

fn resolve(root: &Path, path: &str, flags: OFlag) -> std::io::Result<OwnedFd> {
    let root = std::fs::File::open(root)?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&root, path, how)?)
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
        let mut file = std::fs::File::open(&path)?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = std::io::Read::read(&mut file, &mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
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
