//! The broker without I/O: packets in, actions out. One value of it serves every connection.
//!
//! A client is who its certificate says, never who its packets say: the caller gives the client with
//! [`Broker::accept`], one session a client. Every connection, publication, subscription and delivery is asked of the
//! [`Authority`] at that moment, before anything is acknowledged; [`Broker::set_authority`] asks again about all that
//! is open.
//!
//! **What is acknowledged is owned.** A QoS 1 publication is acknowledged when every receiver's session holds it, when
//! what is held for a persistent session is on disk or has reached its client ([`durable`]), and, where the authority
//! wants it [`Keep::Durable`], when the caller has it on disk for upstream.
//!
//! **Nobody waits for a receiver.** A session that is full loses by its own declared rule ([`Lagging`]), counted and told
//! under its client's name. A message that its receiver does not survive is set aside. Clean sessions end with their
//! connection, persistent ones when their client has been away for too long; QoS 0 messages are in memory only.
//!
//! Left out of MQTT 3.1.1: QoS 2 (a QoS 2 publication ends the connection, a subscription is granted at most QoS 1),
//! user name and password (read and ignored), and client identifiers of the client's own choice.

mod action;
mod aside;
mod authority;
mod connect;
mod delivery;
pub mod durable;
mod lagging;
mod limits;
mod losses;
mod message;
mod retained;
mod saved;
mod session;
mod subscribe;
mod survival;
mod writes;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal, UnixTime};

use crate::decode::DecodeError;
use crate::packet::{ConnectCode, Delivery, Packet, PacketId, Qos, Will};
use crate::topic::TopicName;
use crate::trie::Trie;
pub use action::{Action, ConnectionId, Ticket};
use aside::KeptBack;
pub use authority::{Authority, Keep, Lagging, Terms};
pub use limits::{Counts, Limits, Receiver};
use losses::Losses;
use message::Message;
use retained::Retained;
use session::Session;
use writes::{Journaling, Writing};

/// Clients that receive what is published on one topic, each with its granted QoS.
type Receivers<C> = Arc<[(C, Qos)]>;

#[derive(Debug)]
struct Connection<C> {
    client: C,
    connected: bool,
    will: Option<Will>,
    keep_alive: Option<Duration>,
    heard: Duration,
    out: Vec<u8>,
    /// Version of the session's document that must be on disk before `held` follows `out`.
    hold: Option<u64>,
    held: Vec<u8>,
    /// [`Action::Output`] was given and the output not taken yet.
    announced: bool,
    /// Messages of the session have been handed over to be written.
    given: bool,
    /// Publications in the order in which they came: they are acknowledged in that order ([MQTT-4.6.0-2]).
    acks: VecDeque<Ack>,
    /// The last topic published on, and its terms by the authority in force.
    terms: Option<(TopicName, Terms)>,
}

/// Cause of a connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client said DISCONNECT.
    Goodbye,
    /// It was never let in.
    Refused,
    /// The client went, or did what is not allowed.
    Theirs,
    /// For a reason of ours, such as a change of policy or a disk that is full.
    Ours,
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

/// A publication that is being stored.
#[derive(Debug)]
struct Storing {
    connection: Option<ConnectionId>,
    ack: Option<PacketId>,
    cost: usize,
}

/// The broker, without I/O: each input is a method, and [`Self::take_actions`] says what is to be done then.
#[derive(Debug)]
pub struct Broker<A: Authority> {
    authority: A,
    limits: Limits,
    connections: HashMap<ConnectionId, Connection<A::Client>>,
    sessions: HashMap<A::Client, Session<A::Client>>,
    subscriptions: Trie<A::Client, Qos>,
    /// Receivers by topic, while neither subscriptions nor the authority change.
    routes: HashMap<TopicName, Receivers<A::Client>>,
    routes_size: usize,
    retained: Retained<A::Client>,
    kept_back: KeptBack<A::Client>,
    /// The refusal of every client, while nobody is let in.
    unavailable: Option<Refusal>,
    last_number: u64,
    /// Documents that are not written.
    documents: HashMap<A::Client, Writing>,
    journaling: HashMap<u64, Journaling>,
    storing: HashMap<Ticket, Storing>,
    next_ticket: u64,
    waiting_bytes: usize,
    wills: VecDeque<(A::Client, Will)>,
    actions: Vec<Action<A::Client>>,
    losses: Losses<A::Client>,
    dropped_qos0: u64,
    refused: u64,
    taken: u64,
    delivered: u64,
    /// Time at which the authority was last seen to decide.
    decided_at: Duration,
    /// Time of the input that is being handled.
    now: Duration,
    /// Time of day, for people.
    wall: UnixTime,
}

