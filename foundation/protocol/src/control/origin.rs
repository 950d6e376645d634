//! Those whose doings are told: parties of a refusal, and enforcers.

use std::net::IpAddr;

use edgewarden_names::{LeafName, ModuleName};
use serde::{Deserialize, Serialize};

/// The party whose doing a refusal is, as far as it is proven. Each origin has an allowance of its own in the audit
/// log, so that nobody's refusals keep another's out of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Origin {
    /// A peer that proved nothing. What it claims to be counts for nothing: it is named by its address.
    Stranger { address: IpAddr },
    /// A leaf device that proved who it is.
    Leaf { leaf: LeafName },
    /// A module that proved who it is, by certificate or by its place.
    Module { module: ModuleName },
    /// The enforcer itself: what it could not do.
    Enforcer,
}

/// A daemon that enforces a policy epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcer {
    Runtimed,
    Gatewayd,
}

impl std::fmt::Display for Enforcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Runtimed => "runtimed",
            Self::Gatewayd => "gatewayd",
        })
    }
}
