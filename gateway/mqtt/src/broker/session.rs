//! What the broker keeps for one client (MQTT 3.1.1 section 3.1.2.4, "Session state").

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::durable::Document;
use super::{ConnectionId, Limits, Message};
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
    waiting: VecDeque<Outgoing<C>>,
    bytes: usize,
    last_id: u16,
}

/// A QoS 1 message for this session.
#[derive(Debug)]
pub(super) struct Outgoing<C> {
    pub(super) message: Arc<Message<C>>,
    pub(super) retain: bool,
    /// An earlier process may have sent it.
    pub(super) dup: bool,
}

impl<C> Clone for Outgoing<C> {
    fn clone(&self) -> Self {
        Self { message: Arc::clone(&self.message), retain: self.retain, dup: self.dup }
    }
}

impl<C> Message<C> {
    /// What it counts for in memory; the fixed part stands for the queue entry.
    pub(super) fn cost(&self) -> usize {
        64usize.saturating_add(self.topic.as_str().len()).saturating_add(self.payload.len())
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
            waiting: VecDeque::new(),
            bytes: 0,
            last_id: 0,
        }
    }

    pub(super) fn document(&self) -> Document {
        let mut subscriptions: Vec<_> =
            self.subscriptions.iter().map(|(filter, qos)| (filter.clone(), *qos)).collect();
        subscriptions.sort_unstable();
        Document { since: self.since, lost: self.lost, subscriptions }
    }

    /// Messages held.
    pub(super) fn len(&self) -> usize {
        self.in_flight.len().saturating_add(self.waiting.len())
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        let flying = self.in_flight.iter().map(|(_, outgoing)| outgoing);
        flying.chain(&self.waiting).map(|outgoing| outgoing.message.number).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `messages` more with `bytes` together fit. One message always fits an empty session.
    pub(super) fn has_room(&self, messages: usize, bytes: usize, limits: &Limits) -> bool {
        let alone = self.len() == 0 && messages <= 1;
        self.len().saturating_add(messages) <= limits.session_messages_max
            && (alone || self.bytes.saturating_add(bytes) <= limits.session_bytes_max)
    }

    pub(super) fn push(&mut self, outgoing: Outgoing<C>) {
        self.bytes = self.bytes.saturating_add(outgoing.message.cost());
        self.waiting.push_back(outgoing);
    }

    /// Moves the next waiting message into the window.
    pub(super) fn next(&mut self, window: usize) -> Option<(PacketId, Outgoing<C>)> {
        if self.in_flight.len() >= window {
            return None;
        }
        let outgoing = self.waiting.pop_front()?;
        let id = self.free_id();
        self.in_flight.push_back((id, outgoing.clone()));
        Some((id, outgoing))
    }

    /// The next identifier that is not in flight ([MQTT-2.3.1-4]). The window is far smaller than their number.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.in_flight.iter().all(|(used, _)| *used != id)
            {
                return id;
            }
        }
    }

    /// The client has the message. Returns it; `None` for an identifier that is not in flight.
    pub(super) fn acknowledge(&mut self, id: PacketId) -> Option<Arc<Message<C>>> {
        let index = self.in_flight.iter().position(|(used, _)| *used == id)?;
        let (_, outgoing) = self.in_flight.remove(index)?;
        self.bytes = self.bytes.saturating_sub(outgoing.message.cost());
        Some(outgoing.message)
    }

    /// What was sent and not acknowledged before, with the old identifiers ([MQTT-4.4.0-1]).
    pub(super) fn in_flight(&self) -> Vec<(PacketId, Outgoing<C>)> {
        self.in_flight.iter().cloned().collect()
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
            self.in_flight.retain(|(_, outgoing)| keeps(outgoing));
        }
        self.waiting.retain(|outgoing| keeps(outgoing));
        let freed = dropped.iter().map(|message| message.cost()).fold(0, usize::saturating_add);
        self.bytes = self.bytes.saturating_sub(freed);
        dropped
    }
}
