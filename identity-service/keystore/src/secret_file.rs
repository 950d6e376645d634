//! A secret that an operator put in a file: the passphrase of a key file, the PIN of a token.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::KeystoreError;

/// Most bytes of a secret.
const BYTES_MAX: usize = 1024;
/// Read or write by anyone but owner and group.
const OTHERS: u32 = 0o007;
/// Write by the group.
const GROUP_WRITES: u32 = 0o020;
/// Read or write by anyone but the owner.
const NOT_OWNER: u32 = 0o077;

/// Demands on a secret's file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// Name in errors.
    name: &'static str,
    refused_mode: u32,
    /// Shorter ones are refused as `too_short`.
    bytes_min: usize,
    too_short: &'static str,
}

/// Shorter passphrases are guessed, iterations or not.
pub(crate) const PASSPHRASE: Kind = Kind {
    name: "passphrase",
    refused_mode: OTHERS | GROUP_WRITES,
    bytes_min: 12,
    too_short: "has fewer than 12 characters",
};

/// The token itself says how long its PINs are.
pub(crate) const PIN: Kind =
    Kind { name: "PIN", refused_mode: NOT_OWNER, bytes_min: 1, too_short: "is empty" };

/// An open file, whose permissions are right.
pub(crate) struct SecretFile<'a> {
    path: &'a Path,
    kind: Kind,
    file: File,
    pub(crate) metadata: Metadata,
}

impl<'a> SecretFile<'a> {
    /// The permissions are of the file that is read, not of one that had the name before.
    pub(crate) fn open(path: &'a Path, kind: Kind) -> Result<Self, KeystoreError> {
        let failed = |source| KeystoreError::File { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let opened = Self { path, kind, file, metadata };
        if !opened.metadata.is_file() {
            return Err(opened.wrong("is not a regular file"));
        }
        if opened.metadata.mode() & kind.refused_mode != 0 {
            return Err(opened.wrong("can be read or written by others; run `chmod 0600` on it"));
        }
        Ok(opened)
    }

    pub(crate) fn wrong(&self, problem: &'static str) -> KeystoreError {
        KeystoreError::SecretFile { kind: self.kind.name, path: self.path.to_owned(), problem }
    }

    /// The file's contents without the line end.
    pub(crate) fn read(self) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        // As large as can be from the start: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 1));
        (&self.file)
            .take(BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| KeystoreError::File { path: self.path.to_owned(), source })?;
        if bytes.len() > BYTES_MAX {
            return Err(self.wrong("has more than 1024 bytes"));
        }
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.len() < self.kind.bytes_min {
            return Err(self.wrong(self.kind.too_short));
        }
        Ok(bytes)
    }
}
