//! What the measurements share: names, keys, a runtime.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::spki;
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
pub fn public_pem() -> Result<String, Failure> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    spki::to_pem(key.public_key().as_ref()).map_err(failed)
}

pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
