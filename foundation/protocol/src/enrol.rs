//! Enrolment and renewal of a gateway: two round trips over TLS that is pinned to the fleet's root.
//!
//! `POST /v1/enrol/begin` [`Begin`] → [`Challenge`], then `POST /v1/enrol/finish` [`Finish`] → [`Enrolled`].
//! The messages are protected end to end (credential activation, quote, certify, CSR): whoever carries them need
//! not be trusted. Renewal is the same exchange without a token, by a gateway whose keys the fleet knows already.
//!
//! Binding: `extraData` of the quote and of the certification is [`binding`] of the nonce and the CSR (32 bytes,
//! because TPM2B_DATA holds no more than 34 on a SHA-256-only TPM).

use std::collections::BTreeMap;

use edgewarden_names::{GatewayName, TrustDomain, UnixTime, sha256};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::token::JoinToken;

/// Largest event log that is sent or read.
pub const EVENT_LOG_BYTES_MAX: usize = 2 * 1024 * 1024;

/// First request of an enrolment or a renewal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    /// Once, to join. Absent when a known gateway renews.
    pub token: Option<JoinToken>,
    pub labels: BTreeMap<String, String>,
    pub keys: DeviceKeys,
}

/// Without the token.
impl std::fmt::Debug for Begin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begin")
            .field("gateway", &self.gateway)
            .field("joins", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// The public half of what the device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hardware", rename_all = "lowercase", deny_unknown_fields)]
pub enum DeviceKeys {
    Tpm {
        /// DER, the EK certificate first, then intermediates from the TPM's NV.
        ek_certificates: Vec<Bytes>,
        /// TPMT_PUBLIC (TPM 2.0 Library Part 2, section 12.2.4).
        ek_public: Bytes,
        /// TPMT_PUBLIC.
        ak_public: Bytes,
    },
    /// A key in a file or a token that nothing attests: `hardware: none`.
    None {
        /// P-256, uncompressed point, 65 bytes.
        device_public: Bytes,
    },
}

/// Answer to [`Begin`]: the fleet's challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    pub session: String,
    /// 32 random bytes, good for one [`Finish`].
    pub nonce: Bytes,
    /// PCRs of the SHA-256 bank to quote, ascending.
    pub pcrs: Vec<u8>,
    /// For [`DeviceKeys::Tpm`].
    pub credential: Option<Credential>,
}

/// TPM2_MakeCredential's result (Part 3, section 12.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// TPMS_ID_OBJECT: what TPM2B_ID_OBJECT holds, without its size.
    pub id_object: Bytes,
    /// Contents of TPM2B_ENCRYPTED_SECRET, without its size.
    pub encrypted_secret: Bytes,
}

/// Second request: the answer to a [`Challenge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    pub session: String,
    pub proof: Proof,
}

/// Proof that the device holds its keys, and the request for the gateway CA's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hardware", rename_all = "lowercase", deny_unknown_fields)]
pub enum Proof {
    Tpm(Box<TpmProof>),
    None {
        /// PKCS#10, DER, for the gateway CA key.
        csr: Bytes,
        /// ECDSA P-256 SHA-256 (DER) by the device key over [`binding`].
        signature: Bytes,
    },
}

/// A TPM's proof: credential activation, quote, event log, and the certified gateway CA key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmProof {
    /// The secret that TPM2_ActivateCredential gave back.
    pub secret: Bytes,
    /// TPMS_ATTEST of TPM2_Quote.
    pub quote: Bytes,
    /// TPMT_SIGNATURE.
    pub quote_signature: Bytes,
    /// The TCG2 event log as the firmware wrote it.
    pub event_log: Bytes,
    /// TPMT_PUBLIC of the gateway CA key.
    pub ca_public: Bytes,
    /// TPMS_ATTEST of TPM2_Certify of the gateway CA key by the AK.
    pub certify: Bytes,
    /// TPMT_SIGNATURE.
    pub certify_signature: Bytes,
    /// PKCS#10, DER, for the gateway CA key.
    pub csr: Bytes,
}

/// The fleet's answer to an accepted proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The gateway CA's certificate, DER.
    pub gateway_ca: Bytes,
    /// The fleet's root certificate, DER.
    pub root: Bytes,
    pub verdict: Verdict,
}

/// Result of an appraisal (RFC 9334: an attestation result).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub state: VerdictState,
    /// `tpm`, with the manufacturer, or `none`.
    pub hardware: String,
    /// The set of reference values that fitted.
    pub reference: Option<String>,
    /// Every check that was made, in order, with what it found.
    pub checks: Vec<Check>,
    pub at: UnixTime,
    /// After this a `fresh` verdict counts as `stale`.
    pub expires: UnixTime,
}

/// State of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictState {
    Fresh,
    /// Too old to be fresh. Heals by the next renewal.
    Stale,
    /// The gateway is not what it should be: no certificates until it is.
    Failed,
    Unknown,
}

impl VerdictState {
    /// The serialized name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// One check of an appraisal, with its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    pub detail: String,
}

/// `extraData` of quote and certification: SHA-256(nonce ‖ SHA-256(csr)).
pub fn binding(nonce: &[u8], csr: &[u8]) -> [u8; 32] {
    let mut bound = nonce.to_vec();
    bound.extend_from_slice(&sha256(csr));
    sha256(&bound)
}
