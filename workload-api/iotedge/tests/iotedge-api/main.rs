//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;
mod limits;
mod requests;
