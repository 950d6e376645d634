//! One file for each group of commands.

pub mod attest;
mod attest_verify;
pub mod audit;
pub mod clock;
pub mod deployment;
pub mod doctor;
pub mod est;
mod exported_quote;
pub mod federation;
pub mod identity;
pub mod image;
pub mod join;
pub mod keys;
pub mod keystore;
pub mod messages;
pub mod metrics;
pub mod policy;
pub mod runtime;
pub mod secret;
pub mod status;
pub mod volume;

use edgewarden_exchange::client::Client;
use edgewarden_protocol::ask::Ask;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::layout::Layout;

use crate::exit::Problem;

/// The gateway's `config.toml`, checked.
pub fn load(layout: &Layout) -> Result<Config, Problem> {
    Config::load(&layout.config_file()).map_err(Problem::failed)
}

/// Asks `identityd` one question.
pub async fn ask<Q>(layout: &Layout, question: Q) -> Result<Q::Answer, Problem>
where
    Q: Ask<Request = Request, Reply = Reply>,
{
    let mut client = Client::connect(&layout.control_socket()).await?;
    Ok(client.ask(question).await?)
}
