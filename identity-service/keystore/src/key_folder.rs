//! The folder of resident keys: a file for each, which says that the key is there and holds what finds it again.
//!
//! A key exists exactly when its file does. The file is written whole and last, and removed first, so a crash leaves a
//! whole key or none. Holds nothing secret. Distrusts its contents: each store checks what it reads.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use edgewarden_platform::durable;

use crate::contract::RESIDENT_KEYS_MAX;
use crate::error::KeystoreError;

/// More than a key needs.
const FILE_BYTES_MAX: usize = 4096;

pub(crate) struct KeyFolder {
    path: PathBuf,
    /// Ends the names of one kind of store's files.
    kind: &'static str,
    /// Held from the check that a name is free until it is taken.
    changing: Mutex<()>,
}

impl KeyFolder {
    pub(crate) fn open(state: &Path, kind: &'static str) -> Result<Self, KeystoreError> {
        let path = state.join("keys");
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        match made.and_then(|()| durable::sweep(&path)) {
            Ok(_) => Ok(Self { path, kind, changing: Mutex::new(()) }),
            Err(source) => Err(KeystoreError::File { path, source }),
        }
    }

    /// `name` is a label (`crate::name`), so it stays in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.{}", self.kind))
    }

    /// The disk is the truth, so a panic leaves nothing half changed.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when no key of that name may be made: the name is taken or the folder is full.
    pub(crate) fn check_free(&self, name: &str) -> Result<(), KeystoreError> {
        let path = self.path(name);
        if path.symlink_metadata().is_ok() {
            return Err(KeystoreError::KeyExists(name.to_owned()));
        }
        let failed = |source| KeystoreError::File { path: self.path.clone(), source };
        let suffix = format!(".{}", self.kind);
        let mut keys = 0;
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            keys += usize::from(name.to_str().is_some_and(|name| name.ends_with(&suffix)));
        }
        if keys >= RESIDENT_KEYS_MAX {
            return Err(KeystoreError::TooManyKeys { max: RESIDENT_KEYS_MAX });
        }
        Ok(())
    }

    /// Takes the name.
    pub(crate) fn add(&self, name: &str, blob: &[u8]) -> Result<(), KeystoreError> {
        let _changing = self.lock();
        self.check_free(name)?;
        let path = self.path(name);
        durable::write(&path, blob, 0o600).map_err(|source| KeystoreError::File { path, source })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let path = self.path(name);
        durable::read(&path, FILE_BYTES_MAX)
            .map_err(|source| KeystoreError::File { path, source })?
            .ok_or_else(|| KeystoreError::NoKey(name.to_owned()))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), KeystoreError> {
        let _changing = self.lock();
        let path = self.path(name);
        durable::remove(&path).map_err(|source| KeystoreError::File { path, source })
    }
}
