//! What `identityd` answers: leaf devices, certificates.

use std::path::{Path, PathBuf};

use edgewarden_ca::pem;
use edgewarden_names::{LeafName, ModuleName, Reason, Refusal};
use edgewarden_protocol::client::unexpected;
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::layout::Layout;
use edgewarden_workload_api::client::{FetchError, fetch_once};

use super::{ask, tell};
use crate::exit::Problem;
use crate::output::{self, Format};

#[derive(Debug, clap::Subcommand)]
pub enum Leaf {
    /// Makes a one-time token with which a declared leaf device enrols. Prints it once.
    Allow {
        leaf: LeafName,
        /// How long the token is good, in seconds.
        #[arg(long, default_value_t = 3600)]
        lifetime: u32,
    },
}

impl Leaf {
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Allow { leaf, lifetime } = self;
        match ask(layout, &Request::LeafAllow { leaf, lifetime_seconds: lifetime }).await? {
            Reply::LeafToken { token, expires } if format == Format::Json => {
                output::json(&serde_json::json!({"token": token, "expires": expires}))
            }
            Reply::LeafToken { token, .. } => {
                println!("{token}");
                Ok(())
            }
            other => Err(unexpected(&other).into()),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Svid {
    /// Gives a module, or all, a new key and certificate now.
    Rotate { module: Option<ModuleName> },
    /// Asks a Workload API socket for this process's own certificate chain, and prints it as PEM.
    Fetch {
        /// `/run/edgewarden/api.sock` inside a module.
        #[arg(long, default_value = "/run/edgewarden/api.sock")]
        socket: PathBuf,
    },
}

impl Svid {
    pub async fn run(self, layout: &Layout) -> Result<(), Problem> {
        match self {
            Self::Rotate { module } => tell(layout, &Request::Rotate { module }).await,
            Self::Fetch { socket } => fetch(&socket).await,
        }
    }
}

async fn fetch(socket: &Path) -> Result<(), Problem> {
    match fetch_once(socket).await {
        Ok(context) => {
            println!("{}", context.id);
            for certificate in &context.chain_der {
                print!("{}", pem::encode(pem::CERTIFICATE, certificate));
            }
            Ok(())
        }
        Err(FetchError::Refused(status)) => Err(refusal(status.message(), socket)),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// A refusal travels as the gRPC status message, its reason code first.
fn refusal(message: &str, socket: &Path) -> Problem {
    let (code, rule) = message.split_once(':').unwrap_or((message, ""));
    match Reason::ALL.iter().find(|reason| reason.code() == code.trim()) {
        Some(reason) => Refusal::new(*reason, socket.display(), rule.trim()).into(),
        None => Problem::text(format!("the Workload API answered: {message}")),
    }
}
