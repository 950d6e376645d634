//! Sealed secrets on a site without a link to the fleet. `identityd` judges them just the same.

use std::path::PathBuf;

use edgewarden_platform::durable;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::secret::ENVELOPE_BYTES_MAX;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `secret`.
#[derive(Debug, clap::Subcommand)]
pub enum Secret {
    /// Takes the envelope that `edgewarden-fleet secret seal --out` wrote.
    Import { envelope: PathBuf },
    /// Shows which secrets are held, without their values.
    List,
    /// Writes the key that secrets for this gateway are sealed to, for `edgewarden-fleet secret seal --agreement-key`.
    Key {
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

impl Secret {
    /// Imports a sealed secret, prints the held ones without values, or writes the gateway's agreement key.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Import { envelope } => {
                let missing = || std::io::ErrorKind::NotFound.into();
                let bytes = durable::read(&envelope, ENVELOPE_BYTES_MAX)
                    .and_then(|found| found.ok_or_else(missing))
                    .map_err(|error| {
                        Problem::text(format!("cannot read `{}`: {error}", envelope.display()))
                    })?;
                ask(layout, questions::SecretAccept(Bytes(bytes))).await
            }
            Self::List => list(layout, format).await,
            Self::Key { out } => {
                let key = ask(layout, questions::AgreementKey).await?;
                let text = serde_json::to_vec(&key).map_err(Problem::failed)?;
                durable::write(&out, &text, 0o644)
                    .map_err(|error| Problem::text(format!("cannot write `{}`: {error}", out.display())))
            }
        }
    }
}

async fn list(layout: &Layout, format: Format) -> Result<(), Problem> {
    let held = ask(layout, questions::Secrets).await?;
    if format == Format::Json {
        return output::json(&held);
    }
    for secret in held {
        let state = if secret.removed { "removed" } else { "held" };
        println!(
            "{}/{} version {} {state}, signed by {}",
            secret.module, secret.name, secret.version, secret.signed_by
        );
    }
    Ok(())
}
