//! Module certificates: asked for by people and scripts, and kept as files for programs that cannot ask.

mod claims;
mod documents;
mod fetch;
mod folder;
mod program;
mod watch;

use std::path::{Path, PathBuf};

use edgewarden_names::{ModuleName, Reason, Refusal};
use edgewarden_protocol::control::questions;
use edgewarden_protocol::layout::Layout;
use edgewarden_workload_client::FetchError;

use crate::commands::ask;
use crate::exit::Problem;
use crate::output::Format;

/// Path of the Workload API's socket in a module.
const SOCKET: &str = "/run/edgewarden/api.sock";

/// Subcommands of `svid`.
#[derive(Debug, clap::Subcommand)]
pub enum Svid {
    /// Gives a module, or all, a new key and certificate now.
    Rotate { module: Option<ModuleName> },
    /// Asks a Workload API socket for what this process may have. No private key is ever printed.
    Fetch(fetch::Fetch),
    /// Keeps certificate, key and trust bundle as files, for a program that cannot ask for them itself.
    ///
    /// All files of one moment are switched at once (`DIR/current`). The program is told by a signal, or started by this
    /// command (`-- COMMAND…`), which then ends as it ends. While the socket is away the last good files stay.
    Watch(watch::Watch),
}

impl Svid {
    /// Rotates certificates, or takes them from a Workload API socket.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Rotate { module } => ask(layout, questions::Rotate { module }).await,
            Self::Fetch(fetch) => fetch.run(format).await,
            Self::Watch(watch) => watch.run().await,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Socket {
    /// The Workload API's socket: a path, or `unix:///path` as SPIFFE has it [default: /run/edgewarden/api.sock].
    #[arg(long = "socket", env = "SPIFFE_ENDPOINT_SOCKET", global = true, value_parser = socket_path)]
    socket: Option<PathBuf>,
}

impl Socket {
    fn path(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(SOCKET))
    }
}

/// SPIFFE Workload Endpoint, section 4: `unix:` with an absolute path and nothing else. A plain path is ours.
fn socket_path(text: &str) -> Result<PathBuf, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return if text.is_empty() { Err("it is empty".into()) } else { Ok(text.into()) };
    };
    let path = match rest.strip_prefix("//") {
        // Three slashes: no authority.
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("the URI has an authority; write `unix:///path`".into()),
        None => rest,
    };
    match scheme {
        "unix" if path.starts_with('/') && !path.contains(['?', '#']) => Ok(path.into()),
        "unix" => Err("the URI has no absolute path".into()),
        "tcp" => Err("Edgewarden's Workload API is served on Unix sockets only".into()),
        _ => Err("it is neither a path nor `unix:///path`".into()),
    }
}

/// Failure of a fetch as the problem of a command. A refusal travels as the gRPC status message, its reason first.
fn problem(error: FetchError, socket: &Path) -> Problem {
    let FetchError::Refused(status) = error else { return Problem::failed(error) };
    let message = status.message();
    let (code, rule) = message.split_once(':').unwrap_or((message, ""));
    match Reason::ALL.iter().find(|reason| reason.code() == code.trim()) {
        Some(reason) => Refusal::new(*reason, socket.display(), rule.trim()).into(),
        None => Problem::text(format!("the Workload API answered: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_a_unix_uri() {
        for (text, path) in [
            ("/run/api.sock", Some("/run/api.sock")),
            ("api.sock", Some("api.sock")),
            ("unix:///run/api.sock", Some("/run/api.sock")),
            ("unix:/run/api.sock", Some("/run/api.sock")),
            ("unix://host/run/api.sock", None),
            ("unix:run/api.sock", None),
            ("unix:///run/api.sock?x=1", None),
            ("unix:", None),
            ("tcp://127.0.0.1:8080", None),
            ("https://plant.example", None),
            ("", None),
        ] {
            assert_eq!(socket_path(text).ok(), path.map(PathBuf::from), "{text}");
        }
    }
}
