//! A queue on disk, encrypted, in order: messages on their way to the fleet for as long as the link is down, and the
//! journal of messages for persistent sessions. [`sealed`]: small encrypted documents.
//!
//! * **Owned before acknowledged.** [`Queue::append`] resolves when the record is on disk (`fdatasync`); many
//!   appends share one sync (group commit). A queue at its byte cap refuses the new record ([`QueueError::Full`]) and
//!   never drops an old one. There are no priorities and no time to live: what is in it is delivered, in order.
//! * **Numbered for ever.** Sequence numbers begin at 1 and none is given out twice, so the fleet can tell a repetition;
//!   the queue's random [id](Queue::id) tells a queue that was lost and made anew.
//! * **Encrypted and chained.** Each group commit is one AES-256-GCM frame ([`format`]); each segment file has its own
//!   key (HKDF-SHA-256 of the storage key and a random salt). A frame that is missing, moved or changed is
//!   [`QueueError::Damaged`]; only the unfinished last frame that a crash leaves behind is cut off, and that one was
//!   never acknowledged.
//!
//! Trusts the storage key and the process that calls it. Distrusts the disk for secrecy and integrity, with one limit:
//! who can write to the disk can put back an older state of the whole queue, or cut off its newest frames; that looks
//! like a crash. The fleet sees the first as repetitions, which it drops.

mod cursor;
mod error;
pub mod format;
mod keys;
mod log;
mod queue;
pub mod sealed;
mod segment;

pub use error::QueueError;
pub use queue::{Appending, Queue, Status};

/// Largest record.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// One stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    pub body: Vec<u8>,
}
