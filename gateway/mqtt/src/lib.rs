//! MQTT 3.1.1 (OASIS Standard, 29 October 2014): the codec and the broker, without I/O.
//!
//! * [`packet`]: the control packets · [`decode`]: bytes to packets · [`encode`]: packets to bytes
//! * [`topic`]: names, filters and how they match · [`trie`]: many filters at once
//! * [`broker`]: sessions, subscriptions, delivery; every step asks an [`broker::Authority`]
//!
//! Distrusts every byte of a packet. Nothing a peer can send makes it panic or grow without a limit.

pub mod broker;
pub mod decode;
pub mod encode;
pub mod packet;
pub mod trie;

pub use edgewarden_names::topic::{self, TopicError, TopicFilter, TopicName};
