//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::similar_names,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod chaos;
mod commands;
mod confinement;
mod docs;
mod doctor;
mod est;
mod federation;
mod layers;
mod operations;
mod secrets;
mod story;
mod units;
