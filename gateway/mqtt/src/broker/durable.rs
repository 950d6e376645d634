//! State that outlives the process: the sessions of clients that asked for it (CleanSession 0), their QoS 1 messages,
//! and retained messages. The broker says what is to be put on disk and holds back what depends on it.
//!
//! * A session's [`Document`] is on disk before the CONNACK, SUBACK or UNSUBACK that says so: all that is sent on the
//!   connection after a change waits, in order, until the change is written. One write for each session is under way
//!   at a time; what changes meanwhile goes into the next.
//! * A QoS 1 message for such sessions goes into the journal ([`Action::Journal`]). Its publisher has the PUBACK when
//!   the message is on disk, or when all those sessions' clients have acknowledged it, whichever comes first.
//! * A retained message goes into the journal too ([`Action::Retain`]), before its publisher has the PUBACK.
//! * What was set aside is in the session's document, and only then leaves the journal.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::Refusal;

use super::message::Message;
pub use super::saved::{Document, Restored, Saved, SavedRetained, SetAside};
use super::session::{Outgoing, Session};
use super::writes::Journaling;
use super::{Action, Authority, Broker, ConnectionId, End};
use crate::packet::{PacketId, Qos};

impl<A: Authority> Broker<A> {
    /// Takes up what an earlier process left. Before this, and when it cannot be done, nobody is let in.
    pub fn restore(&mut self, restored: Restored<A::Client>, now: Duration) {
        self.now = now;
        self.unavailable = None;
        self.forget_routes();
        self.last_number = self.last_number.max(restored.next_number);
        let mut aside: HashSet<(A::Client, u64)> = HashSet::new();
        for (client, document) in restored.sessions {
            aside.extend(document.set_aside.iter().map(|message| (client.clone(), message.number)));
            let subscriptions = document.subscriptions.clone();
            let mut session = Session::restored(document, now);
            self.waiting_bytes = self.waiting_bytes.saturating_add(session.bytes());
            for (filter, qos) in subscriptions {
                self.subscriptions.insert(&filter, client.clone(), qos);
                session.subscriptions.insert(filter, qos);
            }
            self.sessions.insert(client, session);
        }
        let mut messages = restored.messages;
        messages.sort_unstable_by_key(|message| message.number);
        for Saved { number, receivers, from, topic, payload, retain } in messages {
            let message = Arc::new(Message { number, from, topic, payload });
            for client in receivers {
                if aside.contains(&(client.clone(), number)) {
                    // The process ended between the two writes.
                    self.settled(&client, number);
                } else if let Some(session) = self.sessions.get_mut(&client) {
                    self.waiting_bytes = self.waiting_bytes.saturating_add(message.cost());
                    // It may have been sent before ([MQTT-3.3.1-1]).
                    let retained = retain.then_some(number);
                    session.push(Outgoing { dup: true, ..Outgoing::new(&message, retained) });
                }
            }
        }
        for SavedRetained { number, from, topic, payload, qos } in restored.retained {
            self.retained.set(&Arc::new(Message { number, from, topic, payload }), qos);
        }
        self.shrink_restored();
        self.settle();
    }

    /// Doubts every persistent session, because the disk turned out to hold an older copy: clients may have subscribed
    /// to more since. Each is told to subscribe again when it comes, and what waits for it is kept.
    pub fn doubt_sessions(&mut self, now: Duration) {
        self.now = now;
        let durable = self.sessions.iter_mut().filter(|(_, session)| !session.clean);
        let mut doubted: Vec<_> = durable
            .map(|(client, session)| {
                session.lost = true;
                (client.clone(), session.connection)
            })
            .collect();
        doubted.sort_unstable();
        for (client, connection) in doubted {
            self.touch(&client);
            if let Some(id) = connection {
                self.close(id, End::Ours);
            }
        }
        self.settle();
    }

    /// Lets nobody in, for this reason.
    pub fn set_unavailable(&mut self, why: Refusal) {
        self.unavailable = Some(why);
    }

