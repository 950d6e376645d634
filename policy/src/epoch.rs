use edgewarden_names::Epoch;
use serde::{Deserialize, Serialize};

/// One policy in force: every answer that Cedar gave, as tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompiledEpoch {
    epoch: Epoch,
}

impl CompiledEpoch {
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    pub(crate) fn empty(epoch: Epoch) -> Self {
        Self { epoch }
    }
}
