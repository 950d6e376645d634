//! Resident keys (`edgewarden.keys.v1`): keys of a module that stay in the gateway's keystore, beside the SPIFFE
//! Workload API on the same socket. `docs/keys.md` is for those who call it.
//!
//! There is no call that returns a key: what leaves the daemon is public keys, signatures, ciphertexts, and the plain
//! text and secrets that the module itself handed in.

use std::time::Duration;

use edgewarden_names::{KeyName, SpiffeId, UnixTime};

/// Most bytes to sign, encrypt or seal at a time.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Longest context of an encryption.
pub const CONTEXT_BYTES_MAX: usize = 1024;
/// Longest life of a capability, and its life when the caller names none.
pub const CAPABILITY_LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// More than a capability has.
pub const CAPABILITY_BYTES_MAX: usize = 256;
/// More than a ciphertext is longer than what is in it.
pub const CIPHERTEXT_OVERHEAD_MAX: usize = 64;

/// The one use of a key. It cannot change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// P-256, ECDSA with SHA-256.
    Sign,
    /// AES-256-GCM.
    Encrypt,
    /// A secret that the module sealed.
    Secret,
}

impl Purpose {
    /// All that may be done with a key of this purpose.
    pub fn operations(self) -> Operations {
        match self {
            Self::Sign => Operations::of(&[Operation::Sign, Operation::Certify, Operation::Delete]),
            Self::Encrypt => Operations::of(&[Operation::Encrypt, Operation::Decrypt, Operation::Delete]),
            Self::Secret => Operations::of(&[Operation::Seal, Operation::Unseal, Operation::Delete]),
        }
    }

    /// Name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Encrypt => "encrypt",
            Self::Secret => "secret",
        }
    }
}

/// A right that a capability gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Sign,
    Certify,
    Encrypt,
    Decrypt,
    Seal,
    Unseal,
    Delete,
}

impl Operation {
    pub const ALL: [Self; 7] =
        [Self::Sign, Self::Certify, Self::Encrypt, Self::Decrypt, Self::Seal, Self::Unseal, Self::Delete];

    /// Name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Certify => "certify",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Seal => "seal",
            Self::Unseal => "unseal",
            Self::Delete => "delete",
        }
    }

    fn bit(self) -> u16 {
        match self {
            Self::Sign => 1,
            Self::Certify => 1 << 1,
            Self::Encrypt => 1 << 2,
            Self::Decrypt => 1 << 3,
            Self::Seal => 1 << 4,
            Self::Unseal => 1 << 5,
            Self::Delete => 1 << 6,
        }
    }
}

/// A set of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations(u16);

impl Operations {
    /// A set of these operations.
    pub fn of(operations: &[Operation]) -> Self {
        Self(operations.iter().fold(0, |bits, operation| bits | operation.bit()))
    }

    /// `None` when a bit stands for nothing.
    pub fn from_bits(bits: u16) -> Option<Self> {
        let known = Self::of(&Operation::ALL).0;
        (bits & !known == 0).then_some(Self(bits))
    }

    /// The set as bits, one an operation.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// `true` when `operation` is in the set.
    pub fn contains(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }

    /// `true` for the empty set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `true` when `other` has all of these.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

/// Contents that a capability is to have. No operations: all that the purpose allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub operations: Operations,
    pub lifetime: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { operations: Operations::default(), lifetime: CAPABILITY_LIFETIME_MAX }
    }
}

/// A key or secret, by what may be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: KeyName,
    pub purpose: Purpose,
    /// Another key under the same name has another generation.
    pub generation: u64,
    pub created: UnixTime,
}

/// The right to use a key for a while, for the instance that it was given to.
#[derive(Clone, PartialEq, Eq)]
pub struct Capability {
    pub token: Vec<u8>,
    pub not_after: UnixTime,
}

impl std::fmt::Debug for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capability").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A key and the capability to use it.
#[derive(Clone, PartialEq, Eq)]
pub struct Use {
    pub key: KeyName,
    pub capability: Vec<u8>,
}

impl std::fmt::Debug for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Use").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A module's certificate for a key in the keystore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    pub id: SpiffeId,
    /// DER, the leaf first, then its issuers without the root.
    pub chain_der: Vec<Vec<u8>>,
    pub bundle_der: Vec<Vec<u8>>,
    pub not_after: UnixTime,
    pub attestation: Option<Attestation>,
}

/// TPM2_Certify of the key, as the TPM wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// TPMS_ATTEST.
    pub message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC.
    pub key_public: Vec<u8>,
    /// TPMT_PUBLIC.
    pub ak_public: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_bit_of_its_own_and_one_purpose_or_all() {
        let mut seen = 0;
        for operation in Operation::ALL {
            let bits = Operations::of(&[operation]).bits();
            assert_eq!((bits.count_ones(), seen & bits), (1, 0), "{operation:?}");
            seen |= bits;
            let purposes = [Purpose::Sign, Purpose::Encrypt, Purpose::Secret];
            let count = purposes.iter().filter(|purpose| purpose.operations().contains(operation)).count();
            assert_eq!(count, if operation == Operation::Delete { 3 } else { 1 }, "{operation:?}");
        }
        assert_eq!(Operations::from_bits(seen).map(Operations::bits), Some(seen));
        assert_eq!(Operations::from_bits(seen + 1), None);
        assert!(Operations::default().is_within(Operations::of(&[Operation::Sign])));
        assert!(!Operations::of(&[Operation::Sign]).is_within(Purpose::Encrypt.operations()));
    }
}
