//! Retained messages (MQTT 3.1.1 section 3.3.1.3): the last one of each topic, bounded: they are one
//! document on disk that is written whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::durable::SavedRetained;
use super::{Limits, Message};
use crate::packet::Qos;
use crate::topic::{TopicFilter, TopicName};

#[derive(Debug)]
pub(super) struct Retained<C> {
    messages: BTreeMap<TopicName, (Arc<Message<C>>, Qos)>,
    bytes: usize,
}

impl<C> Default for Retained<C> {
    fn default() -> Self {
        Self { messages: BTreeMap::new(), bytes: 0 }
    }
}

impl<C> Retained<C> {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether the message fits in the place of what its topic has.
    pub(super) fn has_room(&self, message: &Message<C>, limits: &Limits) -> bool {
        let replaced = self.messages.get(&message.topic);
        let messages = self.messages.len() + usize::from(replaced.is_none());
        let freed = replaced.map_or(0, |(old, _)| old.cost());
        let bytes = self.bytes.saturating_sub(freed).saturating_add(message.cost());
        message.payload.is_empty()
            || (messages <= limits.retained_messages_max && bytes <= limits.retained_bytes_max)
    }

    /// An empty payload removes ([MQTT-3.3.1-10], [MQTT-3.3.1-11]).
    pub(super) fn set(&mut self, message: &Arc<Message<C>>, qos: Qos) {
        let old = if message.payload.is_empty() {
            self.messages.remove(&message.topic)
        } else {
            self.bytes = self.bytes.saturating_add(message.cost());
            self.messages.insert(message.topic.clone(), (Arc::clone(message), qos))
        };
        self.bytes = self.bytes.saturating_sub(old.map_or(0, |(old, _)| old.cost()));
    }

    pub(super) fn matching(&self, filter: &TopicFilter) -> Vec<(Arc<Message<C>>, Qos)> {
        self.messages
            .iter()
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, (message, qos))| (Arc::clone(message), *qos))
            .collect()
    }

    /// True when some were removed.
    pub(super) fn keep(&mut self, mut allowed: impl FnMut(&Message<C>) -> bool) -> bool {
        let before = self.messages.len();
        self.messages.retain(|_, (message, _)| allowed(message));
        self.bytes = self.messages.values().map(|(message, _)| message.cost()).sum();
        self.messages.len() < before
    }

    pub(super) fn all(&self) -> Vec<SavedRetained<C>>
    where
        C: Clone,
    {
        let saved = |(message, qos): &(Arc<Message<C>>, Qos)| SavedRetained {
            from: message.from.clone(),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
            qos: *qos,
        };
        self.messages.values().map(saved).collect()
    }
}
