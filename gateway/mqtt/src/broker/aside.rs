//! Messages that a client does not survive. One that has ended [`Limits::ends_max`] connections in a row unacknowledged
//! is taken out of the way of those behind it: set aside in its session, on disk with the session's document, until
//! somebody has looked at it.
//!
//! A client that ends connections whatever it is sent is not helped by this: after a few in a row without an
//! acknowledgement nothing more is set aside. A clean session has nothing to set aside in; a retained message that ends
//! its connections is kept from that client for a while.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal, UnixTime};

use super::durable::SetAside;
use super::session::Outgoing;
use super::{Authority, Broker, Limits, Message};

/// Time for which a retained message is kept from a client whose connections it has ended.
const KEPT_BACK: Duration = Duration::from_secs(600);
/// Retained messages under suspicion, for one client.
const SUSPECTS_MAX: usize = 16;

/// Messages set aside in one session.
#[derive(Debug)]
pub(super) struct Aside<C> {
    messages: VecDeque<SetAside<C>>,
    bytes: usize,
    in_a_row: u8,
    /// Numbers that the journal still holds, until this version of the document is written.
    unsettled: Vec<(u64, u64)>,
}

impl<C> Default for Aside<C> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), bytes: 0, in_a_row: 0, unsettled: Vec::new() }
    }
}

impl<C> SetAside<C> {
    /// Bytes that it counts for, as a message that waits.
    fn cost(&self) -> usize {
        Message::<()>::cost_of(&self.topic, &self.payload)
    }
}

impl<C> Aside<C> {
    /// Returns what it counts for.
    pub(super) fn restore(&mut self, saved: SetAside<C>) -> usize {
        let cost = saved.cost();
        self.bytes = self.bytes.saturating_add(cost);
        self.messages.push_back(saved);
        cost
    }

    pub(super) fn saved(&self) -> Vec<SetAside<C>>
    where
        C: Clone,
    {
        self.messages.iter().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SetAside<C>> {
        self.messages.iter()
    }

    pub(super) fn unsettled(&self) -> impl Iterator<Item = u64> {
        self.unsettled.iter().map(|(_, number)| *number)
    }

    /// The client takes messages.
    pub(super) fn taken(&mut self) {
        self.in_a_row = 0;
    }

    /// The document is on disk: the journal may let go of these.
    pub(super) fn written(&mut self, version: u64) -> Vec<u64> {
        let (written, waiting) = std::mem::take(&mut self.unsettled)
            .into_iter()
            .partition::<Vec<_>, _>(|(waits_for, _)| *waits_for <= version);
        self.unsettled = waiting;
        written.into_iter().map(|(_, number)| number).collect()
    }

    /// Takes one out while there are too many, or too many bytes: the oldest, and where it is for bytes the oldest of
    /// those that have more than is kept for each. A large one pushes out large ones only.
    fn evict(&mut self, limits: &Limits) -> Option<(SetAside<C>, usize)> {
        if self.messages.len() > limits.set_aside_messages_max {
            return self.take(0);
        }
        if self.bytes <= limits.set_aside_bytes_max {
            return None;
        }
        let large = |message: &SetAside<C>| message.cost() > limits.set_aside_bytes_kept;
        self.take(self.messages.iter().position(large).unwrap_or(0))
    }

    fn remove(&mut self, number: u64) -> Option<(SetAside<C>, usize)> {
        self.take(self.messages.iter().position(|message| message.number == number)?)
    }

    /// Takes out the message at `index`, with the bytes that it counted for.
    fn take(&mut self, index: usize) -> Option<(SetAside<C>, usize)> {
        let message = self.messages.remove(index)?;
        let cost = message.cost();
        self.bytes = self.bytes.saturating_sub(cost);
        Some((message, cost))
    }
}

/// Retained messages that have ended connections of clean sessions, by client: number, connections, when last.
#[derive(Debug)]
pub(super) struct KeptBack<C>(HashMap<C, VecDeque<(u64, u8, Duration)>>);

impl<C> Default for KeptBack<C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<C: Clone + Eq + Hash> KeptBack<C> {
    /// Returns how many connections it has ended by now.
    fn strike(&mut self, client: &C, number: u64, now: Duration) -> u8 {
        self.expire(now);
        let suspects = self.0.entry(client.clone()).or_default();
        if let Some((_, ends, at)) = suspects.iter_mut().find(|(known, ..)| *known == number) {
            (*ends, *at) = (ends.saturating_add(1), now);
            return *ends;
        }
        if suspects.len() >= SUSPECTS_MAX {
            suspects.pop_front();
        }
        suspects.push_back((number, 1, now));
        1
    }

