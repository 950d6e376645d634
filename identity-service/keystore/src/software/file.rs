//! The encrypted file: named values under AES-256-GCM, with a key from the passphrase.
//!
//! ```text
//! magic  "edgewarden keys 1\n"
//! u32    PBKDF2-HMAC-SHA256 iterations, big-endian
//! [16]   salt
//! [12]   nonce, new at each write
//! …      ciphertext and tag over: (u8 name length, name, u16 value length, value)*
//! ```
//! Everything before the ciphertext is authenticated with it. The iterations are checked against a range before they
//! are worked through, for they are read before they can be authenticated.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{pbkdf2, rand};
use edgewarden_platform::durable;
use zeroize::Zeroizing;

use crate::contract::RESIDENT_KEYS_MAX;
use crate::error::KeystoreError;

const MAGIC: &[u8; 18] = b"edgewarden keys 1\n";
const SALT_BYTES: usize = 16;
/// OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256.
const ITERATIONS: u32 = 600_000;
const ITERATIONS_MIN: u32 = 100_000;
const ITERATIONS_MAX: u32 = 10_000_000;
/// Most values: resident keys, and more sealed values than there are uses for.
const VALUES_MAX: usize = RESIDENT_KEYS_MAX + 256;
/// A value takes 3 bytes, its name and at most 138 (a key): names are below 80.
const FILE_BYTES_MAX: usize = 512 * 1024;
const HEADER_BYTES: usize = MAGIC.len() + 4 + SALT_BYTES;

pub(super) type Values = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Path of the file in the folder of a store.
pub(super) fn key_file(state: &Path) -> PathBuf {
    state.join("software-keys")
}

/// The file and the key that opens it.
pub(super) struct KeyFile {
    path: PathBuf,
    header: [u8; HEADER_BYTES],
    key: LessSafeKey,
}

impl KeyFile {
    /// Opens the file, or makes the means to write it when there is none (then the values are `None`).
    pub(super) fn open(path: &Path, passphrase: &[u8]) -> Result<(Self, Option<Values>), KeystoreError> {
        let found = durable::read(path, FILE_BYTES_MAX)
            .map_err(|source| KeystoreError::File { path: path.to_owned(), source })?;
        let Some(bytes) = found else { return Ok((Self::new(path, passphrase)?, None)) };
        let corrupted = |found| KeystoreError::Corrupted { path: path.to_owned(), found };
        let rest =
            bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(|| corrupted("not the form of a key file"))?;
        let short = || corrupted("been cut short");
        let (iterations, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>().ok_or_else(short)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(short)?;
        let iterations = u32::from_be_bytes(*iterations);
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(corrupted("a number of iterations out of range"));
        }
        let file = Self::derive(path, iterations, *salt, passphrase)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let plain = file
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(file.header.as_slice()),
                &mut buffer,
            )
            .map_err(|_| KeystoreError::Passphrase { path: path.to_owned() })?;
        let values = decode(plain).ok_or_else(|| corrupted("contents of another form"))?;
        Ok((file, Some(values)))
    }

    /// The means to write the file under a passphrase, with a salt of its own.
    pub(super) fn new(path: &Path, passphrase: &[u8]) -> Result<Self, KeystoreError> {
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| KeystoreError::Answer("the random number generator failed"))?;
        Self::derive(path, ITERATIONS, salt, passphrase)
    }

    fn derive(
        path: &Path,
        iterations: u32,
        salt: [u8; SALT_BYTES],
        passphrase: &[u8],
    ) -> Result<Self, KeystoreError> {
        let wrong = || KeystoreError::Answer("the key of the key file cannot be derived");
        let mut key = Zeroizing::new([0; 32]);
        let rounds = NonZeroU32::new(iterations).ok_or_else(wrong)?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, passphrase, key.as_mut_slice());
        let mut header = [0; HEADER_BYTES];
        for (to, from) in
            header.iter_mut().zip(MAGIC.iter().copied().chain(iterations.to_be_bytes()).chain(salt))
        {
            *to = from;
        }
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map(LessSafeKey::new).map_err(|_| wrong())?;
        Ok(Self { path: path.to_owned(), header, key })
    }

    /// Puts `values` in place of what the file holds.
    pub(super) fn write(&self, values: &Values) -> Result<(), KeystoreError> {
        let bytes = self.encrypt(values)?;
        durable::write(&self.path, &bytes, 0o600).map_err(|source| self.failed(source))
    }

    /// The same for root: the file stays its owner's.
    pub(super) fn replace(&self, values: &Values) -> Result<(), KeystoreError> {
        let bytes = self.encrypt(values)?;
        durable::replace(&self.path, &bytes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> KeystoreError {
        KeystoreError::File { path: self.path.clone(), source }
    }

    fn encrypt(&self, values: &Values) -> Result<Vec<u8>, KeystoreError> {
        if values.len() > VALUES_MAX {
            return Err(KeystoreError::Request("the store holds at most 1280 values"));
        }
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| KeystoreError::Answer("the random number generator failed"))?;
        let mut buffer = encode(values)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.header.as_slice()),
                buffer.as_mut_slice(),
            )
            .map_err(|_| KeystoreError::Answer("the key file cannot be encrypted"))?;
        Ok([self.header.as_slice(), &nonce, &buffer, tag.as_ref()].concat())
    }
}

fn encode(values: &Values) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let too_long = || KeystoreError::Request("a value is too long");
    // The right size at once: a buffer that grows leaves copies of keys behind.
    let size = values.iter().map(|(name, value)| 3 + name.len() + value.len()).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in values {
        bytes.push(u8::try_from(name.len()).map_err(|_| too_long())?);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&u16::try_from(value.len()).map_err(|_| too_long())?.to_be_bytes());
        bytes.extend_from_slice(value);
    }
    Ok(bytes)
}

fn decode(mut bytes: &[u8]) -> Option<Values> {
    let mut values = Values::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        if values.len() == VALUES_MAX || values.insert(name, Zeroizing::new(value.to_vec())).is_some() {
            return None;
        }
        bytes = rest;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_strictly() {
        let values: Values = [("a", vec![1, 2]), ("b", vec![])]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Zeroizing::new(value)))
            .collect();
        let bytes = encode(&values).unwrap();
        assert!(decode(&bytes) == Some(values));
        for length in 1..bytes.len() {
            // Cut between two values it is a shorter list: the tag is what protects the length.
            assert!(length == 6 || decode(&bytes[..length]).is_none(), "{length}");
        }
        assert!(decode(&[&bytes[..], &bytes[..]].concat()).is_none());
    }
}
