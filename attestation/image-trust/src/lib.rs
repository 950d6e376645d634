//! Judges whether an image may start: its manifest, its configuration, and signatures over its digest in cosign's
//! keyed layout (tag `sha256-<hex>.sig`, media type `application/vnd.dev.cosign.simplesigning.v1+json`).
//!
//! * [`judge`], [`judge_for`]: evidence + pinned keys → [`ImageProof`], or a refusal · [`check_key`]: is a pinned key usable?
//! * [`fingerprint`]: a key whatever it is called, as [`ImageProof::vouchers`] has those that signed
//! * [`sign`]: makes such signatures, as `cosign sign --key` does
//!
//! Trusts the pinned keys, and the image reference, which comes from a signed deployment. Distrusts every byte of
//! the evidence: `runtimed` fetched it from a registry. What is not signed by a pinned key is not parsed, but for
//! the envelope that leads to the signature. Pure: no I/O (but [`sign::SigningKey::load`]), no clock.

mod image;
mod json;
mod judge;
mod key;
pub mod limits;
mod proof;
pub mod sign;
mod signature;

pub use judge::{judge, judge_for};
pub use key::{check_key, fingerprint};
pub use proof::ImageProof;

/// A peer's text, short and safe to show.
fn shown(text: &str) -> String {
    text.chars().take(128).collect::<String>().escape_debug().to_string()
}
