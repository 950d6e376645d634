//! Helpers that the measurements share: names, keys, a runtime.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{CaSigner, SignError, spki};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_tests::Failure;

pub const DAY: Duration = Duration::from_secs(86400);
pub const WAIT: Duration = Duration::from_secs(20);

pub fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

pub fn domain() -> Result<TrustDomain, Failure> {
    TrustDomain::parse("bench.example").map_err(failed)
}

pub fn gateway() -> Result<GatewayName, Failure> {
    GatewayName::parse("gw-bench").map_err(failed)
}

/// A gateway CA's key, in memory.
pub struct Key(pub EcdsaKeyPair);

impl CaSigner for Key {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.0.public_key().as_ref().to_vec())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| SignError::new(Failure::new("no signature")))?.as_ref().to_vec())
    }
}

pub fn public_pem() -> Result<String, Failure> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    spki::to_pem(key.public_key().as_ref()).map_err(failed)
}

pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
