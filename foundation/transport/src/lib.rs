//! TLS between parts of Edgewarden, by SPIFFE ID; and a bounded HTTP client on top.
//!
//! * [`Identity`]: who we are and whom we trust, followed as it rotates
//! * [`tls`]: rustls configurations that use the certificate of the moment at each handshake
//! * [`Clock`]: the time that peers are judged by · [`witness`]: the time that a peer says, whatever time it is here
//! * [`foreign`]: TLS to bundle endpoints of other trust domains
//! * [`http`]: JSON requests over such connections · [`log_limit`]: lines of the log that a peer can cause
//! * [`jitter`]: waits that many gateways do not end at once
//!
//! TLS 1.3 only, no resumption (a resumed session would skip the check of the peer's certificate). A host name never
//! stands for an identity: the peer is who its X.509-SVID says (SPIFFE X.509-SVID section 5).

mod clock;
pub mod foreign;
pub mod http;
mod identity;
pub mod jitter;
pub mod log_limit;
mod provider;
pub mod tls;
mod verifier;
pub mod witness;

pub use clock::Clock;
pub use identity::{Current, Identity, IdentityError};
