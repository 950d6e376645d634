//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

#[path = "common/attacker.rs"]
mod attacker;
mod attacks;
mod azure_sdk;
mod clients;
mod clock;
mod common;
mod control;
mod deployments;
mod enrolment;
mod federation;
mod full_disk;
#[path = "common/guest.rs"]
mod guest;
#[allow(dead_code, reason = "a program of its own")]
#[path = "../../../../examples/clients/rust/src/main.rs"]
mod in_rust;
mod iotedge;
mod jwt;
mod key_stores;
mod keys;
mod lease;
mod leaves;
mod observed;
mod process;
mod secrets;
mod site;
mod starts;
mod state;

#[tokio::test]
async fn job() {
    common::container::do_job().await;
}
