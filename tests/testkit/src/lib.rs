//! Common parts of the tests of several crates: keys, certificates, an operator, signed images, a site's CA, numbers
//! that a daemon shows.
//!
//! For `[dev-dependencies]` alone. What one crate's tests need stays in their `common` folder.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test"
)]

pub mod authority;
pub mod est;
pub mod image;
mod key;
mod names;
mod operator;
pub mod samples;
mod wait;

pub use authority::Authority;
pub use key::Key;
pub use names::{domain, gateway, leaf, module};
pub use operator::Operator;
pub use wait::until;
