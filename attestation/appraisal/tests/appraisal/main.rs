//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod appraise;
mod challenge;
mod common;
mod vendors;
