//! Another passphrase for the key file.

use std::path::Path;

use super::file::{KeyFile, key_file};
use crate::error::KeystoreError;
use crate::secret_file::{PASSPHRASE, SecretFile};

/// Encrypts the keys of a store under the passphrase in another file. Nobody may have the store open.
///
/// The key file is under one passphrase or under the other, whenever the power goes. Said again after it was cut off, or
/// after it was done, it is done.
pub fn change(state: &Path, passphrase_file: &Path, new_file: &Path) -> Result<(), KeystoreError> {
    let path = key_file(state);
    let new = SecretFile::open(new_file, PASSPHRASE)?.read()?;
    match KeyFile::open(&path, &new) {
        Ok((_, Some(_))) => return Ok(()),
        Ok((_, None)) => return Err(KeystoreError::Corrupted { path, found: "never been made" }),
        Err(KeystoreError::Passphrase { .. }) => {}
        Err(error) => return Err(error),
    }
    let old = SecretFile::open(passphrase_file, PASSPHRASE)?.read()?;
    let (_, values) = KeyFile::open(&path, &old)?;
    let values = values.ok_or(KeystoreError::Corrupted { path: path.clone(), found: "gone meanwhile" })?;
    KeyFile::new(&path, &new)?.replace(&values)
}
