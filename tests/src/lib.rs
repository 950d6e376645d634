//! Drives the product from outside, as its users do: through its programs, sockets and files.
//!
//! * [`chaos`]: faults of every kind while messages are counted
//! * [`relay`]: a window from the host into a sandbox
//! * [`sandbox`]: a place with its own network, mounts and processes, all of which end with it
//! * [`process`]: commands with a deadline, and servers that end with the test
//! * [`site`]: one fleet and one gateway, with every file they need
//! * [`story`]: the steps of the demo, which are the end-to-end tests too

#![allow(clippy::indexing_slicing, reason = "indexing a JSON value gives null where there is nothing")]

pub mod chaos;
pub mod process;
pub mod relay;
pub mod sandbox;
pub mod site;
pub mod story;

/// Failure in words for the person who reads the output.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Fails with a message unless the condition holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(Failure(otherwise())) }
}