    pub(super) fn new_number(&mut self) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        self.last_number
    }

    /// The client's session is not as its document says. Returns the version in which it will be.
    pub(super) fn touch(&mut self, client: &A::Client) -> u64 {
        let writing = self.documents.entry(client.clone()).or_default();
        writing.wanted = writing.wanted.saturating_add(1);
        let version = writing.wanted;
        self.write_document(client);
        version
    }

    pub(super) fn write_document(&mut self, client: &A::Client) {
        let Some(writing) = self.documents.get_mut(client) else { return };
        if writing.under_way || writing.wanted == writing.written {
            return;
        }
        writing.under_way = true;
        let session = self.sessions.get_mut(client).filter(|session| !session.clean);
        self.actions.push(Action::Document {
            client: client.clone(),
            version: writing.wanted,
            document: session.map(|session| session.document(self.now)),
        });
    }

    /// Holds back what is sent on the connection from now on, until the client's document is written.
    pub(super) fn hold(&mut self, id: ConnectionId, client: &A::Client) {
        let unwritten = self.documents.get(client).filter(|writing| writing.wanted > writing.written);
        if let (Some(writing), Some(connection)) = (unwritten, self.connections.get_mut(&id)) {
            connection.hold = Some(writing.wanted);
            // The last try may have failed.
            self.write_document(client);
        }
    }

    /// The outcome of an [`Action::Document`]. A failure ends the connection that waits for it; the write is tried
    /// again.
    pub fn documented(
        &mut self,
        client: &A::Client,
        version: u64,
        outcome: Result<(), Refusal>,
        now: Duration,
    ) {
        self.now = now;
        let Some(writing) = self.documents.get_mut(client) else { return };
        writing.under_way = false;
        let holder = self.sessions.get(client).and_then(|session| session.connection);
        match outcome {
            Ok(()) => {
                writing.written = writing.written.max(version);
                let written = writing.written;
                if written == writing.wanted {
                    self.documents.remove(client);
                } else {
                    self.write_document(client);
                }
                if let Some(id) = holder {
                    self.release(id, written);
                }
                let session = self.sessions.get_mut(client);
                for number in session.map(|session| session.aside.written(written)).unwrap_or_default() {
                    self.settled(client, number);
                }
            }
            Err(refusal) => {
                self.fail(refusal);
                let held = |id: &ConnectionId| self.connections.get(id).is_some_and(|c| c.hold.is_some());
                if let Some(id) = holder.filter(held) {
                    self.close(id, End::Ours);
                }
            }
        }
        self.settle();
    }

    fn release(&mut self, id: ConnectionId, written: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.hold.is_some_and(|version| version <= written) {
            connection.hold = None;
            let mut held = std::mem::take(&mut connection.held);
            connection.out.append(&mut held);
            if !connection.announced && !connection.out.is_empty() {
                connection.announced = true;
                self.actions.push(Action::Output(id));
            }
        }
    }

    /// Puts a message that these durable sessions hold into the journal.
    pub(super) fn journal(
        &mut self,
        publisher: Option<(ConnectionId, Option<PacketId>, usize)>,
        message: &Arc<Message<A::Client>>,
        receivers: Vec<A::Client>,
        retain: bool,
    ) {
        let (connection, ack, cost) =
            publisher.map_or((None, None, 0), |(id, packet_id, cost)| (Some(id), packet_id, cost));
        let waiting = receivers.len();
        self.journaling
            .insert(message.number, Journaling { connection, ack, cost, waiting, released: false });
        self.actions.push(Action::Journal(Saved {
            number: message.number,
            receivers,
            from: message.from.clone(),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
            retain,
        }));
    }

    /// The outcome of an [`Action::Journal`] or [`Action::Retain`]. A refusal disconnects the publisher, unacknowledged, unless all
    /// receivers have the message already.
    pub fn journaled(&mut self, number: u64, outcome: Result<(), Refusal>, now: Duration) {
        self.now = now;
        let Some(journaling) = self.journaling.remove(&number) else { return };
        let connection = journaling.connection.filter(|id| self.connections.contains_key(id));
        match (outcome, connection) {
            (Ok(()), Some(id)) => {
                if let Some(packet_id) = journaling.ack.filter(|_| !journaling.released) {
                    self.step_done(id, packet_id);
                }
                self.credit(id, journaling.cost);
            }
            (Ok(()), None) => {}
            (Err(refusal), connection) => {
                self.fail(refusal);
                match connection {
                    Some(id) if journaling.ack.is_some() && !journaling.released => self.close(id, End::Ours),
                    Some(id) => self.credit(id, journaling.cost),
                    None => {}
                }
            }
        }
        self.settle();
    }

    /// A durable session no longer needs the message.
    pub(super) fn settled(&mut self, client: &A::Client, number: u64) {
        self.actions.push(Action::Settled { client: client.clone(), number });
        let Some(journaling) = self.journaling.get_mut(&number) else { return };
        journaling.waiting = journaling.waiting.saturating_sub(1);
        if journaling.waiting == 0 && !journaling.released {
            journaling.released = true;
            if let (Some(id), Some(packet_id)) = (journaling.connection, journaling.ack) {
                self.step_done(id, packet_id);
            }
        }
    }

    /// A retained message is to be on disk, or gone from there. `publisher`: whose PUBACK waits for it.
    pub(super) fn retain_on_disk(
        &mut self,
        publisher: Option<(ConnectionId, Option<PacketId>, usize)>,
        message: &Message<A::Client>,
        qos: Qos,
        removed: bool,
    ) {
        let (connection, ack, cost) =
            publisher.map_or((None, None, 0), |(id, packet_id, cost)| (Some(id), packet_id, cost));
        // One of its own: the message's is the journal's for its receivers.
        let number = self.new_number();
        let writing = Journaling { connection, ack, cost, waiting: 0, released: false };
        self.journaling.insert(number, writing);
        self.actions.push(Action::Retain(SavedRetained {
            number,
            from: message.from.clone(),
            topic: message.topic.clone(),
            payload: if removed { Arc::from(&[][..]) } else { Arc::clone(&message.payload) },
            qos,
        }));
    }

    /// Tries writes again that have failed.
    pub(super) fn retry_writes(&mut self) {
        let mut unwritten: Vec<A::Client> = self.documents.keys().cloned().collect();
        unwritten.sort_unstable();
        for client in unwritten {
            self.write_document(&client);
        }
    }
}
