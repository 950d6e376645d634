//! Where the key is that proves the documents: sealed in the keystore, made together with the first documents.

use edgewarden_keystore::{Keystore, KeystoreError};
use zeroize::Zeroizing;

/// What the keystore calls it.
const NAME: &str = "identityd-state";

/// Who keeps the key.
pub trait KeyKeeper {
    /// `None` only when there surely is none.
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError>;
    /// In the place of any other.
    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError>;
}

impl KeyKeeper for &dyn Keystore {
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
        match self.unseal(NAME) {
            Ok(key) => Ok(Some(key)),
            Err(KeystoreError::NotSealed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError> {
        self.seal(NAME, key)
    }
}

/// A key in a file, for tests that cut the power: its file is cut as the documents are.
#[cfg(test)]
#[derive(Debug)]
pub struct FileKey(pub std::path::PathBuf);

#[cfg(test)]
impl KeyKeeper for FileKey {
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
        let found = edgewarden_platform::durable::read(&self.0, 64);
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        Ok(found.map_err(failed)?.map(Zeroizing::new))
    }

    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError> {
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        edgewarden_platform::durable::write(&self.0, key, 0o600).map_err(failed)
    }
}
