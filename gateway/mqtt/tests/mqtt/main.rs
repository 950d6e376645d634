//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    missing_debug_implementations,
    reason = "a test fails by a panic"
)]

mod broker;
mod codec;
mod common;
mod conformance;
mod durable;
mod lagging;
