//! Bounds of the broker's pools, and their fill.
//!
//! Each pool has a ceiling for one client and, where clients share it, a part that each has whatever the others hold.

use std::time::Duration;

/// Bounds of everything a client can make grow.
#[derive(Debug, Clone)]
pub struct Limits {
    pub sessions_max: usize,
    /// Connections of one client that have not said CONNECT, or are being replaced.
    pub connections_per_client_max: usize,
    pub subscriptions_per_session_max: usize,
    /// Bytes of a session's filters together: they are one document on disk.
    pub subscription_bytes_per_session_max: usize,
    /// QoS 1 messages sent and not acknowledged, for each session. MQTT 3.1.1 has no Receive Maximum: this bounds what is
    /// sent again after a lost connection, and what policy can no longer take back.
    pub window_messages_max: usize,
    /// Bytes of them; one message may be on its way whatever its size.
    pub window_bytes_max: usize,
    /// QoS 1 messages that a session holds, in flight or waiting.
    pub session_messages_max: usize,
    pub session_bytes_max: usize,
    /// Over all sessions.
    pub waiting_bytes_max: usize,
    /// Bytes that a session may hold whatever the others hold, so that those that are full starve none.
    pub session_bytes_kept: usize,
    /// Connections that a message may end unacknowledged, before it is set aside.
    pub ends_max: u8,
    /// Messages set aside in one session.
    pub set_aside_messages_max: usize,
    pub set_aside_bytes_max: usize,
    /// Bytes that each of them may have whatever the others have: as many as there may be of this size, and one of the
    /// largest, fit in `set_aside_bytes_max`.
    pub set_aside_bytes_kept: usize,
    /// Messages set aside one after the other: from then on it is the client that takes nothing.
    pub set_aside_in_a_row_max: u8,
    /// Retained messages of all clients.
    pub retained_messages_max: usize,
    pub retained_bytes_max: usize,
    pub retained_messages_per_client_max: usize,
    pub retained_bytes_per_client_max: usize,
    /// Messages, and bytes, that a client may retain whatever the others do.
    pub retained_messages_kept: usize,
    pub retained_bytes_kept: usize,
    /// Bytes that wait to be written to one connection.
    pub output_bytes_max: usize,
    /// Time in which a client has to send CONNECT.
    pub connect_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 2048,
            connections_per_client_max: 4,
            subscriptions_per_session_max: 128,
            subscription_bytes_per_session_max: 16 * 1024,
            window_messages_max: 1024,
            window_bytes_max: 256 * 1024,
            session_messages_max: 10_000,
            session_bytes_max: 4 * 1024 * 1024,
            waiting_bytes_max: 32 * 1024 * 1024,
            session_bytes_kept: 16 * 1024,
            ends_max: 3,
            set_aside_messages_max: 16,
            set_aside_bytes_max: 544 * 1024,
            set_aside_bytes_kept: 18 * 1024,
            set_aside_in_a_row_max: 4,
            retained_messages_max: 4096,
            retained_bytes_max: 4 * 1024 * 1024,
            retained_messages_per_client_max: 256,
            retained_bytes_per_client_max: 256 * 1024,
            retained_messages_kept: 4,
            retained_bytes_kept: 16 * 1024,
            output_bytes_max: 256 * 1024,
            connect_max: Duration::from_secs(10),
        }
    }
}

/// Counts for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub sessions: usize,
    pub subscriptions: usize,
    /// QoS 1 messages that sessions hold.
    pub waiting_messages: usize,
    pub waiting_bytes: usize,
    pub retained_messages: usize,
    /// Messages that ended connections again and again, kept apart.
    pub set_aside: usize,
    /// QoS 1 messages that receivers lost by their own rule.
    pub lost: u64,
    /// QoS 0 messages that were dropped because the receiver's connection was full.
    pub dropped_qos0: u64,
    pub refused: u64,
    /// Publications of clients that were accepted.
    pub taken: u64,
    /// Messages that were written to a receiver's connection, repeated ones too.
    pub delivered: u64,
}

/// A client that does not take what is meant for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver<C> {
    pub client: C,
    pub connected: bool,
    pub waiting_messages: usize,
    pub waiting_bytes: usize,
    /// Messages lost by the receiver's own rule, since the process began.
    pub lost: u64,
    /// It loses messages now.
    pub lagging: bool,
    /// Connections that ended one after the other with the same message unacknowledged.
    pub ends: u8,
    pub set_aside: usize,
}
