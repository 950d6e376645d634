use std::io;
use std::time::Duration;

use edgewarden_names::Refusal;

/// Error of an exchange over HTTPS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    #[error("`{0}` is not a URL of the form `https://host[:port][/path]`")]
    Url(String),
    #[error("the request cannot be encoded")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Retry with backoff.
    #[error("cannot reach `{authority}`")]
    Unreachable { authority: String, source: io::Error },
    /// We refuse the server ([`crate::tls::refusal`] says why), or it refuses our certificate.
    #[error("no secure connection to `{authority}`")]
    Untrusted { authority: String, source: io::Error },
    /// The server refused the request. Retrying without a change cannot succeed, but for `service.*` reasons.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("no complete answer in {} ms", .0.as_millis())]
    Deadline(Duration),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// The connection ended before the answer: whether the server carried the request out is unknown.
    #[error("the exchange broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is not what it should be")]
    Malformed(#[source] serde_json::Error),
}
