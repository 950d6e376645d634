//! A rule as an epoch has it.

use serde::{Deserialize, Serialize};

/// Largest policy text.
pub(crate) const POLICY_BYTES_MAX: usize = 256 * 1024;
/// Most rules in one policy: as many as fit in the text.
pub(crate) const RULES_MAX: usize = POLICY_BYTES_MAX / "permit(principal,action,resource);".len();

/// A rule of the policy, with its text for explanations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) effect: RuleEffect,
    /// As it is written.
    pub(crate) text: String,
    /// The principals and resources that it knows by themselves, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) principals: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<u32>,
}

/// The effect of a rule that applies. A forbid wins over any permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuleEffect {
    Permit,
    Forbid,
}
