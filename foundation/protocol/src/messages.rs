//! Limits and lifetimes of messages for those who receive them: the table `messages` of a deployment.

use std::collections::{BTreeMap, BTreeSet};

use edgewarden_names::{LeafName, ModuleName};
use serde::{Deserialize, Serialize};

/// Largest payload unless the deployment says otherwise: readings and their summaries fit, files do not.
pub const BYTES_MAX_DEFAULT: u32 = 16 * 1024;
/// Most that a deployment can allow: a packet with the longest topic has 256 KiB.
pub const BYTES_MAX: u32 = 248 * 1024;
/// A week.
pub const SESSION_EXPIRY_DEFAULT_SECONDS: u32 = 7 * 24 * 3600;
const SESSION_EXPIRY_SECONDS: std::ops::RangeInclusive<u32> = 60..=366 * 24 * 3600;

/// Table `messages` of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Messages {
    /// Largest payload on topics that say nothing else.
    pub bytes_max: u32,
    /// Time for which a persistent session is kept while its client is away and the gateway runs.
    pub session_expiry_seconds: u32,
    /// Loss of a receiver that lags.
    pub lagging: Lagging,
    /// Modules for which it is otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub modules: BTreeMap<ModuleName, Receiver>,
    /// Leaf devices for which it is otherwise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leaves: BTreeMap<LeafName, Receiver>,
}

/// Exceptions for one receiver; an absent field is as in [`Messages`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lagging: Option<Lagging>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expiry_seconds: Option<u32>,
}

/// Loss of a receiver that does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lagging {
    /// Its oldest messages.
    #[default]
    DropOldest,
    /// Its session: it must subscribe again, and knows that it has missed something.
    EndSession,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            bytes_max: BYTES_MAX_DEFAULT,
            session_expiry_seconds: SESSION_EXPIRY_DEFAULT_SECONDS,
            lagging: Lagging::default(),
            modules: BTreeMap::new(),
            leaves: BTreeMap::new(),
        }
    }
}

impl Messages {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// `modules`, `leaves`: the deployment's.
    pub(crate) fn check(
        &self,
        modules: &BTreeSet<&ModuleName>,
        leaves: &BTreeSet<&LeafName>,
    ) -> Result<(), String> {
        bytes_max(self.bytes_max)?;
        let receivers = self.modules.values().chain(self.leaves.values());
        for seconds in
            receivers.filter_map(|one| one.session_expiry_seconds).chain([self.session_expiry_seconds])
        {
            if !SESSION_EXPIRY_SECONDS.contains(&seconds) {
                return Err("`session_expiry_seconds` is out of range: 60 to 31622400".into());
            }
        }
        if let Some(unknown) = self.modules.keys().find(|name| !modules.contains(*name)) {
            return Err(format!("`modules` names `{unknown}`, which the deployment does not have"));
        }
        if let Some(unknown) = self.leaves.keys().find(|name| !leaves.contains(*name)) {
            return Err(format!("`leaves` names `{unknown}`, which the deployment does not have"));
        }
        Ok(())
    }
}

pub(crate) fn bytes_max(bytes: u32) -> Result<(), String> {
    if (1..=BYTES_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(format!("`bytes_max` is out of range: 1 to {BYTES_MAX}"))
    }
}
