//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod client;
mod common;
mod conformance_endpoint;
mod conformance_jwt;
mod conformance_x509;
mod envoy;
#[path = "common/envoy_program.rs"]
mod envoy_program;
mod foreign_clients;
mod keys;
mod sds;
mod server;
