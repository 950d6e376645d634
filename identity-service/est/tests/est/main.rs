//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::cloned_ref_to_slice_refs,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod answers;
mod attributes;
mod certs_only;
mod chains;
mod common;
mod config;
mod renewal;
mod server;
