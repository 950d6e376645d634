//! A leaf device without a certificate and its gateway: HTTPS on `mqtt.leaf_enrol_listen`.
//!
//! * `POST /v1/leaf/enrol` [`Enrol`] → [`crate::control::Certificate`]
//!
//! The device knows the fleet's root and the gateway's name beforehand; the one-time token lets it in.
//! A refusal is HTTP 4xx with a [`edgewarden_names::Refusal`] as body.

use edgewarden_names::LeafName;
use serde::{Deserialize, Serialize};

use crate::Bytes;

pub const ENROL_PATH: &str = "/v1/leaf/enrol";
/// Largest request body.
pub const ENROL_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    pub leaf: LeafName,
    /// From `edgewarden leaf allow`.
    pub token: String,
    /// PKCS#10, DER. Contributes its public key and nothing else.
    pub csr: Bytes,
}

impl std::fmt::Debug for Enrol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrol").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}
