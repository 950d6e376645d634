//! A leaf device without a certificate and its gateway: HTTPS on `mqtt.leaf_enrol_listen`.
//!
//! * `POST /v1/leaf/enrol` [`Enrol`] → [`crate::control::Certificate`]
//!
//! * `POST /v1/leaf/renew` [`Renew`] → the same, for a device that shows its certificate of this gateway (mutual TLS)
//!
//! The device knows the fleet's root and the gateway's name beforehand; the one-time token lets it in.
//! A refusal is HTTP 4xx with a [`edgewarden_names::Refusal`] as body.

use edgewarden_names::LeafName;
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::token::LeafToken;

pub const ENROL_PATH: &str = "/v1/leaf/enrol";
pub const RENEW_PATH: &str = "/v1/leaf/renew";
/// Most certificates of a chain that a device shows.
pub const CHAIN_MAX: usize = 10;
pub const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// Largest request body.
pub const ENROL_BYTES_MAX: usize = 16 * 1024;

/// Request of a leaf device without a certificate, to [`ENROL_PATH`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    pub leaf: LeafName,
    /// From `edgewarden leaf allow`.
    pub token: LeafToken,
    /// PKCS#10, DER. Contributes its public key and nothing else.
    pub csr: Bytes,
}

impl std::fmt::Debug for Enrol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrol").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

/// A certificate in the place of the one that the device shows. Its token is that certificate's key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// PKCS#10, DER: the same key or another.
    pub csr: Bytes,
    /// By the key of the certificate that is shown: ECDSA with SHA-256, DER, over [`renewal_statement`].
    pub proof: Bytes,
}

impl std::fmt::Debug for Renew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renew").finish_non_exhaustive()
    }
}

/// Bytes that the key of a certificate signs to renew it: its owner's consent to this request. `identityd` checks it,
/// so that no process in between can have another key certified.
///
/// ```text
/// "edgewarden leaf renewal v1" 0x00 certificate_length:u32 certificate request      (big-endian)
/// ```
///
/// # Panics
/// When `certificate` has 4 GiB: it is one of at most [`CERTIFICATE_BYTES_MAX`].
#[expect(
    clippy::expect_used,
    reason = "no certificate comes near 4 GiB, and no message that could carry one"
)]
pub fn renewal_statement(certificate: &[u8], csr: &[u8]) -> Vec<u8> {
    let length = u32::try_from(certificate.len()).expect("a certificate of a few kilobytes");
    [b"edgewarden leaf renewal v1\0".as_slice(), &length.to_be_bytes(), certificate, csr].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_different_parts_are_different() {
        let seen: std::collections::BTreeSet<_> =
            [(&b"ab"[..], &b"c"[..]), (b"a", b"bc"), (b"", b"abc"), (b"abc", b"")]
                .map(|(certificate, csr)| renewal_statement(certificate, csr))
                .into();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn strange_requests_are_refused() {
        for text in [
            r#"{"csr":"AA=="}"#,
            r#"{"proof":"AA=="}"#,
            r#"{"csr":"AA==","proof":"AA==","leaf":"sensor-1"}"#,
            r#"{"csr":"!","proof":"AA=="}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Renew>(text).is_err(), "{text}");
        }
    }
}
