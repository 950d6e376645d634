//! Errors of the daemon.

use std::fmt::Display;

use edgewarden_names::{ErrorChain, Reason, Refusal};

use crate::identity;

/// An error that keeps the daemon from starting or from going on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
    #[error("the configuration or state does not fit: {0}")]
    Config(String),
    #[error("another runtimed runs with this root")]
    Running,
    #[error("the network cannot be set up: {0}")]
    Network(String),
    /// The gateway lacks something that somebody has to install.
    #[error("{0}")]
    Missing(String),
    #[error("the OCI runtime: {0}")]
    Runtime(String),
    #[error("a volume cannot be mounted: {0}")]
    Volume(String),
    #[error("the content store")]
    Store(#[source] Refusal),
    #[error("identityd was asked in vain")]
    Identity(#[source] identity::CallError),
}

impl RunError {
    /// A program that could not be started; `package`: what has it.
    pub(crate) fn program(name: &str, package: &str, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            return Self::Missing(format!(
                "the program `{name}` is not installed; the package `{package}` has it"
            ));
        }
        Self::Io { what: format!("run `{name}`"), source }
    }

    pub(crate) fn io(what: impl Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }

    /// The reason to give to somebody who waits for a module.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Missing(_) => Reason::GatewayIncomplete,
            Self::Volume(_) => Reason::VolumeFailed,
            Self::Runtime(_) | Self::Network(_) => Reason::StartFailed,
            _ => Reason::Internal,
        }
    }

    pub(crate) fn chain(&self) -> String {
        ErrorChain(self).to_string()
    }
}
