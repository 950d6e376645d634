//! Encryption of values that others keep: AES-256-GCM (NIST SP 800-38D) under keys that stay in this process.
//!
//! Each value has a key and a nonce of its own, both from 28 random bytes that are made here: nobody who asks for
//! encryption chooses a nonce, and no number of values makes one come again (the 2^32 values that 96 random bits allow
//! under one key, section 8.3, are within reach of a busy module). What a value belongs to is authenticated, with
//! lengths: one field cannot be taken for the end of another.
//!
//! `version (1) ‖ salt (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// Bytes that encryption adds to a value.
#[cfg(test)]
const OVERHEAD_BYTES: usize = 1 + SALT_BYTES + NONCE_LEN + 16;

/// The value was changed, is another's, or belongs to something else: which, nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value does not open")]
pub struct DoesNotOpen;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cipher or the random number generator failed")]
pub struct CipherFailed;

/// 32 bytes, wiped when dropped.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// A key for one purpose, derived from another (HKDF, RFC 5869). `purpose` is what tells it from its siblings.
pub fn derive(key: &[u8], purpose: &[&[u8]]) -> Result<Key, CipherFailed> {
    expand(&Salt::new(HKDF_SHA256, b"edgewarden").extract(key), purpose)
}

fn expand(key: &Prk, purpose: &[&[u8]]) -> Result<Key, CipherFailed> {
    let mut derived = Zeroizing::new([0; KEY_BYTES]);
    let info = framed(purpose);
    let made = key.expand(&[&info], Length).and_then(|okm| okm.fill(derived.as_mut_slice()));
    made.map(|()| derived).map_err(|_| CipherFailed)
}

/// Fields with their lengths before them.
fn framed(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

fn cipher(key: &[u8; KEY_BYTES], salt: [u8; SALT_BYTES]) -> Result<LessSafeKey, CipherFailed> {
    let own = derive(key, &[b"envelope", &salt])?;
    UnboundKey::new(&AES_256_GCM, own.as_slice()).map(LessSafeKey::new).map_err(|_| CipherFailed)
}

/// Encrypts a value that belongs to `context`.
pub fn seal(key: &Key, context: &[&[u8]], value: &[u8]) -> Result<Vec<u8>, CipherFailed> {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    rand::fill(&mut salt).and_then(|()| rand::fill(&mut nonce)).map_err(|_| CipherFailed)?;
    let mut buffer = Zeroizing::new(value.to_vec());
    let tag = cipher(key, salt)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(framed(context)),
            buffer.as_mut_slice(),
        )
        .map_err(|_| CipherFailed)?;
    Ok([&[VERSION], &salt[..], &nonce, &buffer, tag.as_ref()].concat())
}

/// Gives a value back to what it belongs to.
pub fn open(key: &Key, context: &[&[u8]], envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    let rest = envelope.strip_prefix(&[VERSION]).ok_or(DoesNotOpen)?;
    let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>().ok_or(DoesNotOpen)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(DoesNotOpen)?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let cipher = cipher(key, *salt).map_err(|_| DoesNotOpen)?;
    let length = cipher
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(framed(context)),
            buffer.as_mut_slice(),
        )
        .map_err(|_| DoesNotOpen)?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Zeroizing::new([byte; KEY_BYTES])
    }

    #[test]
    fn only_the_same_value_opens_for_the_same_context_under_the_same_key() {
        let context: [&[u8]; 3] = [b"plant.example", b"alerts", b"iv"];
        let sealed = seal(&key(1), &context, b"the value").unwrap();
        assert_eq!(sealed.len(), b"the value".len() + OVERHEAD_BYTES);
        assert_eq!(open(&key(1), &context, &sealed).unwrap().as_slice(), b"the value");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut altered = sealed.clone();
                altered[at] ^= 1 << bit;
                assert_eq!(open(&key(1), &context, &altered), Err(DoesNotOpen), "bit {bit} of byte {at}");
            }
            assert_eq!(open(&key(1), &context, &sealed[..at]), Err(DoesNotOpen), "cut at {at}");
        }
        assert_eq!(open(&key(1), &context, &[&sealed[..], b"x"].concat()), Err(DoesNotOpen), "more after it");
        assert_eq!(open(&key(2), &context, &sealed), Err(DoesNotOpen), "another key");
        let others: [&[&[u8]]; 7] = [
            &[],
            &[b"plant.example", b"alerts"],
            &[b"plant.example", b"alerts", b"vi"],
            &[b"plant.example", b"alertsi", b"v"],
            &[b"plant.examplealerts", b"", b"iv"],
            &[b"alerts", b"plant.example", b"iv"],
            &[b"plant.example", b"alerts", b"iv", b""],
        ];
        for other in others {
            assert_eq!(open(&key(1), other, &sealed), Err(DoesNotOpen), "{other:?}");
        }
    }

    #[test]
    fn nothing_comes_again() {
        let seal = || seal(&key(1), &[b"context"], b"").unwrap();
        let (first, second) = (seal(), seal());
        assert_ne!(first[1..17], second[1..17]);
        assert_ne!(first[17..29], second[17..29]);
        assert_ne!(first[29..], second[29..]);
        assert!(open(&key(1), &[b"context"], &first).unwrap().is_empty());
    }

    #[test]
    fn purposes_have_keys_of_their_own() {
        let purposes: [&[&[u8]]; 5] = [&[], &[b""], &[b"a"], &[b"a", b""], &[b"", b"a"]];
        let keys: std::collections::HashSet<[u8; 32]> =
            purposes.iter().map(|purpose| *derive(&[7; 32], purpose).unwrap()).collect();
        assert_eq!(keys.len(), purposes.len());
        assert_ne!(*derive(&[8; 32], &[]).unwrap(), *derive(&[7; 32], &[]).unwrap());
        // For ever the same: what modules keep depends on it. HKDF-SHA256 by another implementation.
        let expected = "1d463a937cc7261935a89381fff7424fa43400fc90337846179bd9a073ba13ff";
        assert_eq!(hex::encode(*derive(&[7; 32], &[b"sign", b"alerts"]).unwrap()), expected);
    }
}
