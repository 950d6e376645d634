//! An enrolled gateway and its fleet: HTTP with JSON over mutual TLS. The gateway always calls.
//!
//! * `POST /v1/gateway/sync` [`Sync`] → [`SyncReply`], by `…/module/runtimed`. Held for up to `wait_seconds`.
//! * `POST /v1/gateway/messages` [`Messages`] → [`MessagesReply`], by `…/module/gatewayd`.
//! * `POST /v1/gateway/jwt-keys` [`JwtKeysUpload`] → nothing, by `…/module/runtimed`.
//!
//! A refusal is HTTP 4xx with a [`edgewarden_names::Refusal`] as body.

use edgewarden_names::{Architecture, Digest, Epoch, ModuleName, Refusal, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::enrol::Verdict;
use crate::secret::{AgreementKey, SecretStatus};

/// Most messages in one batch.
pub const MESSAGES_MAX: usize = 1000;
/// Most bytes of payload in one batch.
pub const MESSAGES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Request of a gateway: its report, and the wait for a newer deployment or newer secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// The deployment that is in force, by the digest of its envelope.
    pub have: Option<Digest>,
    pub wait_seconds: u32,
    pub report: Report,
    /// Absent: the gateway takes no secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsSync>,
}

/// The keys that a gateway signs JWT-SVIDs with, vouched for by its CA's key ([`crate::jwt_keys`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKeysUpload {
    pub envelope: Bytes,
}

/// Secrets that a gateway has, and the key that more can be sealed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsSync {
    pub key: AgreementKey,
    /// At most [`crate::secret::ENTRIES_MAX`].
    pub have: Vec<SecretStatus>,
    /// Envelopes that the gateway refused, by the SHA-256 of their bytes; at most [`REFUSED_MAX`], the newest.
    pub refused: Vec<Digest>,
}

/// Most refused envelopes that a gateway tells of.
pub const REFUSED_MAX: usize = 64;
/// Most envelopes of secrets in one answer: the rest come with the next.
pub const SECRETS_SENT_MAX: usize = 4;

/// Answer to [`Sync`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncReply {
    /// The signed envelope to put in force; absent when `have` is right.
    pub deployment: Option<Bytes>,
    /// Envelopes of secrets that are newer than what the gateway has, at most [`SECRETS_SENT_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Bytes>,
}

/// A gateway's account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub software_version: String,
    /// Architecture that its images have to be for. Absent from gateways of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    pub deployment: Option<DeploymentReport>,
    pub policy_epoch: Option<Epoch>,
    pub modules: Vec<ModuleReport>,
    /// The newest refusals, oldest first, at most 32.
    pub refusals: Vec<RefusalReport>,
    pub verdict: Option<Verdict>,
    pub at: UnixTime,
}

/// Name and version of the deployment in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentReport {
    pub name: String,
    pub version: u64,
}

/// A refusal with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusalReport {
    pub at: UnixTime,
    pub refusal: Refusal,
}

/// State of one module, for the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleReport {
    pub name: ModuleName,
    pub image: String,
    pub state: ModuleState,
    pub generation: u64,
    pub restarts: u32,
    /// The reason that it is not running, or the limit at which it was held lately while it runs.
    pub reason: Option<Refusal>,
    /// The revision that it is to become, while that is not what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<ModuleUpdate>,
}

/// A revision of a module that a deployment names and that does not run, while the one before it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleUpdate {
    pub image: String,
    /// `pulling`; `waiting` when it is tried again by itself; `refused` when something must change first.
    pub state: ModuleState,
    /// The reason that it does not run, once that was tried.
    pub reason: Option<Refusal>,
}

/// State of a module's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleState {
    Pulling,
    Refused,
    Starting,
    Running,
    /// Runs, and has no valid certificate.
    Degraded,
    /// Ended, to be started again after its backoff.
    Waiting,
    Stopped,
}

impl ModuleState {
    /// The serialized name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pulling => "pulling",
            Self::Refused => "refused",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

/// Messages for the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Of one epoch, ascending by `sequence`. The fleet keeps each sequence number of a gateway's epoch once.
    pub messages: Vec<Message>,
}

/// One message with its place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Names the epoch that numbers the messages: 16 random bytes, hexadecimal, chosen anew whenever the gateway opens its
    /// queue, so that one which runs from an older copy of its disk gives no number of before to another message. A
    /// message keeps the epoch that it was stored under.
    pub queue: String,
    pub sequence: u64,
    pub at: UnixTime,
    pub from: SpiffeId,
    pub topic: String,
    pub payload: Bytes,
}

/// Answer to [`Messages`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessagesReply {
    /// The highest sequence number that is stored: the gateway may forget up to here.
    pub stored: u64,
    /// The first number of the batch that another message has in this epoch. Nothing from there on was stored: the
    /// gateway sends it again under a new epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<u64>,
}
