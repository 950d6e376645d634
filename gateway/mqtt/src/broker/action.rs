//! Tasks of the broker for its caller.

use std::sync::Arc;

use edgewarden_names::Refusal;

use super::saved::{Document, Saved, SavedRetained};
use crate::topic::TopicName;

/// Number of a connection, given out by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names one [`Action::Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// A task of the broker for its caller, who does all I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<C> {
    /// There are bytes for [`Broker::take_output`](super::Broker::take_output).
    Output(ConnectionId),
    /// Write `last`, then close. The broker has forgotten the connection.
    Close { connection: ConnectionId, last: Vec<u8> },
    /// So much of what was received is done with: the caller may read as much again.
    Credit { connection: ConnectionId, bytes: usize },
    /// Put the publication on disk, then call [`Broker::stored`](super::Broker::stored).
    Store { ticket: Ticket, client: C, topic: TopicName, payload: Arc<[u8]> },
    /// Put the session on disk, or remove it, then call [`Broker::documented`](super::Broker::documented).
    Document { client: C, version: u64, document: Option<Document<C>> },
    /// Put the message on disk, then call [`Broker::journaled`](super::Broker::journaled).
    Journal(Saved<C>),
    /// The client's session does not need this message of the journal any more. To be lost is no harm.
    Settled { client: C, number: u64 },
    /// The client's session is gone, and all that was for it.
    Forgotten { client: C },
    /// Put the retained message on disk in the place of its topic's, or remove that when the payload is empty, then call
    /// [`Broker::journaled`](super::Broker::journaled).
    Retain(SavedRetained<C>),
    /// Write a refusal to the audit log. `client`: whose doing it was; `None` when it is of our own, as a disk's.
    Refused { client: Option<C>, refusal: Refusal },
}
