use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::RECORD_BYTES_MAX;

/// Cloneable, because one failed group commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// Try again when the link to the fleet is back, or raise the cap.
    #[error("the queue has reached its cap of {bytes_max} bytes")]
    Full { bytes_max: u64 },
    /// The rest is for other senders. Try again when the link to the fleet is back, or raise the cap.
    #[error("the sender would have {held} of the queue's {bytes_max} bytes, and must leave room to others")]
    Share { held: u64, bytes_max: u64 },
    #[error("a record of {0} bytes is over the limit of {RECORD_BYTES_MAX}")]
    TooLarge(usize),
    /// The storage key is not the one that the queue was made with: restore the key, or move the folder away.
    #[error("the storage key does not open the queue in `{}`", .0.display())]
    WrongKey(PathBuf),
    /// The file is not what was written. Move the folder away to start anew; the messages in it are then lost.
    #[error("`{}` is damaged at byte {offset}: {what}", path.display())]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    /// Another process has the queue open.
    #[error("the queue in `{}` is open already", .0.display())]
    InUse(PathBuf),
    /// The disk refused. What was to be appended is not in the queue; what was there still is.
    #[error("cannot {what} `{}`", path.display())]
    Io { what: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// Only records that were read may be acknowledged.
    #[error("there is no record {0} to acknowledge")]
    NoSuchRecord(u64),
    /// A failed write could not be undone, or the queue's thread has ended: open the queue again.
    #[error("the queue has stopped after an error that it could not undo")]
    Stopped,
}

impl QueueError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: &'static str) -> Self {
        Self::Damaged { path: path.into(), offset, what }
    }
}