/// Topics and their receivers that are remembered.
const ROUTES_SIZE_MAX: usize = 64 * 1024;

impl<A: Authority> Broker<A> {
    /// A broker that lets nobody in until its sessions are restored.
    pub fn new(authority: A, limits: Limits) -> Self {
        Self {
            authority,
            limits,
            connections: HashMap::new(),
            sessions: HashMap::new(),
            subscriptions: Trie::default(),
            routes: HashMap::new(),
            routes_size: 0,
            retained: Retained::default(),
            kept_back: KeptBack::default(),
            unavailable: Some(not_yet()),
            last_number: 0,
            documents: HashMap::new(),
            journaling: HashMap::new(),
            storing: HashMap::new(),
            next_ticket: 0,
            waiting_bytes: 0,
            wills: VecDeque::new(),
            actions: Vec::new(),
            losses: Losses::default(),
            dropped_qos0: 0,
            refused: 0,
            taken: 0,
            delivered: 0,
            decided_at: Duration::ZERO,
            now: Duration::ZERO,
            wall: UnixTime(0),
        }
    }

    /// Actions since the last call, in order.
    pub fn take_actions(&mut self) -> Vec<Action<A::Client>> {
        std::mem::take(&mut self.actions)
    }

    pub fn authority(&self) -> &A {
        &self.authority
    }

