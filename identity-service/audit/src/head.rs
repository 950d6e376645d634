//! A signed head: the gateway CA's key says how the chain stood. Pure.
//!
//! The statement is `edgewarden-audit-head-v1` ‖ 0 ‖ length of the gateway's name (u32) ‖ name ‖ sequence (u64) ‖ hash
//! (32 bytes) ‖ time (u64), numbers big-endian: nothing else that this key signs (certificates, which begin with a DER
//! tag) can be taken for it. ECDSA P-256 with SHA-256.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_protocol::control::AuditEntry;
use serde::{Deserialize, Serialize};

/// The event of an entry that holds a head, in its detail.
pub const HEAD_EVENT: &str = "audit.head";
const DOMAIN: &[u8] = b"edgewarden-audit-head-v1\0";
/// A DER signature of P-256 has at most 72 bytes.
const SIGNATURE_HEX_MAX: usize = 144;
/// Gateway CA keys that one log is checked with: the gateway's, and those before a TPM was replaced.
const KEYS_MAX: usize = 16;

/// End of the chain at one time, signed by a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub gateway: GatewayName,
    /// The last entry that it covers.
    pub sequence: u64,
    /// Hash of that entry.
    pub hash: String,
    pub at: UnixTime,
    /// SHA-256 of the key's uncompressed point: which key to check with.
    pub key: String,
    /// DER, hexadecimal.
    pub signature: String,
}

/// Fault of a signed head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadProblem {
    #[error("the signed head is malformed: {0}")]
    Malformed(String),
    #[error("the signed head is by another key than the gateway CA's ({0})")]
    OtherKey(String),
    #[error("the signature of the head is wrong")]
    Signature,
}

/// Bytes that are signed. `None` when the hash is not one.
pub fn statement(gateway: &GatewayName, sequence: u64, hash: &str, at: UnixTime) -> Option<Vec<u8>> {
    let hash: [u8; 32] = hex::decode(hash).ok()?.try_into().ok()?;
    let name = gateway.as_str().as_bytes();
    let mut bytes = DOMAIN.to_vec();
    bytes.extend(u32::try_from(name.len()).ok()?.to_be_bytes());
    bytes.extend(name);
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(hash);
    bytes.extend(at.0.to_be_bytes());
    Some(bytes)
}

/// SHA-256 of a public key's point, in hexadecimal.
pub fn fingerprint(point: &[u8]) -> String {
    hex::encode(digest(&SHA256, point))
}

/// The public keys that may have signed heads.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// From uncompressed P-256 points; no more than 16 of them count.
    pub fn new(points: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(points.into_iter().take(KEYS_MAX).map(|point| (fingerprint(&point), point)).collect())
    }
}

impl Head {
    /// The head that an entry holds; `None` when the entry is of another kind.
    pub fn of(entry: &AuditEntry) -> Result<Option<Self>, HeadProblem> {
        if entry.event != HEAD_EVENT {
            return Ok(None);
        }
        let malformed = |error: serde_json::Error| HeadProblem::Malformed(error.to_string());
        serde_json::from_str(&entry.detail).map(Some).map_err(malformed)
    }

    /// Checks the signature with the key that the head names, which must be among `keys`.
    pub fn verify(&self, keys: &Keys) -> Result<(), HeadProblem> {
        let malformed = |what: &str| HeadProblem::Malformed(what.into());
        if self.signature.len() > SIGNATURE_HEX_MAX {
            return Err(malformed("the signature is too long"));
        }
        let signature =
            hex::decode(&self.signature).map_err(|_| malformed("the signature is not hexadecimal"))?;
        let statement = statement(&self.gateway, self.sequence, &self.hash, self.at)
            .ok_or_else(|| malformed("the hash is not a SHA-256"))?;
        let named = keys.0.iter().find(|(fingerprint, _)| *fingerprint == self.key);
        let (_, point) = named.ok_or_else(|| HeadProblem::OtherKey(self.key.chars().take(64).collect()))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(&statement, &signature)
            .map_err(|_| HeadProblem::Signature)
    }
}
