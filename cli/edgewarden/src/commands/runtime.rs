//! What `runtimed` answers: logs, renewal, ending.

use std::io::IsTerminal;

use edgewarden_exchange::client::Client;
use edgewarden_names::ModuleName;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console::{Reply, Request};

use crate::exit::Problem;
use crate::output::{self, Format};

/// Asks `runtimed` one question. A refusal is a problem.
pub async fn ask(layout: &Layout, request: &Request) -> Result<Reply, Problem> {
    let mut client = Client::connect(&layout.runtime_socket()).await?;
    match client.exchange(request).await? {
        Reply::Refused(refusal) => Err(refusal.into()),
        reply => Ok(reply),
    }
}

fn unexpected() -> Problem {
    Problem::text("runtimed answered another question than was asked; are all programs of one version?")
}

#[derive(Debug, clap::Args)]
pub struct Logs {
    module: ModuleName,
    /// How many of the newest lines.
    #[arg(long, default_value_t = 100)]
    last: u32,
}

impl Logs {
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let on_terminal = std::io::stdout().is_terminal();
        match ask(layout, &Request::Logs { module: self.module, last: self.last }).await? {
            Reply::Logs(lines) if format == Format::Json => output::json(&lines),
            Reply::Logs(lines) => {
                for line in lines {
                    if on_terminal {
                        println!("{}", output::for_terminal(&line));
                    } else {
                        println!("{line}");
                    }
                }
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }
}

pub async fn renew(layout: &Layout, format: Format) -> Result<(), Problem> {
    match ask(layout, &Request::Renew).await? {
        Reply::Renewed(verdict) if format == Format::Json => output::json(&verdict),
        Reply::Renewed(verdict) => {
            println!("verdict: {} (hardware: {})", verdict.state.as_str(), verdict.hardware);
            Ok(())
        }
        _ => Err(unexpected()),
    }
}

pub async fn down(layout: &Layout) -> Result<(), Problem> {
    match ask(layout, &Request::Shutdown { stop_modules: true }).await? {
        Reply::Done => Ok(()),
        _ => Err(unexpected()),
    }
}
