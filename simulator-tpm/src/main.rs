//! `simulator-tpm`: a TPM for the demonstration and for tests, on swtpm.

use edgewarden_names::ErrorChain;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use edgewarden_simulator_tpm::{Boot, Scenario, SimulatorError, Start, manufacture, process};

#[derive(Debug, Parser)]
#[command(name = "simulator-tpm", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a TPM with EK certificates; print the file with the vendor's certificates
    Manufacture {
        #[arg(long)]
        state: PathBuf,
        /// Folder of a vendor CA that several TPMs share
        #[arg(long)]
        vendor_ca: Option<PathBuf>,
    },
    /// Start the TPM and play a measured boot into it; print the process number and leave it running
    Boot {
        #[arg(long)]
        state: PathBuf,
        /// Loopback port for commands; the next one is for control
        #[arg(long)]
        port: u16,
        #[arg(long, value_enum, default_value_t = Scenario::Normal)]
        scenario: Scenario,
        /// Events before the first measurement of the firmware
        #[arg(long, value_enum, default_value_t = Start::Plain)]
        start: Start,
        /// File for the boot's event log [default: event-log.bin in the state folder]
        #[arg(long)]
        event_log: Option<PathBuf>,
        /// File for the process number [default: swtpm.pid in the state folder]
        #[arg(long)]
        pid_file: Option<PathBuf>,
    },
    /// Kill the TPM as a power cut would
    PowerCut {
        #[arg(long)]
        pid_file: PathBuf,
    },
    /// End the TPM
    Stop {
        #[arg(long)]
        pid_file: PathBuf,
    },
}

fn run(action: Action) -> Result<(), SimulatorError> {
    match action {
        Action::Manufacture { state, vendor_ca } => {
            let certificates = manufacture::manufacture(&state, vendor_ca.as_deref())?;
            println!("{}", certificates.display());
            Ok(())
        }
        Action::Boot { state, port, scenario, start, event_log, pid_file } => {
            let event_log = event_log.unwrap_or_else(|| state.join("event-log.bin"));
            let pid_file = pid_file.unwrap_or_else(|| state.join("swtpm.pid"));
            if process::read_pid(&pid_file).is_ok() {
                let output = format!("it runs already, see `{}`", pid_file.display());
                return Err(SimulatorError::Program { program: "swtpm".to_owned(), output });
            }
            boot(&state, port, &Boot::started(scenario, start), &event_log, &pid_file)
        }
        Action::PowerCut { pid_file } => process::power_cut(&pid_file),
        Action::Stop { pid_file } => process::stop(&pid_file),
    }
}

fn boot(
    state: &Path,
    port: u16,
    boot: &Boot,
    event_log: &Path,
    pid_file: &Path,
) -> Result<(), SimulatorError> {
    let mut child = process::boot(state, port, boot)?;
    let write = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes)
            .map_err(|source| SimulatorError::Io { what: format!("write `{}`", path.display()), source })
    };
    let pid = child.id().to_string();
    let written = write(event_log, boot.log()).and_then(|()| write(pid_file, pid.as_bytes()));
    if written.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    } else {
        println!("{pid}");
    }
    written
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", ErrorChain(&error));
            ExitCode::FAILURE
        }
    }
}
