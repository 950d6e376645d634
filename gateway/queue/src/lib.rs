//! A queue on disk, encrypted, in order: messages on their way to the fleet for as long as the link is down, and the
//! journal of messages for persistent sessions. [`sealed`]: small encrypted documents.
//!
//! * **Owned before acknowledged.** [`Queue::append`] resolves when the record is on disk (`fdatasync`); many
//!   appends share one sync (group commit). A queue at its byte cap refuses the new record ([`QueueError::Full`]) and
//!   never drops an old one. There are no priorities and no time to live: what is in it is delivered, in order.
//! * **Named for ever.** Sequence numbers begin at 1 and rise; with its [`Epoch`], which is another one each time the
//!   queue is opened, a number names one record, also where an older copy of the queue is opened again. So the fleet can
//!   tell a repetition from another record. [`Queue::begin_epoch`]: for when it finds another record all the same.
//! * **Shared.** No sender fills the queue for the others ([`shares`]).
//! * **Encrypted and chained.** Each group commit is one AES-256-GCM frame ([`format`]); each segment file has its own
//!   key (HKDF-SHA-256 of the storage key and a random salt). A frame that is missing, moved or changed is
//!   [`QueueError::Damaged`]; only the unfinished last frame that a crash leaves behind is cut off, and that one was
//!   never acknowledged.
//!
//! Trusts the storage key and the process that calls it. Distrusts the disk for secrecy and integrity, with one limit:
//! who can write to the disk can put back an older state of the whole queue, or cut off its newest frames; that looks
//! like a crash. The fleet sees repetitions in the first, which it drops, and records of a new epoch.

mod cursor;
mod epoch;
mod error;
pub mod format;
mod keys;
mod log;
mod queue;
pub mod sealed;
mod segment;
pub mod shares;

pub use epoch::Epoch;
pub use error::QueueError;
pub use queue::{Appending, Queue, Status};

/// Largest record.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// One stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    pub sequence: u64,
    pub body: Vec<u8>,
}
