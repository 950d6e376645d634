//! Other trust domains: what is held of them, and how it goes with their endpoints.

use edgewarden_names::UnixTime;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::federation::Federated;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console as runtime;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `federation`.
#[derive(Debug, clap::Subcommand)]
pub enum Federation {
    /// Shows each trust domain of the deployment, how old its bundle is, and what is in the way of the next.
    Status,
    /// Asks all bundle endpoints now.
    Refresh,
}

impl Federation {
    /// Prints the held bundles, or has all endpoints asked.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Refresh => super::runtime::ask(layout, runtime::questions::FederationNow).await,
            Self::Status => show(&ask(layout, questions::FederationList).await?, format),
        }
    }
}

fn show(all: &[Federated], format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(&all);
    }
    let now = UnixTime::now();
    let row = |one: &Federated| {
        let bundle = one.held.as_ref().map_or_else(
            || "none yet".into(),
            |held| format!("{} ({} X.509, {} JWT)", held.sequence, held.x509_authorities, held.jwt_keys),
        );
        let confirmed = match one.held.as_ref().map(|held| held.confirmed) {
            Some(Some(at)) => format!("{} s ago", now.after(at).as_secs()),
            Some(None) => "never: it is the deployment's".into(),
            None => "-".into(),
        };
        let trouble = one.trouble.as_ref().map_or_else(
            || one.url.clone(),
            |trouble| {
                let (since, refusal) = (output::at(trouble.since), &trouble.refusal);
                format!(
                    "since {since}, {} times: {refusal} (next: {})",
                    trouble.failures,
                    refusal.reason.next_step()
                )
            },
        );
        vec![one.trust_domain.to_string(), bundle, confirmed, trouble]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    output::table(&["TRUST DOMAIN", "BUNDLE", "CONFIRMED", "ENDPOINT OR TROUBLE"], &rows);
    Ok(())
}
