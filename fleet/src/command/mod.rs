//! `edgewarden-fleet`: the commands for operators, and the server's entry point.
//!
//! Data goes to standard output, words to standard error. Exit codes: 0 yes, 1 failed, 2 usage, 3 refused.
//! All but `init`, `serve`, `backup`, `database`, `access`, `key`, `completions` and `man` ask the running server.

/// Prints a line of data.
macro_rules! say {
    ($($what:tt)*) => { $crate::command::output::line(format_args!($($what)*)) };
}

mod client;
mod common;
mod deploy;
mod device;
mod document;
mod exit;
mod key;
mod lifetime;
mod output;
mod secret;
mod serve;
mod trust;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use edgewarden_names::GatewayName;
use edgewarden_terminal::{Completions, Manual};

use common::{Common, distinct, label};
pub use exit::Stop;

use crate::admin_api::{StoredMessage, Token, TokenRequest, Web};
use crate::backup::{backup, check_database};
use crate::text;
use crate::when::date;

/// Command line of `edgewarden-fleet`.
#[derive(Debug, Parser)]
#[command(
    name = "edgewarden-fleet",
    version,
    about = "Enrols gateways, judges them, and sends them their work."
)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a fleet: its root CA, its folder, its access tokens.
    Init(serve::Init),
    /// Run the fleet's server.
    Serve(serve::Serve),
    /// Copy the whole fleet into a new folder, also while its server runs. The copy holds the root's private key.
    Backup {
        /// Made by this command. To restore, give it as `--data`, or put it where the fleet's folder was.
        #[arg(value_name = "FOLDER")]
        to: PathBuf,
    },
    /// The fleet's database.
    #[command(subcommand)]
    Database(DatabaseCommand),
    /// Join tokens, each good for one gateway and one join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The gateways.
    #[command(subcommand)]
    Device(device::Device),
    /// Send a deployment to the gateways that its selector names.
    Deploy(deploy::Deploy),
    /// The deployments that the fleet carries.
    #[command(subcommand)]
    Deployment(deploy::DeploymentCommand),
    /// Reference values: which boots are accepted.
    #[command(subcommand)]
    Reference(trust::Reference),
    /// The CAs of TPM vendors.
    #[command(subcommand)]
    Vendor(trust::Vendor),
    /// The keys of operators who may sign deployments.
    #[command(subcommand)]
    OperatorKey(trust::OperatorKey),
    /// Make an operator's signing key.
    #[command(subcommand)]
    Key(key::Key),
    /// Secrets of modules, sealed to gateways.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Messages that gateways sent.
    #[command(subcommand)]
    Message(Message),
    /// The dashboard.
    #[command(subcommand)]
    Web(WebCommand),
    /// The access tokens of the command line and of the dashboard.
    #[command(subcommand)]
    Access(AccessCommand),
    /// Print a script by which a shell completes this program's commands.
    Completions(Completions),
    /// Write this program's manual pages, one a command, into a folder.
    Man(Manual),
}

