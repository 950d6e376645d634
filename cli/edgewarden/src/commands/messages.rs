//! `edgewarden messages`: what `gatewayd` keeps and nobody has taken.

use std::io::{IsTerminal as _, Write as _};

use edgewarden_exchange::client::Client;
use edgewarden_names::{LeafName, ModuleName, Principal};
use edgewarden_protocol::gateway_console::{SetAsideStatus, questions};
use edgewarden_protocol::layout::Layout;

use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `messages`.
#[derive(Debug, clap::Subcommand)]
pub enum Messages {
    /// Messages that ended their receivers' connections again and again (docs/messages.md).
    #[command(subcommand)]
    SetAside(SetAside),
}

/// Subcommands of `messages set-aside`.
#[derive(Debug, clap::Subcommand)]
pub enum SetAside {
    /// Shows which there are.
    List,
    /// Prints what is in one.
    Show {
        /// Receiver that it was for: `module/NAME` or `leaf/NAME`.
        #[arg(value_parser = client)]
        client: Principal,
        number: u64,
    },
    /// Drops one for good.
    Drop {
        /// Receiver that it was for: `module/NAME` or `leaf/NAME`.
        #[arg(value_parser = client)]
        client: Principal,
        number: u64,
    },
}

fn client(text: &str) -> Result<Principal, String> {
    match text.split_once('/') {
        Some(("module", name)) => {
            ModuleName::parse(name).map(Principal::Module).map_err(|error| error.to_string())
        }
        Some(("leaf", name)) => LeafName::parse(name).map(Principal::Leaf).map_err(|error| error.to_string()),
        _ => Err("write `module/NAME` or `leaf/NAME`".into()),
    }
}

fn named(client: &Principal) -> String {
    match client {
        Principal::Module(name) => format!("module/{name}"),
        Principal::Leaf(name) => format!("leaf/{name}"),
    }
}

impl Messages {
    /// Prints or drops messages that `gatewayd` has set aside.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::SetAside(command) = self;
        let mut gatewayd = Client::connect(&layout.gateway_socket()).await?;
        match command {
            SetAside::List => {
                let all = gatewayd.ask(questions::SetAside).await?;
                if format == Format::Json {
                    return output::json(&all);
                }
                list(&all);
                Ok(())
            }
            SetAside::Show { client, number } => {
                let payload = gatewayd.ask(questions::SetAsideShow { client, number }).await?;
                if format == Format::Json { output::json(&payload) } else { show(payload.as_slice()) }
            }
            SetAside::Drop { client, number } => {
                Ok(gatewayd.ask(questions::SetAsideDrop { client, number }).await?)
            }
        }
    }
}

fn list(all: &[SetAsideStatus]) {
    if all.is_empty() {
        eprintln!("no message is set aside");
        return;
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                named(&one.client),
                one.number.to_string(),
                output::at(one.at),
                named(&one.from),
                one.topic.clone(),
                one.bytes.to_string(),
                one.connections.to_string(),
            ]
        })
        .collect();
    output::table(&["FOR", "NUMBER", "SET ASIDE", "FROM", "TOPIC", "BYTES", "CONNECTIONS ENDED"], &rows);
}

/// Byte by byte into a file or a pipe; a terminal gets nothing that it would obey.
fn show(payload: &[u8]) -> Result<(), Problem> {
    let mut out = std::io::stdout().lock();
    let written =
        if out.is_terminal() { writeln!(out, "{}", payload.escape_ascii()) } else { out.write_all(payload) };
    written.and_then(|()| out.flush()).map_err(Problem::failed)
}
