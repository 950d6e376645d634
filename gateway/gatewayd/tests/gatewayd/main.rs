//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod alerts;
mod attacks;
mod broker;
mod common;
mod metrics;
mod sessions;
mod stock;
mod upstream;

#[test]
fn daemon() {
    common::daemon();
}
