//! The end of a command: its error, its hint, its exit code.

use std::io::ErrorKind;
use std::process::ExitCode;

use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_terminal::exit;
use edgewarden_transport::http::HttpError;

/// Failure or refusal of a command.
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
    /// Exit code 1, with the whole chain of causes.
    pub fn failed(error: impl std::error::Error + 'static) -> Self {
        Self::Failed(ErrorChain(&error).to_string())
    }

    /// Exit code 2, with the text as it is.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// Prints the problem for a person, and gives its exit code for a script.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Refused(refusal) => exit::refused(&refusal, refusal.reason.next_step()),
            Self::Failed(text) => exit::failed(&text),
            Self::Usage(text) => exit::misused(&text),
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

/// Hint for a connection that a server closes, or does not answer, for want of places or time.
const FULL: &str = "the server runs, and may be full or too busy: its log says so. On its own machine, without \
                    `--server`, commands have a way of their own";

fn is_closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

fn hint(error: &HttpError, hint: &str) -> Stop {
    Stop::Failed(format!("{}\nhint: {hint}", ErrorChain(error)))
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Refused(refusal) => refusal.into(),
            HttpError::Unreachable { ref source, .. } if source.kind() == ErrorKind::ConnectionRefused => {
                hint(&error, "does the fleet run? start it with `edgewarden-fleet serve`")
            }
            // It was there: who is not there refuses the connection.
            HttpError::Unreachable { ref source, .. } if is_closed(source.kind()) => hint(&error, FULL),
            HttpError::Broken(_) | HttpError::Deadline(_) => hint(&error, FULL),
            HttpError::Unreachable { .. } => {
                hint(&error, "is the address right, and the network up? `--server` says where the fleet is")
            }
            other => Self::failed(other),
        }
    }
}
