//! A quote for an outside verifier.

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// A quote in the files that `tpm2_checkquote` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedQuote {
    /// TPMS_ATTEST.
    pub message: Bytes,
    /// TPMT_SIGNATURE.
    pub signature: Bytes,
    /// PEM, SubjectPublicKeyInfo.
    pub ak_public: String,
    /// Index and SHA-256 value, ascending.
    pub pcrs: Vec<(u8, Bytes)>,
    pub event_log: Bytes,
    /// The PCR of the runtime log, and the log as it was when the quote was made (`edgewarden_evidence::runtime_log`).
    #[serde(default)]
    pub runtime_pcr: Option<u8>,
    #[serde(default)]
    pub runtime_log: Bytes,
}
