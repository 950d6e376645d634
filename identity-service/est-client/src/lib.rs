//! Client of a site's EST server (RFC 7030, RFC 8951): `cacerts`, `csrattrs`, `enroll`, `reenroll`, over TLS 1.3.
//!
//! * [`Client`]: carries what [`edgewarden_est`] makes and judges · [`ClientIdentity`], [`Key`]: the certificate that it shows
//!
//! Trusts the anchors of the configuration and the clock. Distrusts the server's every byte; what it answers is judged by
//! [`edgewarden_est`]. Handshakes are signed through [`edgewarden_ca::CaSigner`], P-256 with SHA-256.

mod client;
mod config;
mod tls;

pub use client::Client;
pub use tls::{ClientIdentity, Key};
