//! Shared parts of the two command lines.
//!
//! * [`Completions`]: `completions SHELL` · [`Manual`]: `man FOLDER`
//!
//! No daemon uses this crate.

mod completions;
mod manual;
mod visible;

pub use completions::Completions;
pub use manual::{Manual, ManualError};
