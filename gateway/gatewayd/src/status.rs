//! What the command line asks of `gatewayd` on its own control socket (root only), one frame each way.

use edgewarden_names::{Epoch, Refusal, UnixTime};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// → [`Reply::Status`]
    Status,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    Status(Box<Status>),
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// The policy epoch in force here.
    pub epoch: Option<Epoch>,
    /// False when `identityd` says that the verdict forbids issuing.
    pub trusted: bool,
    pub connections: Vec<ConnectionStatus>,
    /// Sessions, connected or kept for a client that is away.
    pub sessions: u64,
    /// Messages that wait for a client that is away or slow.
    pub waiting_messages: u64,
    pub retained_messages: u64,
    /// On the way upstream.
    pub queue: Option<QueueStatus>,
    /// For persistent sessions; its records also note what was acknowledged.
    pub journal: Option<QueueStatus>,
    pub upstream: UpstreamStatus,
    /// QoS 0 messages dropped because a receiver was too slow.
    pub dropped_qos0: u64,
    /// Publications, subscriptions and connections refused.
    pub refused: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionStatus {
    pub id: String,
    pub from: String,
    /// End of the certificate: the connection is closed then.
    pub expires: UnixTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueStatus {
    pub id: String,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum UpstreamStatus {
    /// No fleet in the configuration.
    None,
    /// Not tried yet.
    Idle,
    Connected {
        since: UnixTime,
    },
    Unreachable {
        since: UnixTime,
        error: String,
    },
}
