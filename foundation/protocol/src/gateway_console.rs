//! Requests of the command line to `gatewayd`, on its own control socket (root only), one frame each way.

use edgewarden_names::{Epoch, Principal, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::ask::{replies, requests};

requests! {
    Request -> Reply;

    Status -> Box<Status>;
    SetAside -> Vec<SetAsideStatus>;
    /// Its payload.
    SetAsideShow { client: Principal, number: u64 } -> Bytes;
    SetAsideDrop { client: Principal, number: u64 } -> ();
}

replies! {
    Reply of "gatewayd";

    Status(Box<Status>),
    SetAside(Vec<SetAsideStatus>),
    /// A message's payload.
    Message(Bytes),
}

/// State of `gatewayd`.
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
    /// QoS 1 messages that receivers lost by their own rule (docs/messages.md), since `gatewayd` began.
    pub lost: u64,
    /// Messages kept apart because they ended their receivers' connections.
    pub set_aside: u64,
    /// Receivers with something to say of, the worst first.
    pub receivers: Vec<ReceiverStatus>,
    /// Publications, subscriptions and connections refused.
    pub refused: u64,
}

/// A client that does not take all that is meant for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverStatus {
    /// `module <name>` or `leaf <name>`.
    pub client: String,
    pub connected: bool,
    pub waiting_messages: u64,
    pub waiting_bytes: u64,
    pub lost: u64,
    /// It has lost something in the last minute.
    pub lagging: bool,
    /// Connections that ended one after the other with the same message unacknowledged.
    pub ends: u8,
    pub set_aside: u64,
}

/// A message that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAsideStatus {
    /// The client that it was for.
    pub client: Principal,
    pub number: u64,
    pub from: Principal,
    pub topic: String,
    pub bytes: u64,
    pub at: UnixTime,
    /// Connections that it ended.
    pub connections: u8,
}

/// A client that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionStatus {
    pub id: String,
    pub from: String,
    /// End of the certificate: the connection is closed then.
    pub expires: UnixTime,
}

/// Fill of one queue, in messages and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueStatus {
    pub id: String,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
}

/// State of the way upstream.
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
