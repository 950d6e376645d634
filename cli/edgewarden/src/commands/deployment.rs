//! A signed deployment that arrives on a stick instead of over the network. `identityd` judges it just the same.

use std::path::PathBuf;

use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `deployment`.
#[derive(Debug, clap::Subcommand)]
pub enum Deployment {
    /// Checks the envelope that `edgewarden-fleet deploy --out` wrote, and puts it in force.
    Apply { envelope: PathBuf },
    /// Shows the deployment in force.
    Show,
}

impl Deployment {
    /// Prints the deployment in force, after `apply` the one that was applied. Exit code 3 for one that is refused.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let deployment = match self {
            Self::Apply { envelope } => {
                let read = edgewarden_platform::durable::read(&envelope, ENVELOPE_BYTES_MAX);
                let bytes =
                    read.and_then(|found| found.ok_or_else(|| std::io::ErrorKind::NotFound.into())).map_err(
                        |error| Problem::text(format!("cannot read `{}`: {error}", envelope.display())),
                    )?;
                Some(ask(layout, questions::DeploymentAccept(Bytes(bytes))).await?)
            }
            Self::Show => ask(layout, questions::Deployment).await?,
        };
        let Some(deployment) = deployment else {
            println!("no deployment");
            return Ok(());
        };
        if format == Format::Json {
            return output::json(&deployment);
        }
        let document = &deployment.deployment;
        println!(
            "{} version {}, policy epoch {}, signed by {}",
            document.name, document.version, deployment.epoch, deployment.signed_by
        );
        for module in &document.modules {
            println!("  {} {}", module.name, module.image);
        }
        Ok(())
    }
}
