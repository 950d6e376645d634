//! What keeps tests from being found, built or run.

use std::path::PathBuf;

/// Failure to find, build or run tests.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("no package, file or test is named `{0}`")]
    Unknown(String),
    #[error("the tests do not build")]
    Build,
    #[error("cannot run `{program}`: {source}")]
    Run { program: String, source: std::io::Error },
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cargo said what is not understood: {0}")]
    Cargo(String),
}
