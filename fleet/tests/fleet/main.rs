//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod access;
mod bundle;
mod common;
mod connections;
mod enrolment;
mod expiry;
mod full_disk;
mod gateways;
mod images;
mod integrity;
mod measured;
mod metrics;
mod store;
mod vendors;
mod written;
