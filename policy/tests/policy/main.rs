//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::items_after_statements,
    clippy::panic,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod common;
mod enforcement;
mod golden;
mod oracle;
mod refusals;
