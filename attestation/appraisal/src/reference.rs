//! Reference values: which boots are accepted (RFC 9334 section 8.3).

use std::collections::{BTreeMap, BTreeSet};

use edgewarden_evidence::event_log::{Event, EventLog};
use edgewarden_evidence::{HashAlg, ParseError, PcrValues};
use edgewarden_names::{Digest, sha256};
use serde::{Deserialize, Serialize};

use crate::challenge::BOOT_PCRS;

/// Events of a PCR that a mismatch names; what is beyond them is counted.
const EXPLAINED_MAX: usize = 4;

/// One accepted boot: for each PCR the values that it may end with. A PCR that is not listed matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    pub name: String,
    /// SHA-256 bank: PCR → values at the end of the boot.
    pub pcrs: BTreeMap<u8, BTreeSet<Digest>>,
    /// PCR → the digests that were extended. Explains a mismatch; decides nothing.
    pub events: BTreeMap<u8, BTreeSet<Digest>>,
}

/// Error of an event log that gives no reference values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the event log cannot be read")]
    EventLog(#[source] ParseError),
    #[error("the event log has no SHA-256 bank")]
    Bank,
    #[error("the event log measures nothing into PCR {0}")]
    Unmeasured(u8),
}

impl ReferenceValues {
    /// Takes the boot that `event_log` (as the firmware wrote it) tells of as good. Whoever calls vouches for it: use
    /// the log of a boot that is known to be good, or one that [`crate::appraise()`] met in evidence it found genuine.
    pub fn learn(name: &str, event_log: &[u8]) -> Result<Self, ReferenceError> {
        let log = EventLog::parse(event_log).map_err(ReferenceError::EventLog)?;
        let values = log.replay();
        if let Some(pcr) = unmeasured(&log) {
            return Err(ReferenceError::Unmeasured(pcr));
        }
        let mut pcrs = BTreeMap::new();
        let mut events = BTreeMap::new();
        for pcr in BOOT_PCRS {
            let value = sha256_value(&values, pcr).ok_or(ReferenceError::Bank)?;
            pcrs.insert(pcr, BTreeSet::from([value]));
            events.insert(pcr, events_of(&log, pcr).filter_map(digest_of).collect());
        }
        Ok(Self { name: name.to_owned(), pcrs, events })
    }

    fn accepts(&self, values: &PcrValues, pcr: u8) -> bool {
        match (self.pcrs.get(&pcr), sha256_value(values, pcr)) {
            (Some(accepted), Some(value)) => accepted.contains(&value),
            _ => false,
        }
    }

    /// The PCRs whose values this boot does not accept.
    pub(crate) fn mismatches(&self, values: &PcrValues, pcrs: &[u8]) -> Vec<u8> {
        pcrs.iter().copied().filter(|&pcr| !self.accepts(values, pcr)).collect()
    }

    /// Says which PCRs differ and which of the log's events are not in this boot.
    pub(crate) fn explain(&self, log: &EventLog, mismatches: &[u8]) -> String {
        let sentences: Vec<String> = mismatches.iter().map(|&pcr| self.explain_pcr(log, pcr)).collect();
        sentences.join(". ")
    }

    fn explain_pcr(&self, log: &EventLog, pcr: u8) -> String {
        let known = self.events.get(&pcr);
        let foreign: Vec<(&Event, Digest)> = events_of(log, pcr)
            .filter_map(|event| digest_of(event).map(|digest| (event, digest)))
            .filter(|(_, digest)| known.is_none_or(|known| !known.contains(digest)))
            .collect();
        let mut parts = vec![format!("PCR {pcr} differs from reference `{}`", self.name)];
        if foreign.is_empty() {
            parts.push("its events are known, but some are missing, repeated or in another order".to_owned());
        }
        for (event, digest) in foreign.iter().take(EXPLAINED_MAX) {
            parts.push(format!("event {} {} {digest} is not in it", event.index, event.event_type));
        }
        if let Some(more @ 1..) = foreign.len().checked_sub(EXPLAINED_MAX) {
            parts.push(format!("{more} more events are not in it"));
        }
        parts.join("; ")
    }

    /// The value of each PCR when this boot accepts exactly one.
    pub(crate) fn only_value(&self, pcr: u8) -> Option<&Digest> {
        let accepted = self.pcrs.get(&pcr)?;
        accepted.first().filter(|_| accepted.len() == 1)
    }
}

/// PCR 0 or 4 when nothing was measured into it: such a TPM vouches for any firmware or any boot loader that is put
/// in later ("TPM Carte Blanche").
pub(crate) fn unmeasured(log: &EventLog) -> Option<u8> {
    let markers: Vec<Digest> = MARKERS.iter().map(|data| Digest::from_sha256(&sha256(data))).collect();
    let measures = |event: &Event| digest_of(event).is_none_or(|digest| !markers.contains(&digest));
    [0, 4].into_iter().find(|&pcr| !events_of(log, pcr).any(measures))
}

/// Events that firmware extends to mark a step of the boot, whatever it boots (PFP sections 3.3.4 and 10.4.1):
/// separators and the actions of the boot manager. Told by their digests, for the event types are anybody's word.
const MARKERS: [&[u8]; 7] = [
    &[0; 4],
    &[0xff; 4],
    &[1, 0, 0, 0],
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"Booting to EFI Shell",
    // What EV_EFI_HCRTM_EVENT says, where hardware extended no more than that.
    b"HCRTM",
];

pub(crate) fn sha256_value(values: &PcrValues, pcr: u8) -> Option<Digest> {
    let value: &[u8; 32] = values.get(HashAlg::Sha256, pcr)?.try_into().ok()?;
    Some(Digest::from_sha256(value))
}

fn events_of(log: &EventLog, pcr: u8) -> impl Iterator<Item = &Event> {
    log.events().iter().filter(move |event| event.extends() && event.pcr == u32::from(pcr))
}

fn digest_of(event: &Event) -> Option<Digest> {
    let digest: &[u8; 32] = event.digest(HashAlg::Sha256)?.try_into().ok()?;
    Some(Digest::from_sha256(digest))
}
