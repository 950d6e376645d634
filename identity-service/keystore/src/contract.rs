//! The traits of every store of keys, and the values that it says of itself.

use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use zeroize::Zeroizing;

use crate::error::KeystoreError;

/// Largest value that [`Keystore::seal`] takes: what a TPM holds in one sealed object (MAX_SYM_DATA).
pub const SECRET_BYTES_MAX: usize = 128;
/// Largest nonce of a quote: TPM2B_DATA on a TPM whose largest hash is SHA-256, less the algorithm.
pub const NONCE_BYTES_MAX: usize = 32;
/// Most resident keys in a store.
pub const RESIDENT_KEYS_MAX: usize = 1024;

/// A store of keys. Calls block, some for seconds on a slow TPM: async callers use `spawn_blocking`.
pub trait Keystore: Send + Sync {
    fn describe(&self) -> Description;

    /// The store's word on itself now, such as a TPM's dictionary-attack counters.
    fn health(&self) -> Result<Health, KeystoreError>;

    /// The public half of what the device is, for the first message of an enrolment.
    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError>;

    /// Answers the fleet's challenge: activates the credential, makes the request for the gateway CA's certificate,
    /// has the attestation key certify the CA key, and quotes.
    fn prove(
        &self,
        challenge: &Challenge,
        gateway: &GatewayName,
        domain: &TrustDomain,
        event_log: Vec<u8>,
    ) -> Result<Proof, KeystoreError>;

    /// The gateway CA's public key: P-256, uncompressed point, 65 bytes.
    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError>;

    /// Signs with the gateway CA's key: ECDSA P-256 with SHA-256, DER.
    fn ca_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError>;

    /// Quotes PCRs of the SHA-256 bank. Only a TPM has them; the others answer [`KeystoreError::Unsupported`].
    fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, KeystoreError>;

    /// Signs with the device's key. A TPM's attestation key is restricted and signs no foreign data, so a TPM store
    /// answers [`KeystoreError::Unsupported`].
    fn device_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError>;

    /// Keeps a secret under a name (a label as in `edgewarden_names`), across restarts and power cuts.
    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError>;

    /// The secret kept under that name, [`KeystoreError::NotSealed`] if there is none.
    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError>;

    /// Destroys the secret kept under that name. No error if there is none.
    fn forget(&self, name: &str) -> Result<(), KeystoreError>;

    /// Makes a resident key: a P-256 signing key that never leaves the store, kept under a name (a label as in
    /// `edgewarden_names`) across restarts and power cuts. Its public point, 65 bytes.
    /// [`KeystoreError::KeyExists`] if the name is taken, [`KeystoreError::TooManyKeys`] if there are
    /// [`RESIDENT_KEYS_MAX`].
    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError>;

    /// A resident key's public point, [`KeystoreError::NoKey`] if there is none of that name.
    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError>;

    /// Signs with a resident key: ECDSA P-256 with SHA-256, DER.
    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError>;

    /// The store's proof that a resident key is in it: TPM2_Certify by the attestation key with that nonce (16 to 32
    /// bytes). Only a TPM can prove it; the others answer [`KeystoreError::Unsupported`].
    fn key_certify(&self, name: &str, nonce: &[u8]) -> Result<KeyAttestation, KeystoreError>;

    /// Destroys a resident key. No error if there is none of that name.
    fn delete_key(&self, name: &str) -> Result<(), KeystoreError>;

    /// The public point of the key that secrets for this gateway are encrypted to: P-256, for ECDH only, 65 bytes.
    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError>;

    /// ECDH of that key with a peer's point: the x coordinate, 32 bytes (NIST SP 800-56A, section 5.7.1.2).
    fn agree(&self, peer_point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError>;

    /// Extends a PCR of the SHA-256 bank (TPM2_PCR_Extend) and answers its value afterwards. Only a TPM has PCRs.
    /// [`KeystoreError::PcrMoved`] if the PCR is not where this extension alone would have led it; whether it was
    /// extended is then for a quote to say.
    fn pcr_extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<[u8; 32], KeystoreError>;
}

/// TPM2_Certify of a resident key by the attestation key, checkable without a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAttestation {
    /// TPMS_ATTEST (TPM_ST_ATTEST_CERTIFY).
    pub message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the resident key.
    pub key_public: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
}

/// Kind of a store, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Such as `tpm (IBM SW TPM)`, `simulated tpm (dangerous)`, `pkcs11 (SoftHSM project SoftHSM v2; hardware: none)`
    /// or `software (hardware: none)`.
    pub text: String,
    /// True when a chip holds the keys and can prove it. A PKCS#11 token cannot prove it, be it a chip or not.
    pub hardware: bool,
    /// True for a store that must not be used in the field; shown in red.
    pub dangerous: bool,
}

/// The state of a TPM's protection (TPM 2.0 Library Part 1, "Dictionary Attack Protection"). Edgewarden's keys
/// are outside of it (`noDA`); the numbers say whether something else on the machine is locking the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockout {
    pub locked: bool,
    pub failures: u32,
    pub failures_max: u32,
    /// Seconds after which one failure is forgiven.
    pub recovery_seconds: u32,
}

/// A store's word on itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub description: Description,
    /// `None` for a store that is not a TPM.
    pub lockout: Option<Lockout>,
}

/// A quote with what is needed to check it without a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub message: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
    /// The attestation key as PEM SubjectPublicKeyInfo.
    pub ak_pem: String,
    /// The PCRs of the SHA-256 bank that were quoted, ascending.
    pub pcrs: Vec<(u8, [u8; 32])>,
}
