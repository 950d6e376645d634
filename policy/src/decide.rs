use std::sync::Arc;

use edgewarden_names::{Epoch, ModuleName};

use crate::epoch::CompiledEpoch;
use crate::principal::Principal;

/// An answer of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Allowed: the rule that permits. Denied: what denies it, in plain words, with the nearest rule that permits.
    pub rule: Arc<str>,
    pub epoch: Epoch,
}

impl CompiledEpoch {
    /// May this principal open a session with the broker?
    pub fn may_connect(&self, _principal: &Principal) -> Decision {
        self.deny()
    }
    /// May it publish on this topic?
    pub fn may_publish(&self, _principal: &Principal, _topic: &str) -> Decision {
        self.deny()
    }
    /// May it hold a subscription to this filter?
    pub fn may_subscribe(&self, _principal: &Principal, _filter: &str) -> Decision {
        self.deny()
    }
    /// May it be given a message of this topic?
    pub fn may_receive(&self, _principal: &Principal, _topic: &str) -> Decision {
        self.deny()
    }
    /// May its messages go to this cloud endpoint?
    pub fn may_upload(&self, _principal: &Principal, _endpoint: &str) -> Decision {
        self.deny()
    }
    /// May `from` open a TCP connection to this port of `to`?
    pub fn may_flow(&self, _from: &ModuleName, _to: &ModuleName, _port: u16) -> Decision {
        self.deny()
    }
    fn deny(&self) -> Decision {
        Decision { allowed: false, rule: "no rule".into(), epoch: self.epoch() }
    }
}
