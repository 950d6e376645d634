use std::fmt::Display;
use std::io;

/// A fault of swtpm, of its TPM's answers, or of this machine.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
    #[error("`{program}` failed; install swtpm and swtpm-tools if it is missing: {output}")]
    Program { program: String, output: String },
    #[error("the simulated TPM did not {0} in time")]
    Timeout(&'static str),
    #[error("the simulated TPM answered {command} with response code {code:#x}")]
    Response { command: &'static str, code: u32 },
    #[error("the simulated TPM's answer to {0} is malformed")]
    Malformed(&'static str),
    #[error("`{0}` names no running swtpm")]
    NotRunning(String),
}

impl SimulatorError {
    pub(crate) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }
}
