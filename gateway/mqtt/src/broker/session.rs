//! The session state of one client (MQTT 3.1.1 section 3.1.2.4).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::action::ConnectionId;
use super::aside::Aside;
use super::limits::Limits;
use super::message::Message;
use super::saved::Document;
use crate::packet::{PacketId, Qos};
use crate::topic::TopicFilter;

#[derive(Debug)]
pub(super) struct Session<C> {
    pub(super) connection: Option<ConnectionId>,
    /// In memory, until its connection ends. The others are on disk.
    pub(super) clean: bool,
    pub(super) since: u64,
    pub(super) lost: bool,
    pub(super) subscriptions: HashMap<TopicFilter, Qos>,
    /// Sent and not acknowledged, in the order sent ([MQTT-4.6.0-1]).
    in_flight: VecDeque<(PacketId, Outgoing<C>)>,
    in_flight_bytes: usize,
    /// Messages of them, from the front, that have been sent on this connection.
    sent: usize,
    waiting: VecDeque<Outgoing<C>>,
    pub(super) aside: Aside<C>,
    bytes: usize,
    last_id: u16,
    /// `true` while the identifiers in flight are in the order in which they are given out.
    ordered: bool,
    /// Time that the client was away before this process, or before `away_from`.
    away_before: Duration,
    away_from: Option<Duration>,
    away_written: Duration,
}

/// A QoS 1 message for this session.
#[derive(Debug)]
pub(super) struct Outgoing<C> {
    pub(super) message: Arc<Message<C>>,
    /// The number of the retained message that it is a copy of.
    pub(super) retained: Option<u64>,
    /// An earlier process may have sent it.
    pub(super) dup: bool,
    /// Connections that ended while it was the oldest without an acknowledgement.
    pub(super) ends: u8,
}

impl<C> Outgoing<C> {
    pub(super) fn new(message: &Arc<Message<C>>, retained: Option<u64>) -> Self {
        Self { message: Arc::clone(message), retained, dup: false, ends: 0 }
    }
}

impl<C> Clone for Outgoing<C> {
    fn clone(&self) -> Self {
        Self { message: Arc::clone(&self.message), retained: self.retained, dup: self.dup, ends: self.ends }
    }
}

impl<C> Session<C> {
    pub(super) fn new(clean: bool, since: u64) -> Self {
        Self {
            connection: None,
            clean,
            since,
            lost: false,
            subscriptions: HashMap::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            sent: 0,
            waiting: VecDeque::new(),
            aside: Aside::default(),
            bytes: 0,
            last_id: 0,
            ordered: true,
            away_before: Duration::ZERO,
            away_from: None,
            away_written: Duration::ZERO,
        }
    }

    /// A session of an earlier process: its client is away from now on.
    pub(super) fn restored(document: Document<C>, now: Duration) -> Self
    where
        C: Clone,
    {
        let away = Duration::from_secs(document.away_seconds);
        let mut session = Self {
            lost: document.lost,
            away_before: away,
            away_written: away,
            away_from: Some(now),
            ..Self::new(false, document.since)
        };
        for saved in document.set_aside {
            session.bytes = session.bytes.saturating_add(session.aside.restore(saved));
        }
        session
    }

    pub(super) fn document(&mut self, now: Duration) -> Document<C>
    where
        C: Clone,
    {
        let mut subscriptions: Vec<_> =
            self.subscriptions.iter().map(|(filter, qos)| (filter.clone(), *qos)).collect();
        subscriptions.sort_unstable();
        self.away_written = self.away(now);
        Document {
            since: self.since,
            lost: self.lost,
            away_seconds: self.away_written.as_secs(),
            subscriptions,
            set_aside: self.aside.saved(),
        }
    }

    /// Time that the client has been away while a broker ran.
    pub(super) fn away(&self, now: Duration) -> Duration {
        let since = self.away_from.map_or(Duration::ZERO, |from| now.saturating_sub(from));
        self.away_before.saturating_add(since)
    }

    /// Part of that time that the session's document does not have yet.
    pub(super) fn away_unwritten(&self, now: Duration) -> Duration {
        self.away(now).saturating_sub(self.away_written)
    }

    /// The time after `until` does not count: the client could not come.
    pub(super) fn pause_away(&mut self, until: Duration, now: Duration) {
        if self.away_from.is_some() {
            (self.away_before, self.away_from) = (self.away(until), Some(now));
        }
    }

    pub(super) fn leave(&mut self, now: Duration) {
        self.connection = None;
        self.sent = 0;
        self.away_from = Some(now);
    }

