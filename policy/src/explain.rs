use std::fmt;

use edgewarden_names::Epoch;

use crate::epoch::CompiledEpoch;
use crate::principal::{Action, Principal};

/// A decision for a person (`Display`, several lines) and for scripts (`Serialize`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    pub principal: Principal,
    pub action: Action,
    pub target: String,
    pub allowed: bool,
    pub epoch: Epoch,
    /// As in [`crate::Decision`].
    pub rule: String,
    /// Rules of the policy that bear on the answer, as they are written.
    pub text: Vec<String>,
    /// What else the principal may do with this action.
    pub permitted: Vec<String>,
}

impl CompiledEpoch {
    /// `target`: a topic, a topic filter, `<module>:<port>`, a cloud endpoint, or the gateway's name.
    pub fn explain(&self, principal: &Principal, action: Action, target: &str) -> Explanation {
        Explanation {
            principal: principal.clone(),
            action,
            target: target.into(),
            allowed: false,
            epoch: self.epoch(),
            rule: String::new(),
            text: Vec::new(),
            permitted: Vec::new(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)
    }
}
