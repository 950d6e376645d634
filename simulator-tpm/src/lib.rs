//! Drives swtpm as a gateway's TPM: manufacture, measured boot, power cut.
//!
//! For the demonstration and for tests; no part of the product, and trusted by nobody: its vendor CA is its own.
//!
//! * [`SimulatedTpm`]: a TPM for one test, killed when dropped
//! * [`Boot`]: the measurements of a boot, as event log and as what is extended into the PCRs
//! * [`manufacture`], [`process`]: the steps apart, as the `simulator-tpm` program takes them

mod boot;
mod error;
pub mod manufacture;
pub mod process;
mod simulated;
mod wire;

pub use boot::{Boot, Scenario, Start};
pub use error::SimulatorError;
pub use simulated::{EkAlgorithm, SimulatedTpm};
