//! Sealed values: AES-256-GCM under a key that stays in the token, in files.
//!
//! ```text
//! magic  "edgewarden pkcs11 sealed 1\n"
//! [12]   nonce, random
//! …      ciphertext and tag
//! ```
//! Magic and the value's name are authenticated with it, so that files cannot be swapped for one another. Random
//! nonces under one key are safe for 2^32 values (NIST SP 800-38D, section 8.3), which no gateway seals in its life.

use std::path::Path;

use aws_lc_rs::rand;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use zeroize::Zeroizing;

use super::fault::{Fault, fault};
use crate::error::KeystoreError;

const MAGIC: &[u8] = b"edgewarden pkcs11 sealed 1\n";
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const TAG_BITS: u64 = 128;
/// Name that the record's check is sealed under: no value has it.
const CHECK_NAME: &str = "/check";
const CHECK: &[u8] = b"edgewarden sealing key";

fn authenticated(name: &str) -> Vec<u8> {
    [MAGIC, name.as_bytes()].concat()
}

pub(super) fn seal(
    session: &Session,
    key: ObjectHandle,
    name: &str,
    secret: &[u8],
) -> Result<Vec<u8>, Fault> {
    let mut nonce = [0; NONCE_BYTES];
    rand::fill(&mut nonce).map_err(|_| KeystoreError::Answer("the random number generator failed"))?;
    // The token gets a copy: what it writes back does not change what is kept.
    let mut given = nonce;
    let name = authenticated(name);
    let parameters = GcmParams::new(&mut given, &name, TAG_BITS.into()).map_err(fault)?;
    let sealed = session.encrypt(&Mechanism::AesGcm(parameters), key, secret).map_err(fault)?;
    if sealed.len() != secret.len() + TAG_BYTES {
        return Err(KeystoreError::Answer("a sealed value has another length than it should").into());
    }
    if given != nonce {
        return Err(KeystoreError::Answer("the token took another nonce than it was given").into());
    }
    Ok([MAGIC, &nonce, &sealed].concat())
}

fn parts(blob: &[u8]) -> Option<([u8; NONCE_BYTES], &[u8])> {
    let (nonce, sealed) = blob.strip_prefix(MAGIC)?.split_first_chunk::<NONCE_BYTES>()?;
    (sealed.len() > TAG_BYTES).then_some((*nonce, sealed))
}

fn open(
    session: &Session,
    key: ObjectHandle,
    name: &str,
    (mut nonce, sealed): ([u8; NONCE_BYTES], &[u8]),
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let name = authenticated(name);
    let parameters = GcmParams::new(&mut nonce, &name, TAG_BITS.into())?;
    session.decrypt(&Mechanism::AesGcm(parameters), key, sealed).map(Zeroizing::new)
}

/// `true` for the answers that tokens give to a wrong tag. Some say "general error", so the answer alone does not tell
/// whose fault it is.
fn may_be_forged(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::SignatureInvalid
                | RvError::ArgumentsBad
                | RvError::GeneralError
                | RvError::FunctionFailed
                | RvError::DeviceError
                | RvError::VendorDefined(_),
            _,
        )
    )
}

pub(super) fn unseal(
    session: &Session,
    key: ObjectHandle,
    name: &str,
    blob: &[u8],
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let corrupted = |found| Fault::Final(KeystoreError::Corrupted { path: path.to_owned(), found });
    let parts = parts(blob).ok_or_else(|| corrupted("not the form of a sealed value"))?;
    open(session, key, name, parts).map_err(|error| {
        // A token that seals and opens something else right now says that it is the file.
        if may_be_forged(&error) && works(session, key) {
            corrupted("been sealed by another key or under another name, or been changed")
        } else {
            fault(error)
        }
    })
}

fn works(session: &Session, key: ObjectHandle) -> bool {
    make_check(session, key).and_then(|check| opens_check(session, key, &check)).unwrap_or(false)
}

/// A blob that tells later whether the key is still the same.
pub(super) fn make_check(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, Fault> {
    seal(session, key, CHECK_NAME, CHECK)
}

pub(super) fn opens_check(session: &Session, key: ObjectHandle, check: &[u8]) -> Result<bool, Fault> {
    let Some(parts) = parts(check) else { return Ok(false) };
    match open(session, key, CHECK_NAME, parts) {
        Ok(opened) => Ok(opened.as_slice() == CHECK),
        Err(error) if may_be_forged(&error) => Ok(false),
        Err(error) => Err(fault(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let good = [MAGIC, &[7; NONCE_BYTES], &[8; TAG_BYTES + 1]].concat();
        assert_eq!(parts(&good), Some(([7; NONCE_BYTES], &[8; TAG_BYTES + 1][..])));
        for length in 0..good.len() {
            assert_eq!(parts(&good[..length]), None, "{length}");
        }
        assert_eq!(parts(&good.to_ascii_uppercase()), None);
    }
}
