//! The leaf device: enrols through the gateway once, then publishes a recorded trace as if it measured.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use glucose_monitor::leaf::{Enrolment, enrol};
use glucose_monitor::sensor::{Run, run};

#[derive(Parser)]
#[command(about = "A glucose sensor (simulated leaf device)", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key and have it certified by the gateway
    Enrol {
        /// `host:port` where the gateway enrols leaf devices
        #[arg(long)]
        gateway: String,
        /// The name that the deployment gives this device
        #[arg(long)]
        leaf: String,
        /// One-time token, from `edgewarden leaf allow`
        #[arg(long)]
        token: String,
        /// The trust domain that the gateway must belong to
        #[arg(long)]
        trust_domain: String,
        /// The fleet's root certificate (PEM): the only trust anchor
        #[arg(long)]
        root: PathBuf,
        /// Where key and certificates are kept
        #[arg(long)]
        dir: PathBuf,
    },
    /// Publish a trace
    Run {
        /// `host:port` where the gateway takes leaf devices' messages
        #[arg(long)]
        gateway: String,
        #[arg(long)]
        dir: PathBuf,
        /// CSV with the columns `time` and `glucose_mg_dl`
        #[arg(long)]
        trace: PathBuf,
        /// How many times faster than it was recorded; 0: as fast as the gateway acknowledges
        #[arg(long, default_value_t = 1.0)]
        speed: f64,
        /// Stop after so many readings; the trace begins again when it ends
        #[arg(long)]
        limit: Option<usize>,
        /// Instead of `leaf/<own name>/glucose`
        #[arg(long)]
        topic: Option<String>,
        /// Print a line after every so many readings
        #[arg(long, default_value_t = 60)]
        every: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    match Arguments::parse().command {
        Command::Enrol { gateway, leaf, token, trust_domain, root, dir } => {
            enrol(&Enrolment { gateway, leaf, token, trust_domain, root, dir }).await
        }
        Command::Run { gateway, dir, trace, speed, limit, topic, every } => {
            run(&Run { gateway, dir, trace, speed, limit, topic, every }).await
        }
    }
}
