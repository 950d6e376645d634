//! The one task that owns the broker. Connections send it what they read; it writes to their bounded channels and
//! never waits for any of them, so that one slow client holds up nobody.
//!
//! Messages are delivered inside the turn that received them; all that a turn wrote to one connection goes out as one
//! write. A change of what is in force is carried out whole before the next packet is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_mqtt::broker::{Action, Authority as _, Broker, ConnectionId, Limits};
use edgewarden_names::{GatewayName, Principal, Reason, Refusal, SpiffeId, TrustDomain};
use edgewarden_protocol::control::Standing;
use edgewarden_protocol::gateway_console::{ConnectionStatus, ReceiverStatus};
use edgewarden_transport::Clock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::alerts::{self, Topic};
use crate::audit::{self, Audit};
use crate::event::{Accepted, Event, HubCounts, HubStatus, ToStore, Write};
use crate::record;
use crate::sessions::documents::ToWrite;
use crate::sessions::journal::ToJournal;
use crate::store::Opening;
use crate::view::View;

/// Events of one turn.
const TURN_MAX: usize = 256;
/// Receivers in one status, the worst first.
const RECEIVERS_MAX: usize = 64;

/// A caller who waits until a message that was set aside is gone from the disk. Bounded by the console's callers.
struct Dropping {
    client: Principal,
    version: u64,
    answer: oneshot::Sender<Result<bool, Refusal>>,
}

struct Entry {
    accepted: Accepted,
    instance: Option<Arc<str>>,
    writing: bool,
}

/// The owner of the broker: one task that takes events and carries out the broker's actions.
pub(crate) struct Hub {
    broker: Broker<View>,
    view: View,
    entries: BTreeMap<ConnectionId, Entry>,
    /// Connections with output to take.
    ready: BTreeSet<ConnectionId>,
    disk: Disk,
    audit: Audit,
    gateway: GatewayName,
    domain: TrustDomain,
    started: Instant,
    clock: Clock,
    dropping: Vec<Dropping>,
    alerts: Vec<Topic>,
    /// Faults that the retained alerts were made from. `None`: they may be of an earlier process.
    told: Option<Vec<Standing>>,
    /// The retained messages are here.
    restored: bool,
}

/// Ways to the disk.
pub(crate) struct Disk {
    pub(crate) store: mpsc::UnboundedSender<ToStore>,
    pub(crate) journal: mpsc::UnboundedSender<ToJournal>,
    pub(crate) documents: mpsc::UnboundedSender<ToWrite>,
}

/// The hub's side of everything it is connected to.
pub(crate) struct Wiring {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) views: watch::Receiver<View>,
    /// The view in force.
    pub(crate) applied: watch::Sender<View>,
    /// Faults that `identityd` knows of.
    pub(crate) standing: watch::Receiver<Option<Vec<Standing>>>,
    /// The upstream queue.
    pub(crate) queue: watch::Receiver<Opening>,
}

impl Hub {
    pub(crate) fn new(
        gateway: GatewayName,
        domain: TrustDomain,
        disk: Disk,
        audit: Audit,
        clock: Clock,
    ) -> Self {
        Self {
            broker: Broker::new(View::default(), Limits::default()),
            view: View::default(),
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            disk,
            audit,
            gateway,
            domain,
            started: Instant::now(),
            clock,
            dropping: Vec::new(),
            alerts: Topic::all(),
            told: None,
            restored: false,
        }
    }