#[derive(Debug, Subcommand)]
enum DatabaseCommand {
    /// Say whether the database is what was written, also while the server runs.
    Check,
    /// Make an empty database for a fleet that has lost its own and has no backup: every gateway must join again.
    New,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new token.
    Create {
        #[arg(long)]
        gateway: GatewayName,
        /// Time until it ends: `30m`, `1h`, `2d`.
        #[arg(long, default_value = "1h", value_parser = lifetime::parse)]
        expires: std::time::Duration,
        /// A label that the gateway gets, which deployments select by. Repeat for more.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Let a gateway without a TPM use it, whose keys are in a file or in a PKCS#11 token (`hardware: none`).
        #[arg(long)]
        allow_software: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Message {
    /// The newest messages of a gateway, the newest last.
    List {
        #[arg(long)]
        gateway: GatewayName,
        #[arg(long, default_value_t = 20)]
        last: u32,
    },
}

#[derive(Debug, Subcommand)]
enum WebCommand {
    /// Print the dashboard's address with its access token.
    Url,
}

#[derive(Debug, Subcommand)]
enum AccessCommand {
    /// Make new ones; the old ones are good for nothing from then on. The server must not run.
    Rotate,
}

/// Runs one command to its end; `serve` until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<(), Stop> {
    let common = arguments.common;
    match arguments.command {
        Command::Init(init) => init.run(&common).await,
        Command::Serve(serve) => serve.run(&common).await,
        Command::Backup { to } => {
            backup(&common.data()?, &to).await.map_err(Stop::failed)?;
            if common.is_json() {
                return output::json(&serde_json::json!({ "backup": to }));
            }
            say!("{}", to.display());
            Ok(())
        }
        Command::Database(DatabaseCommand::Check) => {
            check_database(&common.data()?).await.map_err(Stop::failed)?;
            eprintln!("the database is what was written");
            Ok(())
        }
        Command::Database(DatabaseCommand::New) => common.data()?.new_database().await.map_err(Stop::failed),
        Command::Token(TokenCommand::Create { gateway, expires, labels, allow_software }) => {
            let labels = distinct(labels)?;
            let request =
                TokenRequest { gateway, expires_seconds: expires.as_secs(), allow_software, labels };
            token(&common, &request).await
        }
        Command::Device(device) => device.run(&common).await,
        Command::Deploy(deploy) => deploy.run(&common).await,
        Command::Deployment(command) => command.run(&common).await,
        Command::Reference(reference) => reference.run(&common).await,
        Command::Vendor(vendor) => vendor.run(&common).await,
        Command::OperatorKey(operator_key) => operator_key.run(&common).await,
        Command::Key(key) => key.run(&common),
        Command::Secret(secret) => secret.run(&common).await,
        Command::Message(Message::List { gateway, last }) => messages(&common, &gateway, last).await,
        Command::Web(WebCommand::Url) => web(&common).await,
        Command::Access(AccessCommand::Rotate) => common.data()?.rotate_tokens().map_err(Stop::failed),
        Command::Completions(completions) => {
            output::text(&completions.script(&Arguments::command()));
            Ok(())
        }
        Command::Man(manual) => manual.write(&Arguments::command()).map_err(Stop::failed),
    }
}

async fn token(common: &Common, request: &TokenRequest) -> Result<(), Stop> {
    let token: Token = common.admin()?.post("/token", request).await?;
    if common.is_json() {
        return output::json(&token);
    }
    let hardware = if token.allow_software { "with or without a TPM" } else { "with a TPM" };
    eprintln!("for {}, once, {hardware}, until {}", token.gateway, date(token.expires));
    if !token.labels.is_empty() {
        eprintln!("its labels: {}", text::labels(&token.labels));
    }
    say!("{}", token.token.reveal());
    Ok(())
}

async fn messages(common: &Common, gateway: &GatewayName, last: u32) -> Result<(), Stop> {
    let mut messages: Vec<StoredMessage> =
        common.admin()?.get(&format!("/devices/{gateway}/messages?last={last}")).await?;
    messages.reverse();
    if common.is_json() {
        return output::json(&messages);
    }
    let row = |message: &StoredMessage| {
        vec![
            date(message.at),
            text::short_id(&message.from).to_owned(),
            message.topic.clone(),
            if message.damaged {
                "(damaged on the fleet's disk)".into()
            } else {
                text::payload(message.payload.as_slice())
            },
        ]
    };
    output::table(&["TIME", "FROM", "TOPIC", "PAYLOAD"], &messages.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

async fn web(common: &Common) -> Result<(), Stop> {
    let web: Web = common.admin()?.get("/web").await?;
    if common.is_json() {
        return output::json(&web);
    }
    let Some(url) = web.url else {
        return Err(Stop::Failed(
            "the fleet shows no dashboard\nhint: start it with `--web 127.0.0.1:8080`".into(),
        ));
    };
    say!("{url}");
    Ok(())
}
