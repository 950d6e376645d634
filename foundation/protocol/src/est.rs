//! A site's own CA, reached by EST (RFC 7030): its part of `config.toml`, and what `identityd` and `runtimed` say to
//! each other about it.
//!
//! `runtimed` carries: it speaks TLS and HTTP with the EST server, and hands answers over as they came. `identityd` has the
//! key: it signs requests, judges every answer, and puts certificates in force.

use std::path::PathBuf;

use edgewarden_names::{Refusal, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::ask::{Answer, requests};

/// A site's CA, reached by EST. In the place of a fleet: it certifies the gateway CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstConfig {
    /// `https://host[:port]`; the path is RFC 7030's.
    pub url: String,
    /// Label of one of several CAs of a server (RFC 7030 section 3.2.2).
    #[serde(default)]
    pub label: Option<String>,
    /// PEM: the roots of the site, for the server's own certificate as well as for those that it gives. Modules get them
    /// as their trust bundle.
    pub trust_anchors: PathBuf,
    /// Time that one exchange may take, 1 to 120 seconds.
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

/// Credentials of the request for the first certificate. A renewal shows the certificate that it renews, and the
/// password too if there is one.
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

requests! {
    /// Inside [`crate::control::Request::Est`].
    EstRequest -> EstReply;

    State -> EstState;
    /// The CA's answer to `csrattrs`. Replied with the request that is undecided, or a new one.
    Ask { operation: EstOperation, csrattrs: HttpReply } -> EstAsked;
    /// The CA's answers to `cacerts` and to the request.
    Answer { cacerts: HttpReply, answer: HttpReply } -> EstDecision;
    /// Signs the CertificateVerify of a TLS 1.3 client (RFC 8446 section 4.4.3) whose transcript hashes to this, and
    /// nothing else.
    Handshake { transcript_hash: Bytes } -> Bytes;
}

/// Replies to [`EstRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EstReply {
    State(EstState),
    Ask(EstAsked),
    Enrolled(EstLife),
    Pending { after_seconds: u64 },
    Failed(EstFailure),
    Signature(Bytes),
}

impl crate::ask::Reply for EstReply {
    const DAEMON: &'static str = "identityd";

    type Refused = EstFailure;

    fn accepted(self) -> Result<Self, EstFailure> {
        match self {
            Self::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::State(_) => "State",
            Self::Ask(_) => "Ask",
            Self::Enrolled(_) => "Enrolled",
            Self::Pending { .. } => "Pending",
            Self::Failed(_) => "Failed",
            Self::Signature(_) => "Signature",
        }
    }
}

impl Answer<EstReply> for EstState {
    fn of(reply: EstReply) -> Result<Self, EstReply> {
        match reply {
            EstReply::State(state) => Ok(state),
            reply => Err(reply),
        }
    }
}

impl Answer<EstReply> for EstAsked {
    fn of(reply: EstReply) -> Result<Self, EstReply> {
        match reply {
            EstReply::Ask(asked) => Ok(asked),
            reply => Err(reply),
        }
    }
}

impl Answer<EstReply> for EstDecision {
    fn of(reply: EstReply) -> Result<Self, EstReply> {
        match reply {
            EstReply::Enrolled(life) => Ok(Self::Enrolled(life)),
            EstReply::Pending { after_seconds } => Ok(Self::Pending { after_seconds }),
            reply => Err(reply),
        }
    }
}

impl Answer<EstReply> for Bytes {
    fn of(reply: EstReply) -> Result<Self, EstReply> {
        match reply {
            EstReply::Signature(signature) => Ok(signature),
            reply => Err(reply),
        }
    }
}

/// A certificate request, to be sent to the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstAsked {
    /// PKCS#10, DER.
    pub request: Bytes,
}

/// Outcome of a CA's answer that was no refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EstDecision {
    Enrolled(EstLife),
    Pending { after_seconds: u64 },
}

/// No certificate, and what was held stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstFailure {
    pub refusal: Refusal,
    /// `true` when it can pass by itself.
    pub transient: bool,
    pub retry_after_seconds: Option<u64>,
}

/// State of the gateway CA's certificate and of the request for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstState {
    /// The certificate in force and the CAs above it without the root, DER; empty without one.
    pub chain: Vec<Bytes>,
    pub life: Option<EstLife>,
    /// The gateway CA's key, uncompressed P-256 point.
    pub point: Bytes,
    /// Kind of the request that waits for the CA.
    pub pending: Option<EstOperation>,
}

/// Validity of a certificate.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::{NoAnswer, answer};
    use edgewarden_names::Reason;
    use serde_json::json;

    #[test]
    fn an_answer_is_that_of_its_question_or_a_failure() {
        let asked = EstReply::Ask(EstAsked { request: vec![1, 2, 3].into() });
        assert_eq!(serde_json::to_value(&asked).unwrap(), json!({"ask": {"request": "AQID"}}));
        assert_eq!(answer::<questions::Ask>(asked.clone()).unwrap().request, vec![1, 2, 3].into());
        assert!(matches!(answer::<questions::State>(asked.clone()), Err(NoAnswer::Other("Ask"))));
        assert!(matches!(answer::<questions::Answer>(asked), Err(NoAnswer::Other("Ask"))));
        let pending: EstReply = serde_json::from_value(json!({"pending": {"after_seconds": 60}})).unwrap();
        let decided = answer::<questions::Answer>(pending).unwrap();
        assert_eq!(decided, EstDecision::Pending { after_seconds: 60 });
        let failure = EstFailure {
            refusal: Refusal::new(Reason::EstUnavailable, "site", "status 503"),
            transient: true,
            retry_after_seconds: Some(9),
        };
        let wire =
            json!({"failed": {"refusal": failure.refusal, "transient": true, "retry_after_seconds": 9}});
        let failed = EstReply::Failed(failure.clone());
        assert_eq!(serde_json::to_value(&failed).unwrap(), wire);
        let refused = answer::<questions::Answer>(failed);
        assert!(matches!(refused, Err(NoAnswer::Refused(why)) if why == failure));
    }
}
