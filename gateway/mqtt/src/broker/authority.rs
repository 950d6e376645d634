//! The policy that the broker asks, and its answers.

use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use edgewarden_names::Refusal;

use crate::topic::{TopicFilter, TopicName};

/// Permissions and terms of each client, by the policy of the moment.
pub trait Authority {
    type Client: Clone + Eq + Hash + Ord + fmt::Debug + fmt::Display;

    /// The one client identifier this client may use.
    fn client_id<'a>(&self, client: &'a Self::Client) -> &'a str;
    /// Asked at each CONNECT, and for every connection when the authority changes.
    fn may_connect(&self, client: &Self::Client) -> Result<(), Refusal>;
    /// Asked for a publication, for a will at CONNECT and when it is sent, and for retained messages when the authority
    /// changes.
    fn may_publish(&self, client: &Self::Client, topic: &TopicName) -> Result<Terms, Refusal>;
    /// Asked for each filter of a SUBSCRIBE, and for every subscription when the authority changes.
    fn may_subscribe(&self, client: &Self::Client, filter: &TopicFilter) -> Result<(), Refusal>;
    /// Asked for each receiver of a topic, and for messages that wait when the authority changes.
    fn may_receive(&self, client: &Self::Client, topic: &TopicName) -> bool;
    /// False while it is not known who may do what: everything is denied then, and nothing is removed.
    fn decides(&self) -> bool;
    /// The reason that the client is gone for good, which ends its session. Not being let in for now is none.
    fn has_left(&self, client: &Self::Client) -> Option<Refusal>;
    /// The client's loss when it lags.
    fn lagging(&self, client: &Self::Client) -> Lagging;
    /// Time for which the client's persistent session is kept while it is away.
    fn session_expiry(&self, client: &Self::Client) -> Duration;
}

/// Terms on which a client publishes on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub keep: Keep,
    /// Largest payload.
    pub bytes_max: usize,
}

/// Condition for the acknowledgement of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every receiver's session holds it.
    Local,
    /// It is on disk for upstream as well: [`Action::Store`](super::Action::Store).
    Durable,
}

/// Loss of a receiver that has no room for one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lagging {
    /// Its oldest messages that are not on the way to it.
    LosesOldest,
    /// Its session, with all that is in it.
    LosesSession,
}
