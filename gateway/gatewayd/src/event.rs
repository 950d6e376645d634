//! Values between the hub's task and the others: events to it, and what it hands out.

use std::net::SocketAddr;
use std::sync::Arc;

use edgewarden_mqtt::broker::durable::{Restored, SetAside};
use edgewarden_mqtt::broker::{ConnectionId, Ticket};
use edgewarden_mqtt::decode::DecodeError;
use edgewarden_mqtt::packet::Packet;
use edgewarden_names::{Principal, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::gateway_console::{ConnectionStatus, ReceiverStatus};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::view::Door;

/// Events that wait for the hub; more make their senders wait.
const EVENTS_MAX: usize = 1024;

/// An input of the hub, from connections, the disk and the console.
#[derive(Debug)]
pub(crate) enum Event {
    Accept(Box<Accepted>),
    Packet {
        connection: ConnectionId,
        packet: Packet,
        cost: usize,
    },
    Malformed {
        connection: ConnectionId,
        error: DecodeError,
    },
    Lost {
        connection: ConnectionId,
    },
    /// The certificate has ended.
    Expired {
        connection: ConnectionId,
    },
    /// The connection's writer can take more.
    Written {
        connection: ConnectionId,
    },
    Stored {
        ticket: Ticket,
        outcome: Result<(), Refusal>,
    },
    /// The sessions are loaded, or why not.
    Restored(Result<Box<Restored<Principal>>, Refusal>),
    Journaled {
        number: u64,
        outcome: Result<(), Refusal>,
    },
    Documented {
        client: Principal,
        version: u64,
        outcome: Result<(), Refusal>,
    },
    Status {
        answer: oneshot::Sender<HubStatus>,
    },
    /// Asks for the numbers of a monitoring system.
    Count {
        answer: oneshot::Sender<HubCounts>,
    },
    /// Lists the messages set aside.
    SetAside {
        answer: oneshot::Sender<Vec<(Principal, SetAside<Principal>)>>,
    },
    /// Drops one of them for good; false when there is none.
    DropSetAside {
        client: Principal,
        number: u64,
        answer: oneshot::Sender<Result<bool, Refusal>>,
    },
    /// The disk holds an older copy of sessions that went on.
    OlderCopy,
}

/// Both ends of the way to the hub.
pub(crate) fn channel() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(EVENTS_MAX)
}

/// A connection whose peer is known.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) connection: ConnectionId,
    pub(crate) who: Principal,
    pub(crate) id: SpiffeId,
    pub(crate) door: Door,
    pub(crate) from: SocketAddr,
    pub(crate) expires: UnixTime,
    pub(crate) credit: Arc<Semaphore>,
    pub(crate) writer: mpsc::Sender<Write>,
    #[expect(dead_code, reason = "dropping it ends the connection")]
    pub(crate) stop: watch::Sender<()>,
}

/// At most one [`Write::More`] and one [`Write::Last`] are under way.
#[derive(Debug)]
pub(crate) enum Write {
    More(Vec<u8>),
    Last(Vec<u8>),
}

/// Room for what may be under way.
pub(crate) const WRITES_MAX: usize = 2;

/// A message for the upstream queue. Bounded by the connections' credit, which comes back only when it is on disk.
#[derive(Debug)]
pub(crate) struct ToStore {
    pub(crate) ticket: Ticket,
    pub(crate) body: Vec<u8>,
}

/// The hub's part of the status.
#[derive(Debug)]
pub(crate) struct HubStatus {
    pub(crate) counts: edgewarden_mqtt::broker::Counts,
    pub(crate) connections: Vec<ConnectionStatus>,
    pub(crate) receivers: Vec<ReceiverStatus>,
}

/// Numbers of the broker and of its connections.
#[derive(Debug)]
pub(crate) struct HubCounts {
    pub(crate) broker: edgewarden_mqtt::broker::Counts,
    pub(crate) modules_connected: usize,
    pub(crate) leaves_connected: usize,
}
