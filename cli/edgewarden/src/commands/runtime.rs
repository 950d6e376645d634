//! Commands that `runtimed` answers: logs, renewal, ending.

use std::io::IsTerminal;

use edgewarden_exchange::client::Client;
use edgewarden_names::ModuleName;
use edgewarden_protocol::ask::Ask;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console::{Reply, Request, questions};

use crate::exit::Problem;
use crate::output::{self, Format};

/// Asks `runtimed` one question.
pub async fn ask<Q>(layout: &Layout, question: Q) -> Result<Q::Answer, Problem>
where
    Q: Ask<Request = Request, Reply = Reply>,
{
    let mut client = Client::connect(&layout.runtime_socket()).await?;
    Ok(client.ask(question).await?)
}

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    module: ModuleName,
    /// Number of the newest lines.
    #[arg(long, default_value_t = 100)]
    last: u32,
}

impl Logs {
    /// Prints a module's newest lines; on a terminal with control characters escaped.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let on_terminal = std::io::stdout().is_terminal();
        let lines = ask(layout, questions::Logs { module: self.module, last: self.last }).await?;
        if format == Format::Json {
            return output::json(&lines);
        }
        for line in lines {
            if on_terminal {
                println!("{}", edgewarden_terminal::harmless(&line));
            } else {
                println!("{line}");
            }
        }
        Ok(())
    }
}

/// Has the gateway prove its boot to the fleet now, and prints the verdict.
pub async fn renew(layout: &Layout, format: Format) -> Result<(), Problem> {
    let verdict = ask(layout, questions::Renew).await?;
    if format == Format::Json {
        return output::json(&verdict);
    }
    println!("verdict: {} (hardware: {})", verdict.state.as_str(), verdict.hardware);
    Ok(())
}

/// Has `runtimed` stop every module and remove what runs in the kernel for them.
pub async fn down(layout: &Layout) -> Result<(), Problem> {
    ask(layout, questions::Shutdown { stop_modules: true }).await
}