    /// A connection whose peer has proven to be `client`. Identifiers of connections are used once. A client has few at a
    /// time: the oldest that has not said CONNECT makes room.
    pub fn accept(&mut self, id: ConnectionId, client: A::Client, now: Duration) {
        self.now = now;
        let of_client = self.connections.iter().filter(|(_, open)| open.client == client);
        let mut silent: Vec<_> = of_client.filter(|(_, open)| !open.connected).map(|(id, _)| *id).collect();
        if silent.len() >= self.limits.connections_per_client_max {
            silent.sort_unstable();
            let rule = "it opens more connections than it uses";
            self.refuse(&client, Refusal::new(Reason::Busy, &client, rule));
            for oldest in silent.into_iter().take(1) {
                self.close(oldest, End::Refused);
            }
        }
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
            given: false,
            acks: VecDeque::new(),
            terms: None,
        };
        self.connections.insert(id, connection);
        self.settle();
    }

    /// A packet from the connection's peer. `cost` comes back as [`Action::Credit`] when it is done with.
    pub fn receive(&mut self, id: ConnectionId, packet: Packet, cost: usize, now: Duration) {
        self.now = now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard = now;
        match packet {
            Packet::Publish(publish) if connection.connected => {
                let client = connection.client.clone();
                if let Err(refusal) = self.publish(id, &client, &publish, cost) {
                    self.refuse(&client, refusal);
                    self.close(id, End::Ours);
                }
            }
            packet => {
                let connected = connection.connected;
                self.other_packet(id, connected, packet);
                self.credit(id, cost);
            }
        }
        self.settle();
    }

    fn other_packet(&mut self, id: ConnectionId, connected: bool, packet: Packet) {
        match (connected, packet) {
            (false, Packet::Connect(connect)) => self.connect(id, *connect),
            (true, Packet::PubAck(packet_id)) => self.acknowledged(id, packet_id),
            (true, Packet::Subscribe(subscribe)) => self.subscribe(id, &subscribe),
            (true, Packet::Unsubscribe(unsubscribe)) => self.unsubscribe(id, &unsubscribe),
            (true, Packet::PingReq) => self.send(id, &Packet::PingResp),
            (true, Packet::Disconnect) => self.close(id, End::Goodbye),
            // [MQTT-3.1.0-1] CONNECT comes first, [MQTT-3.1.0-2] and only once; the rest is a server's to send or
            // belongs to QoS 2.
            _ => self.violation(id, "the packet is not allowed here"),
        }
    }

    /// Ends a connection whose peer sent something other than MQTT 3.1.1.
    pub fn malformed(&mut self, id: ConnectionId, error: &DecodeError, now: Duration) {
        self.now = now;
        // [MQTT-3.1.2-2]
        if matches!(error, DecodeError::ProtocolLevel(_))
            && self.connections.get(&id).is_some_and(|c| !c.connected)
        {
            self.send(id, &Packet::ConnAck { session_present: false, code: ConnectCode::ProtocolVersion });
        }
        self.violation(id, error);
        self.settle();
    }

    /// The network connection is gone.
    pub fn lost(&mut self, id: ConnectionId, now: Duration) {
        self.now = now;
        self.close(id, End::Theirs);
        self.settle();
    }

    /// Closes a connection whose peer's certificate has ended.
    pub fn expired(&mut self, id: ConnectionId, now: Duration) {
        self.now = now;
        self.close(id, End::Ours);
        self.settle();
    }

    /// The bytes to write to the connection next, all there are.
    pub fn take_output(&mut self, id: ConnectionId, now: Duration) -> Vec<u8> {
        self.now = now;
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        connection.announced = false;
        let out = std::mem::take(&mut connection.out);
        if !out.is_empty() {
            let client = connection.client.clone();
            connection.given |= self.sessions.get(&client).is_some_and(|session| session.head().is_some());
            self.pump(&client);
            self.settle();
        }
        out
    }

    /// The outcome of an [`Action::Store`]. A refusal disconnects the publisher, unacknowledged.
    pub fn stored(&mut self, ticket: Ticket, outcome: Result<(), Refusal>, now: Duration) {
        self.now = now;
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
                    Some(id) if storing.ack.is_some() => self.close(id, End::Ours),
                    Some(id) => self.credit(id, storing.cost),
                    None => {}
                }
            }
        }
        self.settle();
    }

    /// Puts a new policy in force, then closes and removes what it does not allow. `misplaced`: connections that may not
    /// go on for a reason that the caller knows.
    pub fn set_authority(&mut self, authority: A, misplaced: Vec<(ConnectionId, Refusal)>, now: Duration) {
        self.now = now;
        self.authority = authority;
        self.forget_routes();
        for connection in self.connections.values_mut() {
            connection.terms = None;
        }
        let mut closing = misplaced;
        for (id, connection) in &self.connections {
            if let Err(refusal) = self.authority.may_connect(&connection.client) {
                closing.push((*id, refusal));
            }
        }
        closing.sort_by_key(|(id, _)| *id);
        for (id, refusal) in closing {
            if let Some(connection) = self.connections.get_mut(&id) {
                // What was written under the old policy and is not on its way stays here.
                connection.out.clear();
                let client = connection.client.clone();
                self.refuse(&client, refusal);
                self.close(id, End::Ours);
            }
        }
        if self.authority.decides() {
            self.drop_denied_sessions();
            let authority = &self.authority;
            let allowed = |message: &Message<_>| {
                let terms = authority.may_publish(&message.from, &message.topic);
                terms.is_ok_and(|terms| message.payload.len() <= terms.bytes_max)
            };
            for removed in self.retained.keep(allowed) {
                self.retain_on_disk(None, &removed, Qos::AtMostOnce, true);
            }
        }
        self.settle();
    }

    /// Closes what is overdue, and ends sessions whose clients have been away for too long. To be called about once a
    /// second.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        let mut overdue = Vec::new();
        for (id, connection) in &self.connections {
            let silent = now.saturating_sub(connection.heard);
            if !connection.connected {
                if silent > self.limits.connect_max {
                    overdue.push(*id);
                }
            } else if let Some(keep_alive) = connection.keep_alive {
                // [MQTT-3.1.2-24]. One whose publications wait for us may be unread, not silent.
                let ours = connection.acks.iter().any(|ack| ack.outstanding > 0);
                if !ours && silent > keep_alive.saturating_mul(3) / 2 {
                    overdue.push(*id);
                }
            }
        }
        overdue.sort_unstable();
        for id in overdue {
            self.close(id, End::Theirs);
        }
        self.expire_sessions();
        self.tell_losses();
        self.retry_writes();
        self.settle();
    }

    /// Counts of the moment, and since the process began.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            waiting_messages: self.sessions.values().map(Session::len).sum(),
            waiting_bytes: self.waiting_bytes,
            retained_messages: self.retained.len(),
            set_aside: self.sessions.values().map(|session| session.aside.len()).sum(),
            lost: self.losses.messages,
            dropped_qos0: self.dropped_qos0,
            refused: self.refused,
            taken: self.taken,
            delivered: self.delivered,
        }
    }

    fn violation(&mut self, id: ConnectionId, what: impl fmt::Display) {
        let Some(connection) = self.connections.get(&id) else { return };
        let client = connection.client.clone();
        self.refuse(&client, Refusal::new(Reason::RequestInvalid, &client, what));
        self.close(id, End::Theirs);
    }

    /// Counts and reports a refusal for what a client did.
    fn refuse(&mut self, client: &A::Client, refusal: Refusal) {
        self.refused = self.refused.saturating_add(1);
        self.actions.push(Action::Refused { client: Some(client.clone()), refusal });
    }

    /// Counts and reports a refusal for what we could not do.
    fn fail(&mut self, refusal: Refusal) {
        self.refused = self.refused.saturating_add(1);
        self.actions.push(Action::Refused { client: None, refusal });
    }

    fn credit(&mut self, id: ConnectionId, bytes: usize) {
        if bytes > 0 && self.connections.contains_key(&id) {
            self.actions.push(Action::Credit { connection: id, bytes });
        }
    }

    /// Ends a connection.
    fn close(&mut self, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.remove(&id) else { return };
        let client = connection.client;
        // Section 3.1.2.5: void when the client says goodbye.
        if let Some(will) = connection.will.filter(|_| !matches!(end, End::Goodbye | End::Refused)) {
            self.wills.push_back((client.clone(), will));
        }
        if self.sessions.get(&client).is_some_and(|session| session.connection == Some(id)) {
            // Who says goodbye has survived what it was sent.
            if connection.given && end == End::Theirs {
                self.count_end(&client);
            }
            if let Some(session) = self.sessions.get_mut(&client) {
                session.leave(self.now);
                if session.clean {
                    self.remove_session(&client);
                }
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
            self.close(id, End::Theirs);
            return;
        }
        if !connection.announced && !connection.out.is_empty() {
            connection.announced = true;
            self.actions.push(Action::Output(id));
        }
    }

    /// Carries out what the last input set off: wills of closed connections.
    fn settle(&mut self) {
        while let Some((client, will)) = self.wills.pop_front() {
            self.publish_will(client, will);
        }
    }

    fn forget_routes(&mut self) {
        self.routes.clear();
        self.routes_size = 0;
    }

    /// The QoS of a publication's receivers ([MQTT-3.3.5-1]: overlapping subscriptions count once, with the highest).
    fn receivers(&mut self, topic: &TopicName) -> Receivers<A::Client> {
        if let Some(known) = self.routes.get(topic) {
            return Arc::clone(known);
        }
        let mut found: HashMap<&A::Client, Qos> = HashMap::new();
        self.subscriptions.matches(topic, |client, granted| {
            let qos = found.entry(client).or_insert(granted);
            *qos = (*qos).max(granted);
        });
        let allowed = found.into_iter().filter(|(client, _)| self.authority.may_receive(client, topic));
        let mut receivers: Vec<_> = allowed.map(|(client, qos)| (client.clone(), qos)).collect();
        receivers.sort_unstable();
        let receivers: Arc<[_]> = receivers.into();
        let size = receivers.len().saturating_add(1);
        if self.routes_size.saturating_add(size) > ROUTES_SIZE_MAX {
            self.forget_routes();
        }
        self.routes_size = self.routes_size.saturating_add(size);
        self.routes.insert(topic.clone(), Arc::clone(&receivers));
        receivers
    }
}

/// The QoS of a delivery's packet with its identifier.
fn delivery(id: Option<PacketId>) -> Delivery {
    id.map_or(Delivery::AtMostOnce, Delivery::AtLeastOnce)
}

/// The refusal of every client before what was on disk is there.
fn not_yet() -> Refusal {
    Refusal::new(Reason::Busy, "sessions", "they are not loaded yet")
}
