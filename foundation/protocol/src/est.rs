//! A site's own CA, reached by EST (RFC 7030): its part of `config.toml`, and what `identityd` and `runtimed` say to
//! each other about it.
//!
//! `runtimed` carries: it speaks TLS and HTTP with the EST server, and hands answers over as they came. `identityd` has the
//! key: it signs requests, judges every answer, and puts certificates in force.

use std::path::PathBuf;

use edgewarden_names::{Refusal, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// A site's CA, reached by EST. In the place of a fleet: it certifies the gateway CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstConfig {
    /// `https://host[:port]`; the path is RFC 7030's.
    pub url: String,
    /// Which of several CAs of one server (RFC 7030 section 3.2.2).
    #[serde(default)]
    pub label: Option<String>,
    /// PEM: the roots of the site, for the server's own certificate as well as for those that it gives. Modules get them
    /// as their trust bundle.
    pub trust_anchors: PathBuf,
    /// How long one exchange may take, 1 to 120 seconds.
    #[serde(default = "timeout_default")]
    pub timeout_seconds: u16,
    /// Public keys (PEM, SubjectPublicKeyInfo) of the operators who may sign deployments, which come by hand.
    #[serde(default)]
    pub operator_keys: Vec<PathBuf>,
    pub auth: EstAuth,
}

fn timeout_default() -> u16 {
    30
}

/// What the first certificate is asked for with. A renewal shows the certificate that it renews, and the password too
/// if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum EstAuth {
    /// HTTP Basic (RFC 7617), inside TLS only. The file has the password, and is not open to others.
    Basic { user: String, password_file: PathBuf },
    /// A certificate that the site knows, such as the manufacturer's. PEM; the key is PKCS#8 in a file not open to
    /// others.
    Certificate { certificate_file: PathBuf, key_file: PathBuf },
    /// Nothing: the server takes first requests from anybody, and people decide.
    Identity {},
}

/// `simpleenroll` or `simplereenroll`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EstOperation {
    Enroll,
    Reenroll,
}

/// An HTTP answer as it came: the parts that mean something in EST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpReply {
    pub status: u16,
    /// Each header once for each time that it was there.
    pub content_type: Vec<String>,
    pub transfer_encoding: Vec<String>,
    pub retry_after: Vec<String>,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EstRequest {
    /// → [`EstReply::State`]
    State,
    /// What the CA answered to `csrattrs`. The request that is undecided, or a new one. → [`EstReply::Ask`]
    Ask { operation: EstOperation, csrattrs: HttpReply },
    /// What the CA answered to `cacerts` and to the request. → [`EstReply::Enrolled`], [`EstReply::Pending`]
    Answer { cacerts: HttpReply, answer: HttpReply },
    /// Signs the CertificateVerify of a TLS 1.3 client (RFC 8446 section 4.4.3) whose transcript hashes to this, and
    /// nothing else. → [`EstReply::Signature`]
    Handshake { transcript_hash: Bytes },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EstReply {
    State(EstState),
    Ask {
        /// PKCS#10, DER.
        request: Bytes,
    },
    Enrolled(EstLife),
    Pending {
        after_seconds: u64,
    },
    /// No certificate, and what was held stays.
    Failed {
        refusal: Refusal,
        /// Whether it can pass by itself.
        transient: bool,
        retry_after_seconds: Option<u64>,
    },
    Signature(Bytes),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstState {
    /// The certificate in force and the CAs above it without the root, DER; empty without one.
    pub chain: Vec<Bytes>,
    pub life: Option<EstLife>,
    /// The gateway CA's key, uncompressed P-256 point.
    pub point: Bytes,
    /// Which request waits for the CA.
    pub pending: Option<EstOperation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstLife {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

/// In `identityd`'s status: a site's CA is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstStatus {
    pub url: String,
    /// True when the certificate in force is the site's.
    pub certified: bool,
    /// Since when a request waits for the CA's decision.
    pub pending_since: Option<UnixTime>,
}
