//! Small documents, encrypted and authenticated with the storage key, each in its own file.
//!
//! ```text
//! "EWSEALD1" salt[32] ciphertext tag[16]
//! ```
//!
//! The key is derived from a new salt and the document's name, so that one document does not pass for another. Who can
//! write to the disk can put an older one back.

use std::path::Path;

use zeroize::Zeroizing;

use crate::error::QueueError;
use crate::format::{Fields, SALT_BYTES};
use crate::keys::{StorageKey, TAG_BYTES, random};

const MAGIC: &[u8; 8] = b"EWSEALD1";
const PURPOSE: &[u8] = b"edgewarden sealed document v1";
/// Bytes that sealing adds to a document.
pub const OVERHEAD_BYTES: usize = 8 + SALT_BYTES + TAG_BYTES;

/// Seals and opens documents.
#[derive(Debug)]
pub struct Sealer(StorageKey);

impl Sealer {
    /// A sealer under a storage key of 256 bits.
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(StorageKey(key))
    }

    /// `None` when the system has no randomness.
    pub fn seal(&self, name: &str, document: &[u8]) -> Option<Vec<u8>> {
        let salt: [u8; SALT_BYTES] = random().ok()?;
        let key = self.0.derive(&salt, &[PURPOSE, name.as_bytes()]).ok()?;
        let mut ciphertext = document.to_vec();
        let tag = key.seal(0, MAGIC, &mut ciphertext).ok()?;
        Some([&MAGIC[..], &salt, &ciphertext, &tag].concat())
    }

    /// The document of this name. `path` is for the error.
    pub fn open(&self, name: &str, path: &Path, bytes: &[u8]) -> Result<Vec<u8>, QueueError> {
        let damaged = |what| QueueError::damaged(path, 0, what);
        let mut fields = Fields(bytes);
        let (magic, salt) = (fields.array(), fields.array::<SALT_BYTES>());
        let (Some(MAGIC), Some(salt)) = (magic.as_ref(), salt) else {
            return Err(damaged("it is no document of this version"));
        };
        let key = self.0.derive(&salt, &[PURPOSE, name.as_bytes()]).map_err(|_| QueueError::Stopped)?;
        let mut ciphertext = fields.0.to_vec();
        let document = key.open(0, MAGIC, &mut ciphertext);
        Ok(document.map_err(|_| damaged("it is not what was written"))?.to_vec())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_document_opens_whole_under_its_own_name_and_key_only() {
        let sealer = Sealer::new(Zeroizing::new([1; 32]));
        let path = Path::new("x");
        let bytes = sealer.seal("a", b"secret").unwrap();
        assert_eq!(bytes.len(), OVERHEAD_BYTES + 6);
        assert_eq!(sealer.open("a", path, &bytes).unwrap(), b"secret");
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealer.seal("a", b"secret").unwrap(), bytes);
        assert!(sealer.open("b", path, &bytes).is_err());
        assert!(Sealer::new(Zeroizing::new([2; 32])).open("a", path, &bytes).is_err());
        for at in 0..bytes.len() {
            assert!(sealer.open("a", path, &bytes[..at]).is_err(), "cut at {at}");
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(sealer.open("a", path, &changed).is_err(), "changed at {at}");
        }
    }
}
