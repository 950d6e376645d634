//! The boot log that firmware and boot loaders write (TCG PC Client Platform Firmware Profile 1.06, "PFP",
//! section 10): the crypto-agile form (TCG_PCR_EVENT2) and the legacy SHA-1 form (TCG_PCR_EVENT).
//!
//! A log is a claim. It is worth something only when [`EventLog::replay`] leads to PCR values that a TPM quoted, and
//! then only its digests are: event types and data are not covered by the digests unless the reader hashes them.

mod event;
mod parse;

pub use event::{Event, EventType};

use crate::{HashAlg, PcrValues};

/// Largest log that is parsed.
pub const LOG_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Most events in a log.
pub const EVENTS_MAX: usize = 16 * 1024;

/// Format of an event log (PFP section 10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// SHA-1 only.
    Legacy,
    CryptoAgile,
}

/// A TCG2 event log, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    format: Format,
    /// The banks that can be replayed. Other banks of the log are skipped.
    banks: Vec<HashAlg>,
    pcr_0_start: u8,
    events: Vec<Event>,
}

impl EventLog {
    /// Format of the whole log.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// The banks that can be replayed.
    pub fn banks(&self) -> &[HashAlg] {
        &self.banks
    }

    /// The last byte of PCR 0 before its first event, in every bank: 4 after an H-CRTM sequence (TPM 2.0 Library Part 1,
    /// "H-CRTM before TPM2_Startup()"), whatever the locality of TPM2_Startup, else that locality (PFP section 10.4.5.3).
    pub fn pcr_0_start(&self) -> u8 {
        self.pcr_0_start
    }

    /// All events after the header, those that extend nothing too.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The PCR values that the log leads to.
    pub fn replay(&self) -> PcrValues {
        let mut values = PcrValues::at_startup(&self.banks, self.pcr_0_start);
        for event in self.events.iter().filter(|event| event.extends()) {
            let Ok(pcr) = u8::try_from(event.pcr) else { continue };
            for (bank, digest) in &event.digests {
                values.extend(*bank, pcr, digest);
            }
        }
        values
    }
}
