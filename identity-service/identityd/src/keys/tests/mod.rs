//! Keys over a power cut, and in a crowd.

#[cfg(debug_assertions)]
mod crashes;
#[cfg(debug_assertions)]
mod crowd;

use std::path::{Path, PathBuf};

use edgewarden_keystore::KeystoreError;
use edgewarden_platform::durable;
use edgewarden_state::{KeyKeeper, StateError, Store};
use zeroize::Zeroizing;

use crate::run::first_documents;

/// A key in a file beside the documents: a cut of the power is one of it too.
struct FileKey(PathBuf);

impl KeyKeeper for FileKey {
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
        let found = durable::read(&self.0, 64);
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        Ok(found.map_err(failed)?.map(Zeroizing::new))
    }

    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError> {
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        durable::write(&self.0, key, 0o600).map_err(failed)
    }
}

pub(super) fn store(folder: &Path) -> Result<Store, StateError> {
    Store::open(folder, &first_documents().unwrap(), &FileKey(folder.join("state-key")), None)
}
