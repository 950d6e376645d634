//! Ends of a command: what a person reads, and the exit code that a script reads.

use std::process::ExitCode;

use edgewarden_names::Refusal;

/// A refusal, which is an answer and not a failure, with the step that helps: 3.
pub fn refused(refusal: &Refusal, next_step: &str) -> ExitCode {
    eprintln!("refused: {refusal}");
    eprintln!("hint: {next_step}");
    ExitCode::from(3)
}

/// A failure, with its whole chain of causes: 1.
pub fn failed(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(1)
}

/// A command line that asks for nothing that there is: 2.
pub fn misused(text: &str) -> ExitCode {
    eprintln!("error: {text}");
    ExitCode::from(2)
}
