//! Retained messages (MQTT 3.1.1 section 3.3.1.3): the last one of each topic. Each counts for the client that published
//! it, which has a ceiling of its own and a part that nobody else can take.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::limits::Limits;
use super::message::Message;
use crate::packet::Qos;
use crate::topic::{TopicFilter, TopicName};

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    messages: usize,
    bytes: usize,
}

impl Share {
    fn add(&mut self, cost: usize) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(cost);
    }

    fn subtract(&mut self, cost: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(cost);
    }

    fn fits(&self, messages: usize, bytes: usize) -> bool {
        self.messages <= messages && self.bytes <= bytes
    }
}

#[derive(Debug)]
pub(super) struct Retained<C> {
    messages: BTreeMap<TopicName, (Arc<Message<C>>, Qos)>,
    all: Share,
    shares: HashMap<C, Share>,
}

impl<C> Default for Retained<C> {
    fn default() -> Self {
        Self { messages: BTreeMap::new(), all: Share::default(), shares: HashMap::new() }
    }
}

impl<C: Clone + Eq + Hash> Retained<C> {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn get(&self, topic: &TopicName) -> Option<&[u8]> {
        self.messages.get(topic).map(|(message, _)| &*message.payload)
    }

    /// Accepts a message that fits in the place of what its topic has; the error names the bound.
    pub(super) fn has_room(&self, message: &Message<C>, limits: &Limits) -> Result<(), &'static str> {
        if message.payload.is_empty() {
            return Ok(());
        }
        let mut own = self.shares.get(&message.from).copied().unwrap_or_default();
        let mut all = self.all;
        if let Some((old, _)) = self.messages.get(&message.topic) {
            all.subtract(old.cost());
            if old.from == message.from {
                own.subtract(old.cost());
            }
        }
        own.add(message.cost());
        all.add(message.cost());
        if !own.fits(limits.retained_messages_per_client_max, limits.retained_bytes_per_client_max) {
            return Err("it has as many retained messages, or bytes of them, as one client may");
        }
        let kept = own.fits(limits.retained_messages_kept, limits.retained_bytes_kept);
        let grows = !all.fits(self.all.messages, self.all.bytes);
        if grows && !kept && !all.fits(limits.retained_messages_max, limits.retained_bytes_max) {
            return Err("there is no room for more retained messages than are kept for each client");
        }
        Ok(())
    }

    /// An empty payload removes ([MQTT-3.3.1-10], [MQTT-3.3.1-11]). What is here says nothing of the disk: an earlier removal
    /// may not have got there.
    pub(super) fn set(&mut self, message: &Arc<Message<C>>, qos: Qos) {
        let old = if message.payload.is_empty() {
            self.messages.remove(&message.topic)
        } else {
            self.all.add(message.cost());
            self.shares.entry(message.from.clone()).or_default().add(message.cost());
            self.messages.insert(message.topic.clone(), (Arc::clone(message), qos))
        };
        if let Some((old, _)) = old {
            self.released(&old);
        }
    }

    fn released(&mut self, message: &Message<C>) {
        self.all.subtract(message.cost());
        if let Some(share) = self.shares.get_mut(&message.from) {
            share.subtract(message.cost());
            if share.messages == 0 {
                self.shares.remove(&message.from);
            }
        }
    }

    pub(super) fn matching(&self, filter: &TopicFilter) -> Vec<(Arc<Message<C>>, Qos)> {
        if let Some(topic) = filter.as_topic() {
            return self.messages.get(&topic).cloned().into_iter().collect();
        }
        self.messages
            .iter()
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, (message, qos))| (Arc::clone(message), *qos))
            .collect()
    }

    /// Removes what is not allowed. Returns it.
    pub(super) fn keep(&mut self, mut allowed: impl FnMut(&Message<C>) -> bool) -> Vec<Arc<Message<C>>> {
        let mut removed = Vec::new();
        self.messages.retain(|_, (message, _)| {
            let keep = allowed(message);
            if !keep {
                removed.push(Arc::clone(message));
            }
            keep
        });
        for message in &removed {
            self.released(message);
        }
        removed
    }
}
