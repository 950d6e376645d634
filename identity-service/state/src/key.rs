//! The key that proves the documents: sealed in the keystore, made together with the first documents.

use edgewarden_keystore::{Keystore, KeystoreError};
use zeroize::Zeroizing;

/// Name of the key in the keystore.
const NAME: &str = "identityd-state";

/// Keeper of the key.
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
