//! The audit log, as it is shown.

use edgewarden_names::UnixTime;
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// The gateway CA's key, which signs the heads of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditKey {
    /// P-256, uncompressed point.
    pub point: Bytes,
    /// Its certificate, DER, once the gateway has joined.
    pub certificate: Option<Bytes>,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    pub sequence: u64,
    pub at: UnixTime,
    /// Kind of the event, such as `svid.issued`, `image.permitted`, `refused`.
    pub event: String,
    pub subject: String,
    pub detail: String,
    /// SHA-256 over the previous entry's hash and this entry, hexadecimal.
    pub hash: String,
}
