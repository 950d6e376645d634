use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::manufacture::{manufacture, vendor_ca_file};
use crate::{Boot, Scenario, SimulatorError, process};

/// Ports are taken from below the range that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_ATTEMPTS: usize = 50;
/// A port may stay taken for a moment after a power cut.
const REBOOT_ATTEMPTS: usize = 20;

/// A manufactured and booted swtpm on loopback, in the network namespace of the caller. Killed when dropped.
#[derive(Debug)]
pub struct SimulatedTpm {
    child: Option<Child>,
    port: u16,
    state: PathBuf,
}

impl SimulatedTpm {
    /// Manufactures a TPM in `state` (once) and boots it on a free pair of ports.
    pub fn start(state: &Path, scenario: Scenario) -> Result<Self, SimulatorError> {
        Self::start_with(state, None, &Boot::of(scenario))
    }

    /// As [`SimulatedTpm::start`], with a vendor CA that several TPMs share and with any boot.
    pub fn start_with(state: &Path, vendor_ca: Option<&Path>, boot: &Boot) -> Result<Self, SimulatorError> {
        manufacture(state, vendor_ca)?;
        let state = fs::canonicalize(state).map_err(SimulatorError::io("find the state folder"))?;
        let mut simulated = Self { child: None, port: 0, state };
        let mut last = SimulatorError::Timeout("find a free pair of ports");
        for _ in 0..PORT_ATTEMPTS {
            let Some(port) = free_pair()? else { continue };
            simulated.port = port;
            match simulated.power_on(boot) {
                Ok(()) => return Ok(simulated),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The command port; the control port is the next one. The TCTI is `swtpm:host=127.0.0.1,port=…`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The event log of the last boot, as the firmware wrote it.
    pub fn event_log(&self) -> PathBuf {
        self.state.join("event-log.bin")
    }

    /// The vendor's root and issuing certificates, one PEM file.
    pub fn vendor_ca(&self) -> PathBuf {
        vendor_ca_file(&self.state)
    }

    /// The EK certificate of this algorithm as swtpm has it in NV, DER.
    pub fn ek_certificate(&self, algorithm: EkAlgorithm) -> PathBuf {
        let name = match algorithm {
            EkAlgorithm::Rsa2048 => "ek-rsa2048.crt",
            EkAlgorithm::P384 => "ek-secp384r1.crt",
        };
        crate::manufacture::tpm_folder(&self.state).join(name)
    }

    /// Kills swtpm as a power cut would: without TPM2_Shutdown.
    pub fn power_cut(&mut self) -> Result<(), SimulatorError> {
        if let Some(mut child) = self.child.take() {
            child.kill().map_err(SimulatorError::io("kill swtpm"))?;
            child.wait().map_err(SimulatorError::io("wait for swtpm"))?;
        }
        Ok(())
    }

    /// Cuts the power, if it is on, and boots again on the same port.
    pub fn reboot(&mut self, scenario: Scenario) -> Result<(), SimulatorError> {
        self.reboot_with(&Boot::of(scenario))
    }

    /// As [`SimulatedTpm::reboot`], with any boot.
    pub fn reboot_with(&mut self, boot: &Boot) -> Result<(), SimulatorError> {
        self.power_cut()?;
        let mut last = SimulatorError::Timeout("start again");
        for _ in 0..REBOOT_ATTEMPTS {
            match self.power_on(boot) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Err(last)
    }

    fn power_on(&mut self, boot: &Boot) -> Result<(), SimulatorError> {
        self.child = Some(process::boot(&self.state, self.port, boot)?);
        let log = self.event_log();
        fs::write(&log, boot.log()).map_err(SimulatorError::io(format!("write `{}`", log.display())))
    }
}

impl Drop for SimulatedTpm {
    fn drop(&mut self) {
        let _ = self.power_cut();
    }
}

/// The endorsement keys that a simulated TPM is manufactured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EkAlgorithm {
    /// Persistent handle 0x81010001, certificate in NV 0x01c00002.
    Rsa2048,
    /// Persistent handle 0x81010016, certificate in NV 0x01c00016.
    P384,
}

/// Two adjacent ports that nobody listens on at this moment.
fn free_pair() -> Result<Option<u16>, SimulatorError> {
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| SimulatorError::io("get random bytes")(std::io::Error::other("no randomness")))?;
    let offset = u16::from_be_bytes(random) % (PORTS.end - PORTS.start);
    let port = PORTS.start + offset / 2 * 2;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    Ok((free(port) && free(port + 1)).then_some(port))
}
