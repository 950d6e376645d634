//! Judges whether an image may start: its manifest, its configuration, and signatures over its digest in cosign's
//! keyed layout (tag `sha256-<hex>.sig`, media type `application/vnd.dev.cosign.simplesigning.v1+json`).
//!
//! * [`judge`]: evidence + pinned keys → [`ImageProof`], or a refusal
//! * [`sign`]: makes such signatures, compatible with `cosign verify --key`
//!
//! Trusts the pinned keys, and the image reference, which comes from a signed deployment. Distrusts every byte of
//! the evidence: `runtimed` fetched it from a registry. Pure: no I/O (but [`sign::SigningKey::load`]), no clock.

mod judge;
mod proof;
pub mod sign;

pub use judge::judge;
pub use proof::ImageProof;
