//! All that enforcers go by, at one revision.

use edgewarden_names::{Epoch, GatewayName, Refusal, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};

use super::starts::StartRecord;
use super::time::ToldTime;
use super::topic_size::TopicSize;
use crate::Bytes;
use crate::deployment::{Route, WhenUntrusted};
use crate::messages::Messages;

/// Answer to [`Request::Watch`](super::Request::Watch): all that enforcers go by, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub revision: u64,
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    pub policy: Option<PolicyInForce>,
    /// Live start records of those that may have an identity.
    pub records: Vec<StartRecord>,
    /// Instances that run and are not vouched for. Of these, only those to be reported are among `records` too.
    #[serde(default)]
    pub untrusted: Vec<Untrusted>,
    /// Counts changes of secrets: when it is another number, some may be new.
    pub secrets: u64,
    /// False when the verdict forbids issuing: enforcers close what depends on it.
    pub trusted: bool,
    pub time: ToldTime,
    /// Problems that stay until somebody does something; at most [`STANDING_MAX`]. As it was when the answer was made:
    /// a change makes no revision.
    #[serde(default)]
    pub standing: Vec<Standing>,
}

/// Standing problems that a snapshot tells of.
pub const STANDING_MAX: usize = 8;

/// A problem that stands until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    pub refusal: Refusal,
    /// Time at which it becomes an outage, where that is known.
    pub expires: Option<UnixTime>,
}

/// A compiled policy with what the deployment says beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInForce {
    pub epoch: Epoch,
    /// `edgewarden_policy::CompiledEpoch` as JSON.
    pub compiled: Bytes,
    /// The routes of the deployment that the policy came with.
    pub routes: Vec<Route>,
    /// The table `messages` of that deployment.
    #[serde(default)]
    pub messages: Messages,
    /// Its topics that say how large a payload may be.
    #[serde(default)]
    pub sizes: Vec<TopicSize>,
}

/// An instance that runs and that the deployment in force does not vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untrusted {
    pub record: StartRecord,
    pub then: WhenUntrusted,
    /// The reason that the deployment does not vouch for it.
    pub refusal: Refusal,
}

impl Untrusted {
    /// `true` when it goes on with its identity.
    pub fn keeps_identity(&self) -> bool {
        self.then == WhenUntrusted::Report
    }
}