    pub(super) fn acquit(&mut self, client: &C, number: u64) {
        if let Some(suspects) = self.0.get_mut(client) {
            suspects.retain(|(known, ..)| *known != number);
        }
    }

    fn expire(&mut self, now: Duration) {
        self.0.retain(|_, suspects| {
            suspects.retain(|(.., at)| now.saturating_sub(*at) < KEPT_BACK);
            !suspects.is_empty()
        });
    }

    pub(super) fn ends(&self, client: &C, number: u64, now: Duration) -> u8 {
        let suspects = self.0.get(client).into_iter().flatten();
        let mut known =
            suspects.filter(|(known, _, at)| *known == number && now.saturating_sub(*at) < KEPT_BACK);
        known.next().map_or(0, |(_, ends, _)| *ends)
    }
}

impl<A: Authority> Broker<A> {
    /// The client has ended a connection on which messages had been handed to it.
    pub(super) fn count_end(&mut self, client: &A::Client) {
        let limits = &self.limits;
        let Some(session) = self.sessions.get_mut(client) else { return };
        let (clean, in_a_row) = (session.clean, session.aside.in_a_row);
        let Some(head) = session.head_mut() else { return };
        head.ends = head.ends.saturating_add(1);
        let (ends, retained, message) = (head.ends, head.retained, Arc::clone(&head.message));
        if clean {
            let Some(number) = retained else { return };
            if self.kept_back.strike(client, number, self.now) == limits.ends_max {
                let rule = format!(
                    "the retained message of {} on {} ({} bytes) ended {} connections unacknowledged; it is kept from \
                     this client for {} s",
                    message.from,
                    message.topic,
                    message.payload.len(),
                    limits.ends_max,
                    KEPT_BACK.as_secs(),
                );
                self.refuse(client, Refusal::new(Reason::MessageSetAside, client, rule));
            }
            return;
        }
        if ends < limits.ends_max || in_a_row >= limits.set_aside_in_a_row_max {
            return;
        }
        let Some(Outgoing { message, retained, .. }) = session.take_head() else { return };
        session.aside.in_a_row = in_a_row.saturating_add(1);
        session.aside.restore(SetAside {
            number: message.number,
            from: message.from.clone(),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
            retain: retained.is_some(),
            at: self.wall,
            connections: ends,
        });
        let mut evicted = 0;
        while let Some((_, cost)) = session.aside.evict(limits) {
            session.discharge(cost);
            self.waiting_bytes = self.waiting_bytes.saturating_sub(cost);
            evicted += 1;
        }
        let version = self.touch(client);
        if let Some(session) = self.sessions.get_mut(client) {
            session.aside.unsettled.push((version, message.number));
        }
        let rule = format!(
            "message {} of {} on {} ({} bytes) ended {ends} connections unacknowledged; it was set aside",
            message.number,
            message.from,
            message.topic,
            message.payload.len(),
        );
        self.refuse(client, Refusal::new(Reason::MessageSetAside, client, rule));
        if evicted > 0 {
            self.count_lost(
                client,
                evicted,
                "there is no room for more messages set aside: the oldest go, large ones first",
            );
        }
    }

    /// Messages set aside, by client.
    pub fn set_aside(&self) -> Vec<(A::Client, SetAside<A::Client>)> {
        let mut all: Vec<_> = self
            .sessions
            .iter()
            .flat_map(|(client, session)| {
                session.aside.iter().map(move |message| (client.clone(), message.clone()))
            })
            .collect();
        all.sort_unstable_by(|(one, message), (other, second)| {
            (one, message.number).cmp(&(other, second.number))
        });
        all
    }

    /// Drops a message that was set aside. Gone for good when the version of the session's document that this returns is
    /// on disk ([`Broker::documented`]). `None` when there is none of this number.
    pub fn drop_set_aside(&mut self, client: &A::Client, number: u64, now: Duration) -> Option<u64> {
        self.now = now;
        let session = self.sessions.get_mut(client)?;
        let (_, cost) = session.aside.remove(number)?;
        session.discharge(cost);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(cost);
        let version = self.touch(client);
        self.settle();
        Some(version)
    }

    /// Sets the time of day that messages set aside from now on are marked with.
    pub fn set_wall_clock(&mut self, wall: UnixTime) {
        self.wall = wall;
    }
}
