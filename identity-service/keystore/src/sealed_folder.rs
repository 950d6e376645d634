//! The folder of sealed values: a file for each, which only its store can open.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use edgewarden_platform::durable;

use crate::error::KeystoreError;

/// More than a sealed value needs.
const FILE_BYTES_MAX: usize = 4096;

pub(crate) struct SealedFolder {
    path: PathBuf,
    /// Ends the names of one kind of store's files.
    kind: &'static str,
}

impl SealedFolder {
    pub(crate) fn open(state: &Path, kind: &'static str) -> Result<Self, KeystoreError> {
        let path = state.join("sealed");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        match made.and_then(|()| durable::sweep(&path)) {
            Ok(_) => Ok(Self { path, kind }),
            Err(source) => Err(KeystoreError::File { path, source }),
        }
    }

    /// `name` is a label (`crate::name`), so it stays in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.{}", self.kind))
    }

    pub(crate) fn write(&self, name: &str, blob: &[u8]) -> Result<(), KeystoreError> {
        let path = self.path(name);
        durable::write(&path, blob, 0o600).map_err(|source| KeystoreError::File { path, source })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), KeystoreError> {
        let path = self.path(name);
        durable::remove(&path).map_err(|source| KeystoreError::File { path, source })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let path = self.path(name);
        durable::read(&path, FILE_BYTES_MAX)
            .map_err(|source| KeystoreError::File { path, source })?
            .ok_or_else(|| KeystoreError::NotSealed(name.to_owned()))
    }
}
