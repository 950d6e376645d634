//! Tests of this crate, through its public door: one program, so that they are linked once.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by a panic")]

mod confinement;
mod durable;
mod mounts;
mod peer;
