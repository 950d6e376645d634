//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "a test fails by a panic")]

mod client_in_c;
mod common;
mod metrics;
mod status;
mod svid;