    /// Runs until every sender of events is gone.
    pub(crate) async fn run(mut self, mut wiring: Wiring) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut events = Vec::with_capacity(TURN_MAX);
        loop {
            // A change of policy comes before what is done under it.
            tokio::select! {
                biased;
                changed = wiring.views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let view = wiring.views.borrow_and_update().clone();
                    self.put_in_force(&view);
                    self.finish_turn();
                    wiring.applied.send_replace(view);
                }
                _ = tick.tick() => {
                    self.broker.set_wall_clock(self.clock.now());
                    self.broker.tick(self.now());
                    self.tell_alerts(&wiring);
                    self.finish_turn();
                }
                count = wiring.events.recv_many(&mut events, TURN_MAX) => {
                    if count == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        self.handle(event);
                    }
                    self.finish_turn();
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Accept(accepted) => self.accept(*accepted),
            Event::Packet { connection, packet, cost } => self.broker.receive(connection, packet, cost, now),
            Event::Malformed { connection, error } => self.broker.malformed(connection, &error, now),
            Event::Lost { connection } => self.broker.lost(connection, now),
            Event::Expired { connection } => {
                if let Some(entry) = self.entries.get(&connection) {
                    tracing::info!(id = %entry.accepted.id, "the certificate of a connection has ended");
                }
                self.broker.expired(connection, now);
            }
            Event::Written { connection } => {
                if let Some(entry) = self.entries.get_mut(&connection) {
                    entry.writing = false;
                }
            }
            Event::Stored { ticket, outcome } => self.broker.stored(ticket, outcome, now),
            Event::Restored(Ok(restored)) => {
                self.broker.restore(*restored, now);
                self.restored = true;
                // The policy may be here already.
                self.broker.set_authority(self.view.clone(), Vec::new(), now);
            }
            Event::Restored(Err(refusal)) => self.broker.set_unavailable(refusal),
            Event::Journaled { number, outcome } => self.broker.journaled(number, outcome, now),
            Event::Documented { client, version, outcome } => {
                self.answer_dropping(&client, version, &outcome);
                self.broker.documented(&client, version, outcome, now);
            }
            Event::Status { answer } => drop(answer.send(self.status())),
            Event::Count { answer } => drop(answer.send(self.counts())),
            Event::SetAside { answer } => drop(answer.send(self.broker.set_aside())),
            Event::DropSetAside { client, number, answer } => {
                self.dropping.retain(|waiting| !waiting.answer.is_closed());
                match self.broker.drop_set_aside(&client, number, now) {
                    Some(version) => self.dropping.push(Dropping { client, version, answer }),
                    None => drop(answer.send(Ok(false))),
                }
            }
            Event::OlderCopy => self.broker.doubt_sessions(now),
        }
        self.dispatch_actions();
    }

    fn answer_dropping(&mut self, client: &Principal, version: u64, outcome: &Result<(), Refusal>) {
        let of_this = |waiting: &mut Dropping| waiting.client == *client && waiting.version <= version;
        for waiting in self.dropping.extract_if(.., of_this) {
            drop(waiting.answer.send(outcome.clone().map(|()| true)));
        }
    }

    /// Brings what is retained beneath `$edgewarden/alerts/` up to date with what is wrong.
    fn tell_alerts(&mut self, wiring: &Wiring) {
        let Some(mut standing) = wiring.standing.borrow().clone() else { return };
        // Before it is known who may read them, nobody would be given them.
        if !self.restored || !self.broker.authority().decides() {
            return;
        }
        let was = |reason| self.told.iter().flatten().any(|one| one.refusal.reason == reason);
        if let Some(Ok(queue)) = &*wiring.queue.borrow() {
            let status = queue.status();
            standing.extend(alerts::queue(status.bytes, status.bytes_max, was(Reason::QueueFull)));
        }
        standing.extend(alerts::set_aside(self.broker.counts().set_aside));
        if self.told.as_ref() == Some(&standing) {
            return;
        }
        let now = self.now();
        for alert in &self.alerts {
            let before = self.broker.retained(&alert.at).unwrap_or_default();
            match alert.payload(&self.gateway, &standing, before, self.clock.now()) {
                Ok(payload) if payload == before => {}
                Ok(payload) => {
                    tracing::info!(alert = alert.name, stands = !payload.is_empty(), "an alert has changed");
                    self.broker.retain_own(alerts::own_principal(), &alert.at, &payload, now);
                }
                // An empty payload would say that nothing is wrong.
                Err(error) => tracing::error!(alert = alert.name, %error, "an alert cannot be written"),
            }
        }
        self.told = Some(standing);
    }

    fn accept(&mut self, accepted: Accepted) {
        match self.view.place(&accepted.who, accepted.door, accepted.from.ip()) {
            Ok(instance) => {
                tracing::debug!(id = %accepted.id, from = %accepted.from, "connected");
                self.broker.accept(accepted.connection, accepted.who.clone(), self.now());
                self.entries.insert(accepted.connection, Entry { accepted, instance, writing: false });
            }
            // Dropping what was accepted ends the connection.
            Err(refusal) => self.audit.refused(audit::proven(&accepted.who), refusal),
        }
    }

    /// Puts the new policy in force, then closes connections whose place is no longer that of the same instance, and what
    /// the policy does not allow: what closing sets off is done under the new one.
    fn put_in_force(&mut self, view: &View) {
        self.view = view.clone();
        let now = self.now();
        let mut misplaced = Vec::new();
        for (connection, entry) in &self.entries {
            let accepted = &entry.accepted;
            match view.place(&accepted.who, accepted.door, accepted.from.ip()) {
                Ok(instance) if instance == entry.instance => {}
                Ok(_) => {
                    let rule = "the instance that opened the connection has ended";
                    misplaced.push((*connection, Refusal::new(Reason::PlaceMismatch, &accepted.who, rule)));
                }
                Err(refusal) => misplaced.push((*connection, refusal)),
            }
        }
        self.broker.set_authority(view.clone(), misplaced, now);
        self.dispatch_actions();
    }

    fn dispatch_actions(&mut self) {
        for action in self.broker.take_actions() {
            match action {
                Action::Output(connection) => drop(self.ready.insert(connection)),
                Action::Credit { connection, bytes } => {
                    if let Some(entry) = self.entries.get(&connection) {
                        entry.accepted.credit.add_permits(bytes);
                    }
                }
                Action::Close { connection, last } => {
                    self.ready.remove(&connection);
                    if let Some(entry) = self.entries.remove(&connection) {
                        // There is room: at most one other write is under way. The rest of the entry is dropped here,
                        // which stops the reader at once.
                        drop(entry.accepted.writer.try_send(Write::Last(last)));
                    }
                }
                Action::Store { ticket, client, topic, payload } => {
                    let from = match &client {
                        Principal::Module(name) => SpiffeId::module(&self.domain, &self.gateway, name),
                        Principal::Leaf(name) => SpiffeId::leaf(&self.domain, &self.gateway, name),
                    };
                    // What cannot be handed over is never acknowledged.
                    if let Some(body) = record::encode(self.clock.now(), &from, topic.as_str(), &payload) {
                        drop(self.disk.store.send(ToStore { ticket, body }));
                    }
                }
                // Who waits for one of these waits for the tasks behind them, which live as long as the hub.
                Action::Journal(message) => drop(self.disk.journal.send(ToJournal::Append(message))),
                Action::Settled { client, number } => {
                    drop(self.disk.journal.send(ToJournal::Settled { client, number }));
                }
                Action::Forgotten { client } => {
                    drop(self.disk.journal.send(ToJournal::Forgotten { client }));
                }
                Action::Document { client, version, document } => {
                    drop(self.disk.documents.send(ToWrite { client, version, document }));
                }
                Action::Retain(message) => drop(self.disk.journal.send(ToJournal::Retain(message))),
                Action::Refused { client: Some(client), refusal } => {
                    self.audit.refused(audit::proven(&client), refusal);
                }
                Action::Refused { client: None, refusal } => self.audit.failed(refusal),
            }
        }
    }

    /// Dispatches the actions that the turn has left, and hands what it has written to the connections' writers.
    fn finish_turn(&mut self) {
        self.dispatch_actions();
        let now = self.now();
        loop {
            let idle = |connection: &&ConnectionId| self.entries.get(connection).is_some_and(|e| !e.writing);
            let idle: Vec<ConnectionId> = self.ready.iter().filter(idle).copied().collect();
            if idle.is_empty() {
                return;
            }
            for connection in idle {
                self.ready.remove(&connection);
                let out = self.broker.take_output(connection, now);
                if let Some(entry) = self.entries.get_mut(&connection).filter(|_| !out.is_empty()) {
                    entry.writing = entry.accepted.writer.try_send(Write::More(out)).is_ok();
                }
                self.dispatch_actions();
            }
        }
    }

    fn counts(&self) -> HubCounts {
        let modules =
            self.entries.values().filter(|entry| matches!(entry.accepted.who, Principal::Module(_)));
        let modules_connected = modules.count();
        HubCounts {
            broker: self.broker.counts(),
            modules_connected,
            leaves_connected: self.entries.len().saturating_sub(modules_connected),
        }
    }

    fn status(&self) -> HubStatus {
        let connections = self.entries.values().map(|entry| ConnectionStatus {
            id: entry.accepted.id.to_string(),
            from: entry.accepted.from.to_string(),
            expires: entry.accepted.expires,
        });
        let receivers = self.broker.receivers_behind().into_iter().take(RECEIVERS_MAX).map(|behind| {
            let count = |n: usize| n as u64;
            ReceiverStatus {
                client: behind.client.to_string(),
                connected: behind.connected,
                waiting_messages: count(behind.waiting_messages),
                waiting_bytes: count(behind.waiting_bytes),
                lost: behind.lost,
                lagging: behind.lagging,
                ends: behind.ends,
                set_aside: count(behind.set_aside),
            }
        });
        HubStatus {
            counts: self.broker.counts(),
            connections: connections.collect(),
            receivers: receivers.collect(),
        }
    }
}
