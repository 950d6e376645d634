//! The firmware's measurements: event log and PCR banks.

use std::collections::BTreeSet;

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::event_log::{EventLog, LOG_BYTES_MAX};
use edgewarden_protocol::config::Config;

use super::{Read, Sources, bytes, has_tpm};

/// Facts about the boot's measurements: the event log, read and parsed, and the TPM's PCR banks.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// The event log's bytes. `None` without a TPM.
    pub event_log: Option<Read<Vec<u8>>>,
    /// The log as parsed; `None` when its bytes are not there.
    pub parsed: Option<Read<EventLog>>,
    /// Number of events that extend a PCR of the SHA-256 bank.
    pub sha256_events: usize,
    /// The PCR banks of the kernel's first TPM, such as `sha256`. Empty when the kernel shows none.
    pub banks: BTreeSet<String>,
}

/// Reads the configured event log, of at most [`LOG_BYTES_MAX`], and the PCR banks in /sys.
pub fn gather(sources: &Sources, config: Option<&Config>) -> Boot {
    let config = config.filter(|config| has_tpm(&config.keystore));
    let event_log = config.map(|config| {
        let path = &config.attestation.event_log;
        bytes(path, LOG_BYTES_MAX as u64)
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()))
    });
    let parsed = match &event_log {
        Some(Ok(log)) => Some(EventLog::parse(log).map_err(|error| error.to_string())),
        _ => None,
    };
    let sha256 = |digests: &[(HashAlg, Vec<u8>)]| digests.iter().any(|(bank, _)| *bank == HashAlg::Sha256);
    let sha256_events = match &parsed {
        Some(Ok(log)) => {
            log.events().iter().filter(|event| event.extends() && sha256(&event.digests)).count()
        }
        _ => 0,
    };
    let folder = std::fs::read_dir(sources.sys.join("class/tpm/tpm0"));
    let names = folder.into_iter().flatten().flatten().take(1024);
    let banks = names
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pcr-").map(str::to_owned))
        .collect();
    Boot { event_log, parsed, sha256_events, banks }
}
