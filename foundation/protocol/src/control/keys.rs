//! The keystore and what is kept in it, by what may be told of it; the keys that are given to other daemons.

use edgewarden_names::{KeyName, ModuleName, UnixTime};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Bytes;

/// State of the keystore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeystoreHealth {
    /// As in [`Status::keystore`](super::Status::keystore).
    pub keystore: String,
    /// `None` for a store that is not a TPM.
    pub lockout: Option<Lockout>,
}

/// A TPM's protection against guessing (TPM 2.0 Library Part 1, "Dictionary Attack Protection").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockout {
    pub locked: bool,
    pub failures: u32,
    pub failures_max: u32,
    /// Seconds after which one failure is forgiven.
    pub recovery_seconds: u32,
}

/// A module's key or secret in the keystore, by what may be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidentKey {
    pub module: ModuleName,
    pub name: KeyName,
    /// `sign`, `encrypt` or `secret`.
    pub purpose: String,
    pub generation: u64,
    pub created: UnixTime,
    /// Since `identityd` started.
    pub uses: u64,
}

/// 32 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct StorageKey(Vec<u8>);

impl StorageKey {
    /// A key of 256 bits.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(bytes.to_vec())
    }
    /// The key, for the one cipher that uses it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageKey(..)")
    }
}

/// The keys of JWT-SVIDs in a DSSE envelope ([`crate::jwt_keys`]); `None` while there is no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JwtStatement(pub Option<Bytes>);
