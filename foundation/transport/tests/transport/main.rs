//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod ca;
mod common;
mod http;
mod peers;
mod rotation;
mod site;
mod witness;
