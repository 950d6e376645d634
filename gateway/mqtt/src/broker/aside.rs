//! Messages out of the way of those behind them: set aside in a session, or kept back from a client.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::limits::Limits;
use super::message::Message;
use super::saved::SetAside;

/// Time for which a retained message is kept from a client whose connections it has ended.
pub(super) const KEPT_BACK: Duration = Duration::from_secs(600);
/// Retained messages under suspicion, for one client.
const SUSPECTS_MAX: usize = 16;

/// Messages set aside in one session.
#[derive(Debug)]
pub(super) struct Aside<C> {
    messages: VecDeque<SetAside<C>>,
    bytes: usize,
    pub(super) in_a_row: u8,
    /// Numbers that the journal still holds, until this version of the document is written.
    pub(super) unsettled: Vec<(u64, u64)>,
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
    pub(super) fn evict(&mut self, limits: &Limits) -> Option<(SetAside<C>, usize)> {
        if self.messages.len() > limits.set_aside_messages_max {
            return self.take(0);
        }
        if self.bytes <= limits.set_aside_bytes_max {
            return None;
        }
        let large = |message: &SetAside<C>| message.cost() > limits.set_aside_bytes_kept;
        self.take(self.messages.iter().position(large).unwrap_or(0))
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<(SetAside<C>, usize)> {
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
    pub(super) fn strike(&mut self, client: &C, number: u64, now: Duration) -> u8 {
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
