//! `edgewarden`: the commands for people and scripts, and the daemons' entry points.
//!
//! Data goes to standard output, words to standard error. Exit codes: 0 yes, 1 failed, 2 usage, 3 refused by
//! policy or verification.

mod commands;
mod exit;
mod folders;
mod output;
mod supervisor;
mod svid;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use edgewarden_protocol::layout::Layout;
use edgewarden_terminal::{Completions, Manual};

use crate::exit::Problem;
use crate::output::Format;

#[derive(Debug, Parser)]
#[command(name = "edgewarden", version, about = "Makes an edge gateway trustworthy.")]
struct Arguments {
    /// Moves /etc, /var/lib and /run of this gateway beneath a folder.
    #[arg(long, global = true, default_value = "/", env = "EDGEWARDEN_ROOT")]
    root: PathBuf,
    /// Form of answers on standard output.
    #[arg(short = 'o', long = "output", global = true, default_value = "text")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol this gateway in a fleet and write its configuration.
    Join(commands::join::Join),
    /// Run all daemons under one supervisor, where there is no systemd.
    Up,
    /// Stop every module and remove what runs in the kernel for them.
    Down,
    /// Show the gateway, its modules and its newest refusals.
    Status,
    /// Look for what keeps the gateway from working, and say how to mend it. Changes nothing.
    Doctor(commands::doctor::Doctor),
    /// Show what a module printed.
    Logs(commands::runtime::Logs),
    /// The folders of modules that outlive their instances.
    #[command(subcommand)]
    Volume(commands::volume::Volume),
    /// Prove this boot to the fleet again, now.
    Renew,
    /// The certificate from a site's own CA.
    #[command(subcommand)]
    Est(commands::est::Est),
    /// Other trust domains, and their bundles.
    #[command(subcommand)]
    Federation(commands::federation::Federation),
    /// Give this gateway a signed deployment by hand, as on a site without a network.
    #[command(subcommand)]
    Deployment(commands::deployment::Deployment),
    /// The secrets of modules, sealed to this gateway.
    #[command(subcommand)]
    Secret(commands::secret::Secret),
    /// Ask about the communication policy.
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    /// Build, push, sign and judge module images.
    #[command(subcommand)]
    Image(commands::image::Image),
    /// Let leaf devices enrol.
    #[command(subcommand)]
    Leaf(commands::identity::Leaf),
    /// Module certificates.
    #[command(subcommand)]
    Svid(svid::Svid),
    /// Keys that modules keep in the gateway's keystore.
    #[command(subcommand)]
    Keys(commands::keys::Keys),
    /// Evidence of this boot.
    #[command(subcommand)]
    Attest(commands::attest::Attest),
    /// The time that this gateway goes by.
    Clock(commands::clock::Clock),
    /// The audit log.
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    /// The store of this gateway's keys.
    #[command(subcommand)]
    Keystore(commands::keystore::Keystore),
    /// Messages that nobody has taken.
    #[command(subcommand)]
    Messages(commands::messages::Messages),
    /// Print the daemons' numbers for a monitoring system.
    Metrics(commands::metrics::Metrics),
    /// Print a script by which a shell completes this program's commands.
    Completions(Completions),
    /// Write this program's manual pages, one a command, into a folder.
    Man(Manual),
    /// Runs the identity daemon (for supervisors).
    #[command(hide = true)]
    Identityd,
    /// Runs the module daemon (for supervisors).
    #[command(hide = true)]
    Runtimed,
    /// Runs the messaging daemon (for supervisors).
    #[command(hide = true)]
    Gatewayd,
    /// Keeps what a module prints (for the module daemon).
    #[command(hide = true)]
    LogPump { folder: PathBuf, module: edgewarden_names::ModuleName },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("EDGEWARDEN_LOG")
                .unwrap_or_else(|_| "info,cryptoki=off".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), Problem> {
    let root = std::path::absolute(&arguments.root).map_err(Problem::failed)?;
    let layout = Layout::new(root);
    let format = arguments.format;
    if format == Format::Pem && !matches!(arguments.command, Command::Svid(_)) {
        return Err(Problem::Usage("only `svid fetch` has answers in PEM".into()));
    }
    let daemon = matches!(
        arguments.command,
        Command::Up | Command::Identityd | Command::Runtimed | Command::Gatewayd | Command::LogPump { .. }
    );
    if !daemon {
        edgewarden_platform::pipe::end_when_output_closes();
    }
    match arguments.command {
        Command::Identityd => {
            alone()?;
            return edgewarden_identityd::run(&layout, commands::load(&layout)?).map_err(Problem::failed);
        }
        Command::Gatewayd => {
            alone()?;
            return edgewarden_gatewayd::run(&layout, &commands::load(&layout)?).map_err(Problem::failed);
        }
        Command::LogPump { folder, module } => {
            alone()?;
            return edgewarden_runtimed::log_pump::run(&folder, &module).map_err(Problem::failed);
        }
        _ => {}
    }
    // One thread per daemon and command: the daemons wait far more than they compute, and a second core is for
    // the modules. Blocking work (TPM, files, programs) has tokio's own blocking threads.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Problem::failed)?;
    runtime.block_on(async {
        match arguments.command {
            Command::Join(join) => join.run(&layout, format).await,
            Command::Up => supervisor::up(&layout).await,
            Command::Down => commands::runtime::down(&layout).await,
            Command::Status => commands::status::run(&layout, format).await,
            Command::Doctor(doctor) => doctor.run(&layout, format).await,
            Command::Logs(logs) => logs.run(&layout, format).await,
            Command::Volume(volume) => volume.run(&layout, format).await,
            Command::Renew => commands::runtime::renew(&layout, format).await,
            Command::Est(est) => est.run(&layout, format).await,
            Command::Federation(federation) => federation.run(&layout, format).await,
            Command::Deployment(deployment) => deployment.run(&layout, format).await,
            Command::Secret(secret) => secret.run(&layout, format).await,
            Command::Policy(policy) => policy.run(&layout, format).await,
            Command::Image(image) => image.run(format).await,
            Command::Leaf(leaf) => leaf.run(&layout, format).await,
            Command::Svid(svid) => svid.run(&layout, format).await,
            Command::Keys(keys) => keys.run(&layout, format).await,
            Command::Attest(attest) => attest.run(&layout, format).await,
            Command::Clock(clock) => clock.run(&layout, format).await,
            Command::Audit(audit) => audit.run(&layout, format).await,
            Command::Keystore(keystore) => keystore.run(&layout),
            Command::Messages(messages) => messages.run(&layout, format).await,
            Command::Metrics(metrics) => metrics.run(&layout).await,
            Command::Completions(completions) => {
                print!("{}", completions.script(&Arguments::command()));
                Ok(())
            }
            Command::Man(manual) => manual.write(&Arguments::command()).map_err(Problem::failed),
            // Before: they confine themselves first, and only then have threads.
            Command::Identityd | Command::Gatewayd | Command::LogPump { .. } => Ok(()),
            Command::Runtimed => {
                let config = commands::load(&layout)?;
                let log_pump = edgewarden_runtimed::LogPump::new(["log-pump"]);
                edgewarden_runtimed::run(layout, config, log_pump).await.map_err(Problem::failed)
            }
        }
    })
}

/// Fails when the process has several threads: a daemon takes rights away from the thread that it starts in, which must
/// be its only one.
fn alone() -> Result<(), Problem> {
    if edgewarden_platform::harden::is_single_threaded() {
        return Ok(());
    }
    Err(Problem::text("the process has several threads before it is confined, or `/proc` is not mounted"))
}
