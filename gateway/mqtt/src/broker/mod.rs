//! The broker without I/O: packets in, actions out. One value of it serves every connection.
//!
//! A client is who its certificate says, never who its packets say: the caller gives the client with
//! [`Broker::accept`], one session a client. Every connection, publication, subscription and delivery is asked of the
//! [`Authority`] at that moment, before anything is acknowledged; [`Broker::set_authority`] asks again about all that
//! is open.
//!
//! **What is acknowledged is owned.** A QoS 1 publication is acknowledged when every receiver's session holds it, when
//! what is held for a persistent session is on disk or has reached its client ([`durable`]), and, where the authority
//! wants it [`Keep::Durable`], when the caller has it on disk for upstream. A session that is full makes its publishers
//! wait ([`Limits::blocked_max`], then they are disconnected unacknowledged and send again); it never drops.
//! Clean sessions end with their connection; QoS 0 messages are in memory only.
//!
//! Left out of MQTT 3.1.1: QoS 2 (a QoS 2 publication ends the connection, a subscription is granted at most QoS 1),
//! user name and password (read and ignored), and client identifiers of the client's own choice.

mod connect;
mod delivery;
pub mod durable;
mod limits;
mod retained;
mod session;
mod subscribe;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

use crate::decode::DecodeError;
use crate::packet::{ConnectCode, Delivery, Packet, PacketId, Publish, Qos, Will};
use crate::topic::{TopicFilter, TopicName};
use crate::trie::Trie;
use durable::{Document, Journaling, Saved, SavedRetained, Writing, not_yet};
pub use limits::{Counts, Limits};
use retained::Retained;
use session::Session;

/// Who may do what, by the policy of the moment.
pub trait Authority {
    type Client: Clone + Eq + Hash + Ord + fmt::Debug + fmt::Display;

    /// The one client identifier this client may use.
    fn client_id<'a>(&self, client: &'a Self::Client) -> &'a str;
    fn may_connect(&self, client: &Self::Client) -> Result<(), Refusal>;
    fn may_publish(&self, client: &Self::Client, topic: &TopicName) -> Result<Keep, Refusal>;
    fn may_subscribe(&self, client: &Self::Client, filter: &TopicFilter) -> Result<(), Refusal>;
    fn may_receive(&self, client: &Self::Client, topic: &TopicName) -> bool;
    /// False while it is not known who may do what: everything is denied then, and nothing is removed.
    fn decides(&self) -> bool;
    /// Why the client is gone for good, so that its session ends. Not being let in for now is no reason.
    fn has_left(&self, client: &Self::Client) -> Option<Refusal>;
}

