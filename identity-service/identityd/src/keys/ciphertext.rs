//! Ciphertext of Encrypt and of a sealed secret's file: AES-256-GCM under a key of its own.
//!
//! ```text
//! u8   version, 1
//! u64  generation of the key
//! [12] nonce, random
//! …    ciphertext and tag (16)
//! ```
//!
//! Authenticated with it, and not in it: what it is (`fields`), trust domain, gateway, module, key, generation, and the
//! caller's context. Nonces are random, so a key encrypts 2^32 messages at most (NIST SP 800-38D, section 8.3).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use edgewarden_names::{GatewayName, KeyName, ModuleName, TrustDomain};
use zeroize::Zeroizing;

use super::fields::encode;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + NONCE_LEN;
/// Bytes that it is longer than the plain text.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + MAX_TAG_LEN;
pub(super) const KEY_BYTES: usize = 32;
/// Messages of one key.
pub(super) const MESSAGES_MAX: u64 = 1 << 32;

/// A ciphertext by its parts. Whose it is and whether it is whole is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub generation: u64,
    nonce: [u8; NONCE_LEN],
    sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Parses the head. `None` for another version, or for less than a tag.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[version], rest) = bytes.split_first_chunk::<1>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if version != VERSION || sealed.len() < MAX_TAG_LEN {
            return None;
        }
        Some(Self { generation: u64::from_be_bytes(*generation), nonce: *nonce, sealed })
    }
}

/// Owner of a ciphertext. `Data` is the module's to keep, `Secret` is kept by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Data,
    Secret,
}

/// Key and owner that a ciphertext is bound to: everything but the caller's context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Belonging<'a> {
    pub of: Of,
    pub domain: &'a TrustDomain,
    pub gateway: &'a GatewayName,
    pub module: &'a ModuleName,
    pub key: &'a KeyName,
    pub generation: u64,
}

impl Belonging<'_> {
    fn associated(&self, context: &[u8]) -> Vec<u8> {
        let of: &[u8] = match self.of {
            Of::Data => b"edgewarden-key-data-v1",
            Of::Secret => b"edgewarden-key-secret-v1",
        };
        encode(&[
            of,
            self.domain.as_str().as_bytes(),
            self.gateway.as_str().as_bytes(),
            self.module.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            &self.generation.to_be_bytes(),
            context,
        ])
    }
}

/// A data key, ready for use. Wiped when it is dropped.
pub(super) struct DataKey(LessSafeKey);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// Error of the random number generator or the cipher: nothing was encrypted.
#[derive(Debug, thiserror::Error)]
#[error("the cipher or its random numbers failed")]
pub(super) struct CipherError;

impl DataKey {
    /// A new random key.
    pub fn generate() -> Result<Zeroizing<Vec<u8>>, CipherError> {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        rand::fill(&mut bytes).map_err(|_| CipherError)?;
        Ok(bytes)
    }

    /// `None` when it has not 32 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, bytes).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Ciphertext under a random nonce, bound to `belonging` and `context`.
    pub fn encrypt(
        &self,
        belonging: &Belonging<'_>,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| CipherError)?;
        let associated = belonging.associated(context);
        let mut sealed = Vec::with_capacity(plaintext.len().saturating_add(MAX_TAG_LEN));
        sealed.extend_from_slice(plaintext);
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut sealed)
            .map_err(|_| CipherError)?;
        let mut bytes = Vec::with_capacity(sealed.len().saturating_add(HEAD_BYTES));
        bytes.push(VERSION);
        bytes.extend_from_slice(&belonging.generation.to_be_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.append(&mut sealed);
        Ok(bytes)
    }

    /// `None` for whatever is wrong with it: who tries out learns nothing from the difference.
    pub fn decrypt(
        &self,
        belonging: &Belonging<'_>,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let parts = Parts::parse(ciphertext).filter(|parts| parts.generation == belonging.generation)?;
        let mut buffer = Zeroizing::new(parts.sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(parts.nonce);
        let opened =
            self.0.open_in_place(nonce, Aad::from(belonging.associated(context)), &mut buffer).ok()?.len();
        buffer.truncate(opened);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> DataKey {
        DataKey::new(&[7; KEY_BYTES]).unwrap()
    }

    #[test]
    fn a_ciphertext_opens_in_its_own_place_only() {
        let domain = |text| TrustDomain::parse(text).unwrap();
        let gateway = |text| GatewayName::parse(text).unwrap();
        let module = |text| ModuleName::parse(text).unwrap();
        let name = |text| KeyName::parse(text).unwrap();
        let (d, g, m, k) = (domain("plant.example"), gateway("gw-1"), module("alerts"), name("k"));
        let (d2, g2, m2, k2) = (domain("plant.exampl"), gateway("egw-1"), module("alertsk"), name("x"));
        let here = Belonging { of: Of::Data, domain: &d, gateway: &g, module: &m, key: &k, generation: 3 };
        let sealed = key().encrypt(&here, b"secret", b"context").unwrap();
        assert_eq!(sealed.len(), 6 + OVERHEAD_BYTES);
        assert_eq!(key().decrypt(&here, &sealed, b"context").unwrap().as_slice(), b"secret");
        assert_ne!(sealed, key().encrypt(&here, b"secret", b"context").unwrap(), "a nonce of its own");
        for (case, there, context) in [
            ("kind", Belonging { of: Of::Secret, ..here }, b"context".as_slice()),
            ("domain", Belonging { domain: &d2, ..here }, b"context"),
            ("gateway", Belonging { gateway: &g2, ..here }, b"context"),
            ("module", Belonging { module: &m2, ..here }, b"context"),
            ("key", Belonging { key: &k2, ..here }, b"context"),
            ("generation", Belonging { generation: 4, ..here }, b"context"),
            ("context", here, b"contexT"),
            ("no context", here, b""),
            ("longer context", here, b"context "),
        ] {
            assert!(key().decrypt(&there, &sealed, context).is_none(), "{case}");
        }
        let other = DataKey::new(&[8; KEY_BYTES]).unwrap();
        assert!(other.decrypt(&here, &sealed, b"context").is_none(), "another key");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key().decrypt(&here, &changed, b"context").is_none(), "bit {bit}");
        }
        for length in (0..sealed.len()).chain([sealed.len() + 1]) {
            let mut changed = sealed.clone();
            changed.resize(length, 0);
            assert!(key().decrypt(&here, &changed, b"context").is_none(), "{length} bytes");
        }
        assert!(DataKey::new(&[7; 16]).is_none() && DataKey::new(&[]).is_none());
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(parts) = Parts::parse(&bytes) {
                prop_assert_eq!(bytes[0], VERSION);
                prop_assert!(parts.sealed.len() >= MAX_TAG_LEN);
            }
        }
    }
}