    /// True when the document says that the client is away.
    pub(super) fn arrive(&mut self, connection: ConnectionId) -> bool {
        self.connection = Some(connection);
        self.sent = 0;
        (self.away_before, self.away_from) = (Duration::ZERO, None);
        self.away_written >= Duration::from_secs(1)
    }

    /// Messages held, but for those set aside.
    pub(super) fn len(&self) -> usize {
        self.in_flight.len().saturating_add(self.waiting.len())
    }

    /// The number of the message that came last.
    pub(super) fn newest(&self) -> Option<u64> {
        let flying = self.in_flight.back().map(|(_, outgoing)| outgoing);
        self.waiting.back().or(flying).map(|outgoing| outgoing.message.number)
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        let flying = self.in_flight.iter().map(|(_, outgoing)| outgoing);
        let held = flying.chain(&self.waiting).map(|outgoing| outgoing.message.number);
        held.chain(self.aside.unsettled()).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes bytes off the session's count, for a message that went out of its keeping.
    pub(super) fn discharge(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// `true` when `messages` more with `bytes` together fit. One message always fits an empty session.
    pub(super) fn has_room(&self, messages: usize, bytes: usize, limits: &Limits) -> bool {
        let alone = self.len() == 0 && messages <= 1;
        self.len().saturating_add(messages) <= limits.session_messages_max
            && (alone || self.bytes.saturating_add(bytes) <= limits.session_bytes_max)
    }

    pub(super) fn push(&mut self, outgoing: Outgoing<C>) {
        self.bytes = self.bytes.saturating_add(outgoing.message.cost());
        self.waiting.push_back(outgoing);
    }

    /// `true` when there is something to lose: what is in flight has been sent and keeps its identifier.
    pub(super) fn can_lose(&self) -> bool {
        !self.waiting.is_empty() || (self.connection.is_none() && !self.in_flight.is_empty())
    }

    /// The oldest message that is not on its way to a connected client, taken out.
    pub(super) fn lose_oldest(&mut self) -> Option<Arc<Message<C>>> {
        let outgoing = match self.connection {
            None => self.land(0).map(|(_, outgoing)| outgoing),
            Some(_) => None,
        };
        let message = outgoing.or_else(|| self.waiting.pop_front())?.message;
        self.discharge(message.cost());
        Some(message)
    }

    /// The next message to send on this connection: one that an earlier connection has lost, then one that waits. After
    /// two connections that the same message has ended, one at a time, so that it is clear which it is.
    pub(super) fn next(&mut self, limits: &Limits) -> Option<(PacketId, Outgoing<C>)> {
        if self.sent > 0 && self.head().is_some_and(|head| head.ends > 1) {
            return None;
        }
        if self.sent < self.in_flight.len() {
            let (id, outgoing) = self.in_flight.get(self.sent)?.clone();
            self.sent = self.sent.saturating_add(1);
            // [MQTT-3.3.1-1], [MQTT-4.4.0-1]
            return Some((id, Outgoing { dup: true, ..outgoing }));
        }
        // Half of what it may hold stays where it can be lost.
        let window = limits.window_messages_max.min(limits.session_messages_max.div_ceil(2));
        if self.in_flight.len() >= window {
            return None;
        }
        let window = limits.window_bytes_max.min(limits.session_bytes_max / 2);
        let cost = self.waiting.front()?.message.cost();
        let bytes = self.in_flight_bytes.saturating_add(cost);
        if bytes > window && !self.in_flight.is_empty() {
            return None;
        }
        let outgoing = self.waiting.pop_front()?;
        let id = self.free_id();
        self.in_flight_bytes = bytes;
        self.in_flight.push_back((id, outgoing.clone()));
        self.sent = self.sent.saturating_add(1);
        Some((id, outgoing))
    }

    /// Takes one out of those in flight.
    fn land(&mut self, index: usize) -> Option<(PacketId, Outgoing<C>)> {
        let landed = self.in_flight.remove(index)?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(landed.1.message.cost());
        Some(landed)
    }

    /// Identifiers are given out in order, so the distance from the oldest in flight grows along the window, unless one has
    /// been there for a whole round of them ([`Self::ordered`]).
    fn distance(&self, id: PacketId) -> Option<u16> {
        self.in_flight.front().map(|(front, _)| id.get().wrapping_sub(front.get()))
    }

    /// The next identifier that is not in flight ([MQTT-2.3.1-4]). The window is far smaller than their number.
    fn free_id(&mut self) -> PacketId {
        self.ordered |= self.in_flight.is_empty();
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = PacketId::new(self.last_id) else { continue };
            let back = self.in_flight.back().and_then(|(back, _)| self.distance(*back));
            let beyond = match (self.distance(id), back) {
                (Some(distance), Some(back)) => distance > back,
                _ => true,
            };
            if beyond && self.ordered {
                return id;
            }
            if self.in_flight.iter().all(|(used, _)| *used != id) {
                self.ordered &= beyond;
                return id;
            }
        }
    }

    /// The client has the message. Returns it; `None` for an identifier that is not in flight.
    pub(super) fn acknowledge(&mut self, id: PacketId) -> Option<Outgoing<C>> {
        let distance = self.distance(id)?;
        let guess = self.in_flight.partition_point(|(used, _)| self.distance(*used) < Some(distance));
        let is_it = |index: usize| self.in_flight.get(index).is_some_and(|(used, _)| *used == id);
        let index =
            if is_it(guess) { guess } else { self.in_flight.iter().position(|(used, _)| *used == id)? };
        let (_, outgoing) = self.land(index)?;
        if index < self.sent {
            self.sent = self.sent.saturating_sub(1);
        }
        self.discharge(outgoing.message.cost());
        Some(outgoing)
    }

    /// The oldest message without an acknowledgement.
    pub(super) fn head(&self) -> Option<&Outgoing<C>> {
        self.in_flight.front().map(|(_, outgoing)| outgoing)
    }

    pub(super) fn head_mut(&mut self) -> Option<&mut Outgoing<C>> {
        self.in_flight.front_mut().map(|(_, outgoing)| outgoing)
    }

    /// Takes the oldest message in flight out; it still counts.
    pub(super) fn take_head(&mut self) -> Option<Outgoing<C>> {
        let (_, outgoing) = self.land(0)?;
        self.sent = self.sent.saturating_sub(1);
        Some(outgoing)
    }

    /// Forgets messages the client may no longer receive. Returns them.
    pub(super) fn keep(&mut self, mut allowed: impl FnMut(&Message<C>) -> bool) -> Vec<Arc<Message<C>>> {
        let mut dropped = Vec::new();
        let mut keeps = |outgoing: &Outgoing<C>| {
            let keep = allowed(&outgoing.message);
            if !keep {
                dropped.push(Arc::clone(&outgoing.message));
            }
            keep
        };
        // What is in flight on a live connection has been sent already and will be acknowledged.
        if self.connection.is_none() {
            let mut bytes: usize = 0;
            self.in_flight.retain(|(_, outgoing)| {
                let keep = keeps(outgoing);
                bytes = bytes.saturating_add(if keep { outgoing.message.cost() } else { 0 });
                keep
            });
            self.in_flight_bytes = bytes;
        }
        self.waiting.retain(|outgoing| keeps(outgoing));
        let freed = dropped.iter().map(|message| message.cost()).fold(0, usize::saturating_add);
        self.discharge(freed);
        dropped
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn session(messages: usize) -> Session<&'static str> {
        let mut session = Session::new(true, 0);
        session.connection = Some(ConnectionId(1));
        for number in 0..messages {
            let topic = TopicName::parse("t").unwrap();
            let number = u64::try_from(number).unwrap();
            let message = Arc::new(Message { number, from: "p", topic, payload: Arc::from(&b"x"[..]) });
            session.push(Outgoing::new(&message, None));
        }
        session
    }

    /// [MQTT-2.3.1-4] More than there are identifiers, with one that is never acknowledged and acknowledgements in any
    /// order.
    #[test]
    fn no_identifier_is_in_flight_twice() {
        let limits = Limits { session_messages_max: 1_000_000, ..Limits::default() };
        let mut session = session(70_000);
        let mut sent: Vec<PacketId> = Vec::new();
        let (first, _) = session.next(&limits).unwrap();
        let mut taken = 1;
        for round in 0usize.. {
            while let Some((id, _)) = session.next(&limits) {
                assert!(id != first && !sent.contains(&id), "{id} is in flight");
                sent.push(id);
            }
            if sent.is_empty() {
                break;
            }
            for _ in 0..=(round % 900) {
                if sent.is_empty() {
                    break;
                }
                let id = sent.swap_remove((round * 7919) % sent.len());
                assert!(session.acknowledge(id).is_some());
                assert!(session.acknowledge(id).is_none());
                taken += 1;
            }
        }
        assert_eq!(taken, 70_000);
        assert!(session.acknowledge(first).is_some());
        assert_eq!((session.len(), session.bytes()), (0, 0));
    }
}
