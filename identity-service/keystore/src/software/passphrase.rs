use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::KeystoreError;

/// Shorter ones are guessed, iterations or not.
const PASSPHRASE_BYTES_MIN: usize = 12;
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Read or write by anyone but owner and group.
const OTHERS: u32 = 0o007;
/// Write by the group.
const GROUP_WRITES: u32 = 0o020;

/// The passphrase: the file's contents without the line end. The permissions are of the file that is read, not of
/// one that had the name before.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = |source| KeystoreError::File { path: path.to_owned(), source };
    let wrong = |problem| KeystoreError::PassphraseFile { path: path.to_owned(), problem };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file"));
    }
    if metadata.mode() & (OTHERS | GROUP_WRITES) != 0 {
        return Err(wrong("can be read or written by others; run `chmod 0600` on it"));
    }
    // As large as can be from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    let limit = u64::try_from(PASSPHRASE_BYTES_MAX + 1).unwrap_or_default();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > PASSPHRASE_BYTES_MAX {
        return Err(wrong("has more than 1024 bytes"));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.len() < PASSPHRASE_BYTES_MIN {
        return Err(wrong("has fewer than 12 characters"));
    }
    Ok(bytes)
}