/// What must have happened before a publication is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every receiver's session holds it.
    Local,
    /// It is on disk for upstream as well: [`Action::Store`].
    Durable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names one [`Action::Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<C> {
    /// There are bytes for [`Broker::take_output`].
    Output(ConnectionId),
    /// Write `last`, then close. The broker has forgotten the connection.
    Close { connection: ConnectionId, last: Vec<u8> },
    /// So much of what was received is done with: the caller may read as much again.
    Credit { connection: ConnectionId, bytes: usize },
    /// Put the publication on disk, then call [`Broker::stored`].
    Store { ticket: Ticket, client: C, topic: TopicName, payload: Arc<[u8]> },
    /// Put the session on disk, or remove it, then call [`Broker::documented`].
    Document { client: C, version: u64, document: Option<Document> },
    /// Put the message on disk, then call [`Broker::journaled`].
    Journal(Saved<C>),
    /// The client's session does not need this message of the journal any more. To be lost is no harm.
    Settled { client: C, number: u64 },
    /// The client's session is gone, and all that was for it.
    Forgotten { client: C },
    /// Put these retained messages on disk in the place of all others, then call [`Broker::retained_written`].
    Retained { version: u64, messages: Vec<SavedRetained<C>> },
    /// Something was refused: for the audit log. `client`: whose doing it was; `None` when it is of our own, as a disk's.
    Refused { client: Option<C>, refusal: Refusal },
}

/// One publication, shared by all who receive it.
#[derive(Debug)]
struct Message<C> {
    /// Above those of all messages before it.
    number: u64,
    from: C,
    topic: TopicName,
    payload: Arc<[u8]>,
}

#[derive(Debug)]
struct Connection<C> {
    client: C,
    connected: bool,
    will: Option<Will>,
    keep_alive: Option<Duration>,
    heard: Duration,
    out: Vec<u8>,
    /// What is written waits behind `out` until this version of the session's document is on disk.
    hold: Option<u64>,
    held: Vec<u8>,
    /// [`Action::Output`] was given and the output not taken yet.
    announced: bool,
    /// Publications in the order in which they came: they are acknowledged in that order ([MQTT-4.6.0-2]).
    acks: VecDeque<Ack>,
    /// Publications that wait for a full receiver, in order.
    parked: VecDeque<Parked<C>>,
    blocked_since: Option<Duration>,
}

impl<C> Connection<C> {
    /// Bytes that wait to be taken.
    fn unsent(&self) -> usize {
        self.out.len().saturating_add(self.held.len())
    }
}

#[derive(Debug)]
struct Ack {
    id: PacketId,
    /// Steps that have still to happen: delivery, and each that puts something on disk.
    outstanding: u16,
}

#[derive(Debug)]
struct Parked<C> {
    publish: Publish,
    cost: usize,
    /// Receivers that have no room yet; `None` before the first try.
    owed: Option<Vec<C>>,
}

/// A publication that is being stored.
#[derive(Debug)]
struct Storing {
    connection: Option<ConnectionId>,
    ack: Option<PacketId>,
    cost: usize,
}

#[derive(Debug)]
pub struct Broker<A: Authority> {
    authority: A,
    limits: Limits,
    connections: HashMap<ConnectionId, Connection<A::Client>>,
    sessions: HashMap<A::Client, Session<A::Client>>,
    subscriptions: Trie<A::Client, Qos>,
    retained: Retained<A::Client>,
    /// Why nobody is let in.
    unavailable: Option<Refusal>,
    last_number: u64,
    /// Documents that are not written.
    documents: HashMap<A::Client, Writing>,
    journaling: HashMap<u64, Journaling>,
    retained_writing: Writing,
    retained_waiting: VecDeque<(u64, ConnectionId, PacketId)>,
    storing: HashMap<Ticket, Storing>,
    next_ticket: u64,
    waiting_bytes: usize,
    /// Connections whose first parked publication waits for room.
    blocked: Vec<ConnectionId>,
    /// Some session has more room than when the blocked ones were last tried.
    room_made: bool,
    wills: VecDeque<(A::Client, Will)>,
    actions: Vec<Action<A::Client>>,
    dropped_qos0: u64,
    refused: u64,
}

impl<A: Authority> Broker<A> {
    pub fn new(authority: A, limits: Limits) -> Self {
        Self {
            authority,
            limits,
            connections: HashMap::new(),
            sessions: HashMap::new(),
            subscriptions: Trie::default(),
            retained: Retained::default(),
            unavailable: Some(not_yet()),
            last_number: 0,
            documents: HashMap::new(),
            journaling: HashMap::new(),
            retained_writing: Writing::default(),
            retained_waiting: VecDeque::new(),
            storing: HashMap::new(),
            next_ticket: 0,
            waiting_bytes: 0,
            blocked: Vec::new(),
            room_made: false,
            wills: VecDeque::new(),
            actions: Vec::new(),
            dropped_qos0: 0,
            refused: 0,
        }
    }

    /// What there is to do since the last call, in order.
    pub fn take_actions(&mut self) -> Vec<Action<A::Client>> {
        std::mem::take(&mut self.actions)
    }

    pub fn authority(&self) -> &A {
        &self.authority
    }

    /// A connection whose peer has proven to be `client`. Identifiers of connections are used once.
    pub fn accept(&mut self, id: ConnectionId, client: A::Client, now: Duration) {
        let connection = Connection {
            client,
            connected: false,
            will: None,
            keep_alive: None,
            heard: now,
            out: Vec::new(),
            hold: None,
            held: Vec::new(),
            announced: false,
            acks: VecDeque::new(),
            parked: VecDeque::new(),
            blocked_since: None,
        };
        self.connections.insert(id, connection);
    }

    /// A packet from the connection's peer. `cost` comes back as [`Action::Credit`] when it is done with.
    pub fn receive(&mut self, id: ConnectionId, packet: Packet, cost: usize, now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard = now;
        match (connection.connected, packet) {
            (_, Packet::Publish(publish)) if connection.connected => {
                connection.parked.push_back(Parked { publish, cost, owed: None });
                // One that is blocked already is tried again when there is room, not for each packet.
                if connection.blocked_since.is_none() {
                    self.advance(id, now);
                }
            }
            (connected, packet) => {
                self.other_packet(id, connected, packet);
                self.credit(id, cost);
            }
        }
        self.settle(now);
    }

    fn other_packet(&mut self, id: ConnectionId, connected: bool, packet: Packet) {
        match (connected, packet) {
            (false, Packet::Connect(connect)) => self.connect(id, *connect),
            (true, Packet::PubAck(packet_id)) => self.acknowledged(id, packet_id),
            (true, Packet::Subscribe(subscribe)) => self.subscribe(id, &subscribe),
            (true, Packet::Unsubscribe(unsubscribe)) => self.unsubscribe(id, &unsubscribe),
            (true, Packet::PingReq) => self.send(id, &Packet::PingResp),
            (true, Packet::Disconnect) => self.close(id, true),
            // [MQTT-3.1.0-1] CONNECT comes first, [MQTT-3.1.0-2] and only once; the rest is a server's to send or
            // belongs to QoS 2.
            _ => self.violation(id, "the packet is not allowed here"),
        }
    }

    /// What the peer sent is not MQTT 3.1.1.
    pub fn malformed(&mut self, id: ConnectionId, error: &DecodeError, now: Duration) {
        // [MQTT-3.1.2-2]
        if matches!(error, DecodeError::ProtocolLevel(_))
            && self.connections.get(&id).is_some_and(|c| !c.connected)
        {
            self.send(id, &Packet::ConnAck { session_present: false, code: ConnectCode::ProtocolVersion });
        }
        self.violation(id, error);
        self.settle(now);
    }

    /// The network connection is gone.
    pub fn lost(&mut self, id: ConnectionId, now: Duration) {
        self.close(id, false);
        self.settle(now);
    }

    /// Closes a connection for a reason outside of MQTT, such as the end of the peer's certificate.
    pub fn disconnect(&mut self, id: ConnectionId, refusal: Refusal, now: Duration) {
        if let Some(client) = self.connections.get(&id).map(|connection| connection.client.clone()) {
            self.refuse(&client, refusal);
            self.close(id, false);
        }
        self.settle(now);
    }

    /// The bytes to write to the connection next, all there are.
    pub fn take_output(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        connection.announced = false;
        let out = std::mem::take(&mut connection.out);
        let client = connection.client.clone();
        if !out.is_empty() {
            self.pump(&client);
            self.settle(now);
        }
        out
    }

    /// The outcome of an [`Action::Store`]. A refusal disconnects the publisher, unacknowledged.
    pub fn stored(&mut self, ticket: Ticket, outcome: Result<(), Refusal>, now: Duration) {
        let Some(storing) = self.storing.remove(&ticket) else { return };
        let connection = storing.connection.filter(|id| self.connections.contains_key(id));
        match (outcome, connection) {
            (Ok(()), Some(id)) => {
                if let Some(packet_id) = storing.ack {
                    self.step_done(id, packet_id);
                }
                self.credit(id, storing.cost);
            }
            (Ok(()), None) => {}
            (Err(refusal), connection) => {
                self.fail(refusal);
                match connection {
                    Some(id) if storing.ack.is_some() => self.close(id, false),
                    Some(id) => self.credit(id, storing.cost),
                    None => {}
                }
            }
        }
        self.settle(now);
    }

    /// Puts a new policy in force: closes and removes what it does not allow.
    pub fn set_authority(&mut self, authority: A, now: Duration) {
        self.authority = authority;
        let mut connections: Vec<_> = self.connections.keys().copied().collect();
        connections.sort_unstable();
        for id in connections {
            let Some(client) = self.connections.get(&id).map(|c| c.client.clone()) else { continue };
            if let Err(refusal) = self.authority.may_connect(&client) {
                self.refuse(&client, refusal);
                self.close(id, false);
            }
        }
        if self.authority.decides() {
            self.drop_denied_sessions();
            let allowed =
                |message: &Message<_>| self.authority.may_publish(&message.from, &message.topic).is_ok();
            if self.retained.keep(allowed) {
                self.touch_retained(None);
            }
        }
        self.room_made = true;
        self.settle(now);
    }

    /// Closes what is overdue. To be called about once a second.
    pub fn tick(&mut self, now: Duration) {
        let mut overdue = Vec::new();
        for (id, connection) in &self.connections {
            let silent = now.saturating_sub(connection.heard);
            if let Some(since) = connection.blocked_since {
                if now.saturating_sub(since) > self.limits.blocked_max {
                    overdue.push((*id, Some("a receiver's session is full")));
                }
            } else if !connection.connected {
                if silent > self.limits.connect_max {
                    overdue.push((*id, None));
                }
            } else if let Some(keep_alive) = connection.keep_alive {
                // [MQTT-3.1.2-24]. One whose publications wait for us may be unread, not silent.
                let ours = connection.acks.iter().any(|ack| ack.outstanding > 0);
                if !ours && silent > keep_alive.saturating_mul(3) / 2 {
                    overdue.push((*id, None));
                }
            }
        }
        overdue.sort_unstable();
        for (id, full) in overdue {
            if let (Some(rule), Some(connection)) = (full, self.connections.get(&id)) {
                let client = connection.client.clone();
                self.refuse(&client, Refusal::new(Reason::QueueFull, &client, rule));
            }
            self.close(id, false);
        }
        self.retry_writes();
        self.settle(now);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            waiting_messages: self.sessions.values().map(Session::len).sum(),
            waiting_bytes: self.waiting_bytes,
            retained_messages: self.retained.len(),
            dropped_qos0: self.dropped_qos0,
            refused: self.refused,
        }
    }

    fn violation(&mut self, id: ConnectionId, what: impl fmt::Display) {
        let Some(connection) = self.connections.get(&id) else { return };
        let client = connection.client.clone();
        self.refuse(&client, Refusal::new(Reason::RequestInvalid, &client, what));
        self.close(id, false);
    }

    /// For what a client did.
    fn refuse(&mut self, client: &A::Client, refusal: Refusal) {
        self.refused = self.refused.saturating_add(1);
        self.actions.push(Action::Refused { client: Some(client.clone()), refusal });
    }

    /// For what we could not do.
    fn fail(&mut self, refusal: Refusal) {
        self.refused = self.refused.saturating_add(1);
        self.actions.push(Action::Refused { client: None, refusal });
    }

    fn credit(&mut self, id: ConnectionId, bytes: usize) {
        if bytes > 0 && self.connections.contains_key(&id) {
            self.actions.push(Action::Credit { connection: id, bytes });
        }
    }

    /// Ends a connection. `orderly`: the client said DISCONNECT or was never let in, so its will is void.
    fn close(&mut self, id: ConnectionId, orderly: bool) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.blocked.retain(|blocked| *blocked != id);
        if let Some(will) = connection.will.filter(|_| !orderly) {
            self.wills.push_back((connection.client.clone(), will));
        }
        if let Some(session) = self.sessions.get_mut(&connection.client)
            && session.connection == Some(id)
        {
            session.connection = None;
            if session.clean {
                self.remove_session(&connection.client);
            }
        }
        self.actions.push(Action::Close { connection: id, last: connection.out });
    }

    /// Queues a packet for a connection. One that lets its answers pile up unread is closed.
    fn send(&mut self, id: ConnectionId, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // Twice the bound for messages, so that answers still fit where messages already wait.
        let full = connection.unsent() > self.limits.output_bytes_max.saturating_mul(2);
        let buffer = if connection.hold.is_some() { &mut connection.held } else { &mut connection.out };
        if full || packet.encode(buffer).is_err() {
            self.close(id, false);
            return;
        }
        if !connection.announced && !connection.out.is_empty() {
            connection.announced = true;
            self.actions.push(Action::Output(id));
        }
    }

    /// Carries out what the last input set off: wills of closed connections, publications that waited for room.
    fn settle(&mut self, now: Duration) {
        loop {
            if let Some((client, will)) = self.wills.pop_front() {
                self.publish_will(client, will);
            } else if self.room_made && !self.blocked.is_empty() {
                self.room_made = false;
                for id in std::mem::take(&mut self.blocked) {
                    self.advance(id, now);
                }
            } else {
                self.room_made = false;
                return;
            }
        }
    }

    /// The QoS of a publication's receivers ([MQTT-3.3.5-1]: overlapping subscriptions count once, with the highest).
    fn receivers(&self, topic: &TopicName) -> Vec<(A::Client, Qos)> {
        let mut found: HashMap<&A::Client, Qos> = HashMap::new();
        self.subscriptions.matches(topic, |client, granted| {
            let qos = found.entry(client).or_insert(granted);
            *qos = (*qos).max(granted);
        });
        let mut receivers: Vec<_> = found
            .into_iter()
            .filter(|(client, _)| self.authority.may_receive(client, topic))
            .map(|(client, qos)| (client.clone(), qos))
            .collect();
        receivers.sort_unstable();
        receivers
    }
}

/// The QoS of a delivery's packet with its identifier.
fn delivery(id: Option<PacketId>) -> Delivery {
    id.map_or(Delivery::AtMostOnce, Delivery::AtLeastOnce)
}
