//! How much the broker keeps, and how much it has.

use std::time::Duration;

/// Bounds of everything a client can make grow.
#[derive(Debug, Clone)]
pub struct Limits {
    pub sessions_max: usize,
    pub subscriptions_per_session_max: usize,
    /// Bytes of a session's filters together: they are one document on disk.
    pub subscription_bytes_per_session_max: usize,
    /// QoS 1 messages sent and not acknowledged, for each session.
    pub window_messages_max: usize,
    /// QoS 1 messages that a session holds, in flight or waiting.
    pub session_messages_max: usize,
    pub session_bytes_max: usize,
    /// Over all sessions.
    pub waiting_bytes_max: usize,
    /// What a session may hold whatever the others hold, so that those that are full starve none.
    pub session_bytes_kept: usize,
    pub retained_messages_max: usize,
    pub retained_bytes_max: usize,
    /// Bytes that wait to be written to one connection.
    pub output_bytes_max: usize,
    /// How long a client may take to send CONNECT.
    pub connect_max: Duration,
    /// How long a publication may wait for a full receiver before its publisher is disconnected.
    pub blocked_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 2048,
            subscriptions_per_session_max: 128,
            subscription_bytes_per_session_max: 16 * 1024,
            window_messages_max: 64,
            session_messages_max: 10_000,
            session_bytes_max: 4 * 1024 * 1024,
            waiting_bytes_max: 32 * 1024 * 1024,
            session_bytes_kept: 16 * 1024,
            retained_messages_max: 256,
            retained_bytes_max: 256 * 1024,
            output_bytes_max: 1024 * 1024,
            connect_max: Duration::from_secs(10),
            blocked_max: Duration::from_secs(30),
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
    /// QoS 0 messages that were dropped because the receiver's connection was full.
    pub dropped_qos0: u64,
    pub refused: u64,
}
