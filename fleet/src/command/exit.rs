//! How a command ends.

use std::process::ExitCode;

use edgewarden_names::{Reason, Refusal};
use edgewarden_transport::http::HttpError;

use crate::chain;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Stop {
    /// An answer, not a failure: exit code 3.
    Refused(Refusal),
    /// Exit code 1. The text is the whole chain of causes.
    Failed(String),
    /// Exit code 2.
    Usage(String),
}

impl Stop {
    pub fn failed(error: impl std::error::Error + 'static) -> Self {
        Self::Failed(chain(&error))
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// Prints the problem for a person, and gives its exit code for a script.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Refused(refusal) => {
                eprintln!("refused: {refusal}");
                eprintln!("hint: {}", refusal.reason.next_step());
                ExitCode::from(3)
            }
            Self::Failed(text) => {
                eprintln!("error: {text}");
                ExitCode::from(1)
            }
            Self::Usage(text) => {
                eprintln!("error: {text}");
                ExitCode::from(2)
            }
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        if refusal.reason == Reason::Internal {
            Self::Failed(refusal.to_string())
        } else {
            Self::Refused(refusal)
        }
    }
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Refused(refusal) => refusal.into(),
            HttpError::Unreachable { .. } => Self::Failed(format!(
                "{}\nhint: does the fleet run? start it with `edgewarden-fleet serve`",
                chain(&error)
            )),
            other => Self::failed(other),
        }
    }
}
