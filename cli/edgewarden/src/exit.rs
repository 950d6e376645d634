//! The end of a command: its error, its hint, its exit code.

use std::error::Error;
use std::process::ExitCode;

use edgewarden_exchange::client::ClientError;
use edgewarden_names::{ErrorChain, Refusal};
use edgewarden_terminal::exit;

/// Failure or refusal of a command, or the end of a program that it ran.
#[derive(Debug)]
pub enum Problem {
    /// An answer, not a failure: exit code 3.
    Refused(Refusal),
    /// The same, where the reason's own next step would lead back to this command.
    Denied { refusal: Refusal, next: &'static str },
    /// Exit code 1. The text is the whole chain of causes.
    Failed(String),
    /// Exit code 2.
    Usage(String),
    /// A program that this command ran has ended with this exit code, which is ours too.
    Ended(u8),
}

impl Problem {
    /// Exit code 1, with the whole chain of causes.
    pub fn failed(error: impl Error) -> Self {
        Self::Failed(ErrorChain(&error).to_string())
    }

    /// Exit code 1, with the text as it is.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Prints the problem for a person, and its exit code for a script.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Refused(refusal) => exit::refused(&refusal, refusal.reason.next_step()),
            Self::Denied { refusal, next } => exit::refused(&refusal, next),
            Self::Failed(text) => exit::failed(&text),
            Self::Ended(code) => ExitCode::from(code),
            Self::Usage(text) => exit::misused(&text),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) | Self::Denied { refusal, .. } => refusal.fmt(f),
            Self::Failed(text) | Self::Usage(text) => f.write_str(text),
            Self::Ended(code) => write!(f, "the program ended with {code}"),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => Self::Refused(refusal),
            ClientError::Unreachable { .. } => {
                let Self::Failed(text) = Self::failed(error) else { return Self::text("unreachable") };
                Self::Failed(format!("{text}\nhint: does the gateway run? start it with `edgewarden up`"))
            }
            ClientError::Broken(_) => Self::failed(error),
        }
    }
}
