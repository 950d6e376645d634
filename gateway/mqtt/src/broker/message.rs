//! One publication in the broker.

use std::sync::Arc;

use crate::topic::TopicName;

/// Bytes that an entry and its places in the queue, the journal and its index cost beside topic and payload.
const MESSAGE_COST: usize = 256;

/// One publication, shared by all who receive it.
#[derive(Debug, Clone)]
pub(super) struct Message<C> {
    /// Above those of all messages before it.
    pub(super) number: u64,
    pub(super) from: C,
    pub(super) topic: TopicName,
    pub(super) payload: Arc<[u8]>,
}

impl<C> Message<C> {
    /// Bytes that the message counts for in every pool.
    pub(super) fn cost(&self) -> usize {
        Self::cost_of(&self.topic, &self.payload)
    }

    pub(super) fn cost_of(topic: &TopicName, payload: &[u8]) -> usize {
        MESSAGE_COST.saturating_add(topic.as_str().len()).saturating_add(payload.len())
    }
}
