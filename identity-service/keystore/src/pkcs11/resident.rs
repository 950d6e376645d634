//! Resident keys: signing keys of the token, made there like the gateway's own, under labels with their names.
//!
//! A key is there when the folder has its record, which is written after the key was made and removed before it is
//! destroyed. What the token has under such a label without a record was left by a crash (or belongs to a state folder
//! that was lost): no name means it, and making a key of that name anew replaces it.

use super::fault::Fault;
use super::keys::{Shelf, SigningKey};
use crate::error::KeystoreError;

/// Before the name, in label and CKA_ID.
const LABEL: &str = "edgewarden-resident-key-1-";
/// First line of a record; the public point follows in hexadecimal.
const MAGIC: &str = "edgewarden pkcs11 key 1\n";

fn label(name: &str) -> String {
    format!("{LABEL}{name}")
}

/// The record of a key.
pub(super) fn record(point: &[u8]) -> Vec<u8> {
    format!("{MAGIC}{}\n", hex::encode(point)).into_bytes()
}

/// The point in a record.
fn recorded(record: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(record).ok()?;
    let point = hex::decode(text.strip_prefix(MAGIC)?.strip_suffix('\n')?).ok()?;
    (self::record(&point) == record).then_some(point)
}

/// A new key's point. What a crash left under the name goes first.
pub(super) fn create(shelf: &Shelf<'_>, name: &str) -> Result<Vec<u8>, Fault> {
    let label = label(name);
    shelf.destroy(&label)?;
    Ok(shelf.found_or_made(&label)?.point)
}

pub(super) fn destroy(shelf: &Shelf<'_>, name: &str) -> Result<(), Fault> {
    shelf.destroy(&label(name))
}

/// A resident key's record.
pub(super) struct KeyFile {
    pub(super) name: String,
    pub(super) record: Vec<u8>,
    pub(super) path: std::path::PathBuf,
}

impl KeyFile {
    fn point(&self) -> Result<Vec<u8>, Fault> {
        recorded(&self.record).ok_or_else(|| {
            KeystoreError::Corrupted { path: self.path.clone(), found: "not the form of a key's record" }
                .into()
        })
    }

    /// The public point, after the token has shown that it has that key, whole.
    pub(super) fn public(&self, objects: &Shelf<'_>) -> Result<Vec<u8>, Fault> {
        let (label, point) = (label(&self.name), self.point()?);
        let key = objects.signing_key(&label)?.ok_or_else(|| objects.missing(&label))?;
        if key.point == point {
            return Ok(point);
        }
        Err(KeystoreError::OtherKey { token: objects.token.to_owned(), key: label, path: self.path.clone() }
            .into())
    }

    /// Signs a SHA-256 digest; DER. Whoever asked verifies it by the public point.
    pub(super) fn sign(&self, objects: &Shelf<'_>, hash: &[u8]) -> Result<Vec<u8>, Fault> {
        let point = self.point()?;
        let handle = objects.signing_half(&label(&self.name))?;
        SigningKey { handle, point }.sign(objects.session, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_strictly() {
        let good = record(&[4, 0xab]);
        assert_eq!(recorded(&good), Some(vec![4, 0xab]));
        for length in 0..good.len() {
            assert_eq!(recorded(&good[..length]), None, "{length}");
        }
        assert_eq!(recorded(&[&good[..], b"\n"].concat()), None);
        assert_eq!(recorded(&good.to_ascii_uppercase()), None);
        assert_eq!(recorded(format!("{MAGIC}04AB\n").as_bytes()), None);
    }
}
