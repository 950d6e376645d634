//! Reference values: which boots are accepted.

use std::collections::{BTreeMap, BTreeSet};

use edgewarden_names::Digest;
use serde::{Deserialize, Serialize};

/// One accepted boot (or family of boots): for each PCR the values it may end with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValues {
    pub name: String,
    /// SHA-256 bank: PCR → the values it may have at the end of the boot.
    pub pcrs: BTreeMap<u8, BTreeSet<Digest>>,
    /// PCR → the digests that accepted boots extended. Explains a mismatch; decides nothing.
    pub events: BTreeMap<u8, BTreeSet<Digest>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the event log cannot be read")]
    EventLog,
}

impl ReferenceValues {
    /// Takes the boot that `event_log` (as the firmware wrote it) tells of as good.
    pub fn learn(_name: &str, _event_log: &[u8]) -> Result<Self, ReferenceError> {
        Err(ReferenceError::EventLog)
    }
}
