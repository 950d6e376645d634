//! SVIDs and trust bundles, as values and their checks (SPIFFE X.509-SVID, JWT-SVID, Trust Domain and Bundle).
//!
//! * [`X509Context`]: one X.509 identity, whole · [`Bundles`]: what others are checked with · [`JwtSvid`]
//! * [`judge_chain`], [`peer_id`], [`peer_expiry`], [`peer`]: a certificate chain, judged by a trust domain's [`Roots`]
//! * [`foreign`]: the chain of another trust domain's bundle endpoint
//! * [`jwt`]: JWT-SVIDs, made and judged · [`bundle`]: a trust domain's bundle as a JWK Set
//! * [`der`]: certificates one after the other
//!
//! No I/O, no clock, no TLS: time and trusted keys are arguments. Trusts those, and distrusts every byte of a chain, a
//! token or a bundle.

pub mod bundle;
mod certificate;
mod context;
pub mod der;
pub mod foreign;
pub mod jwt;
pub mod peer;
mod roots;

pub use context::{Bundles, JwtSvid, X509Context};
pub use peer::{judge_chain, peer_expiry, peer_id};
pub use roots::{ALGORITHMS, RootError, Roots, anchors};
