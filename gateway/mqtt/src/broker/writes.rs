//! Writes that the broker has asked for and waits for.

use super::action::ConnectionId;
use crate::packet::PacketId;

/// Versions of one session's document: wanted, and written to disk.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) wanted: u64,
    pub(super) written: u64,
    pub(super) under_way: bool,
}

/// A publication on its way into the journal.
#[derive(Debug)]
pub(super) struct Journaling {
    pub(super) connection: Option<ConnectionId>,
    pub(super) ack: Option<PacketId>,
    pub(super) cost: usize,
    /// Receivers that have not acknowledged it.
    pub(super) waiting: usize,
    /// Its publisher owes its acknowledgement to nothing here any more.
    pub(super) released: bool,
}
