//! Shared parts of the two command lines.
//!
//! * [`table`], [`facts`]: answers for people · [`harmless`], [`shortened`]: text that somebody else wrote
//! * [`Waiting`]: progress, on a terminal only
//! * [`exit`]: how a command ends, and its exit code
//! * [`Completions`]: `completions SHELL` · [`Manual`]: `man FOLDER`
//!
//! `identityd`, `runtimed` and `gatewayd` use none of it.

mod completions;
pub mod exit;
mod manual;
mod table;
mod text;
mod visible;
mod waiting;

pub use completions::Completions;
pub use manual::{Manual, ManualError};
pub use table::{facts, table};
pub use text::{harmless, shortened};
pub use waiting::Waiting;
