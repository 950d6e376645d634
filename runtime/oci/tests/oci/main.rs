//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::items_after_statements,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod builders;
mod common;
mod logins;
mod manifest;
mod registry;
mod unpack;
mod ways;
