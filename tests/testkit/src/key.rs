//! A key that signs where it is.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{CaSigner, SignError, certificate_request};
use edgewarden_protocol::Bytes;

use crate::{domain, gateway};

/// A P-256 key as a keystore has it: it is real, only nearer.
#[derive(Debug)]
pub struct Key(EcdsaKeyPair);

impl Key {
    /// A new key of its own.
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    /// The public key: an uncompressed SEC1 point.
    pub fn point(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// Certificate request (PKCS #10, DER) with this key, as `gw-1` of `plant.example` would make it.
    pub fn csr(&self) -> Bytes {
        certificate_request(self, &gateway(), &domain()).unwrap().into()
    }

    /// Signature of this key: ECDSA with SHA-256, DER.
    pub fn signature(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}

impl CaSigner for Key {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.point())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.signature(message))
    }
}
