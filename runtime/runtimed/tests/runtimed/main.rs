//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod common;
mod containers;
mod guard;
mod metrics;
mod modules;
mod services;
mod updates;
mod withdrawn;

#[test]
fn role_runtimed() {
    common::role_runtimed();
}
