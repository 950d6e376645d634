//! Files that an operator gave: bounded, regular, and not open to others when they hold a secret.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Read or write by anyone but owner and group, or write by the group.
const OPEN_TO_OTHERS: u32 = 0o027;
/// Write by anyone.
const WRITABLE_BY_ALL: u32 = 0o002;

/// Any access by the group or by others.
const NOT_OWNER: u32 = 0o077;

/// Kind of an operator's file: `Secret` must not be readable by others; `Own` belongs to root or to the process's user, and
/// not even the group may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    Public,
    Secret,
    Own,
}

/// Error of an operator's file: unreadable, or not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` {problem}", path.display())]
    Wrong { path: PathBuf, problem: &'static str },
}

/// The permissions are of the file that is read, not of one that had the name before.
pub fn read(path: &Path, bytes_max: usize, secrecy: Secrecy) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let wrong = |problem| FileError::Wrong { path: path.to_owned(), problem };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file"));
    }
    if secrecy == Secrecy::Secret && metadata.mode() & OPEN_TO_OTHERS != 0 {
        return Err(wrong("can be read or written by others; run `chmod 0600` on it"));
    }
    if secrecy == Secrecy::Own {
        if metadata.mode() & NOT_OWNER != 0 {
            return Err(wrong("is open to its group or to others; run `chmod 0600` on it"));
        }
        if metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(wrong("belongs to another user; run `chown` on it"));
        }
    }
    if metadata.mode() & WRITABLE_BY_ALL != 0 {
        return Err(wrong("can be written by everybody; run `chmod o-w` on it"));
    }
    // As large as can be from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max.saturating_add(1)));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > bytes_max {
        return Err(wrong("is too long"));
    }
    Ok(bytes)
}
