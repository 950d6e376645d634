//! The broker's state as it is on disk.

use std::sync::Arc;

use edgewarden_names::UnixTime;

use crate::packet::Qos;
use crate::topic::{TopicFilter, TopicName};

/// A session as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<C> {
    /// Messages with smaller numbers belong to an earlier session of the same client.
    pub since: u64,
    /// The subscriptions were lost with a damaged document, or are from an older copy: the client is told to subscribe
    /// again.
    pub lost: bool,
    /// Seconds that its client has been away while a broker ran, as far as written down.
    pub away_seconds: u64,
    /// In order of the filters.
    pub subscriptions: Vec<(TopicFilter, Qos)>,
    /// Oldest first.
    pub set_aside: Vec<SetAside<C>>,
}

impl<C> Default for Document<C> {
    fn default() -> Self {
        Self { since: 0, lost: false, away_seconds: 0, subscriptions: Vec::new(), set_aside: Vec::new() }
    }
}

/// A message that its receiver did not survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside<C> {
    pub number: u64,
    pub from: C,
    pub topic: TopicName,
    pub payload: Arc<[u8]>,
    pub retain: bool,
    /// Time at which it was set aside.
    pub at: UnixTime,
    /// Connections that it had ended by then.
    pub connections: u8,
}

/// A message of the journal that its receivers have not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved<C> {
    /// Messages of one session are delivered in the order of their numbers.
    pub number: u64,
    pub receivers: Vec<C>,
    pub from: C,
    pub topic: TopicName,
    pub payload: Arc<[u8]>,
    pub retain: bool,
}

/// A retained message as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRetained<C> {
    /// Of two with the same topic, the higher one is the newer.
    pub number: u64,
    pub from: C,
    pub topic: TopicName,
    /// Empty: there is none on this topic any more.
    pub payload: Arc<[u8]>,
    pub qos: Qos,
}

/// All that was on disk.
#[derive(Debug)]
pub struct Restored<C> {
    pub sessions: Vec<(C, Document<C>)>,
    pub messages: Vec<Saved<C>>,
    pub retained: Vec<SavedRetained<C>>,
    /// Above every number that was ever given out.
    pub next_number: u64,
}
