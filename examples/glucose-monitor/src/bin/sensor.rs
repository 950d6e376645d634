//! The leaf device: enrols through the gateway once, then publishes a recorded trace as if it measured.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use glucose_monitor::leaf::{Enrolment, enrol, renew};
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
        /// Folder for key and certificates
        #[arg(long)]
        dir: PathBuf,
    },
    /// Have the certificate renewed, when a third of its life is over: by itself, without a token
    Renew {
        /// `host:port` where the gateway enrols leaf devices
        #[arg(long)]
        gateway: String,
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
        /// `host:port` where the gateway enrols leaf devices: the certificate is renewed there before, when it is due
        #[arg(long)]
        renew_at: Option<String>,
        /// CSV with the columns `time` and `glucose_mg_dl`
        #[arg(long)]
        trace: PathBuf,
        /// Multiple of the speed at which it was recorded; 0: as fast as the gateway acknowledges
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
        Command::Renew { gateway, dir } => {
            if !renew(&gateway, &dir).await? {
                println!("not due yet");
            }
            Ok(())
        }
        Command::Run { gateway, dir, renew_at, trace, speed, limit, topic, every } => {
            if let Some(renew_at) = renew_at
                && let Err(error) = renew(&renew_at, &dir).await
            {
                // The certificate that it has is good as long as it lasts.
                eprintln!("not renewed: {error}");
            }
            run(&Run { gateway, dir, trace, speed, limit, topic, every }).await
        }
    }
}
