//! Queue epochs: the run of the queue that numbered a record.
//!
//! A process that opens a queue cannot know whether its folder is an older copy of one that went on: a restored backup,
//! a snapshot. So every opening begins an epoch of its own, and numbers of before are never given to another record. A
//! snapshot that resumes the running process goes on in an epoch that went on without it; the fleet finds that out, and
//! what it has not stored is then named by a new epoch.

use std::path::{Path, PathBuf};

use edgewarden_platform::durable;

use crate::error::QueueError;
use crate::format::{Fields, ID_BYTES, RENUMBERED_MAGIC, SALT_BYTES};
use crate::keys::{StorageKey, TAG_BYTES, random};

const PURPOSE: &[u8] = b"edgewarden queue epoch v1";
const FILE_BYTES_MAX: usize = 1024;

/// 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub(crate) [u8; ID_BYTES]);

impl Epoch {
    pub(crate) fn random() -> Result<Self, QueueError> {
        random().map(Self).map_err(|_| QueueError::Stopped)
    }
}

/// Hexadecimal.
impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Records that got the name of a later epoch than the one that they were stored in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renumbered {
    pub(crate) epoch: Epoch,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Renumbered {
    pub(crate) fn read(
        folder: &Path,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
    ) -> Result<Option<Self>, QueueError> {
        let path = path(folder);
        let damaged = || QueueError::damaged(&path, 0, "it is not what was written");
        let Some(bytes) = durable::read(&path, FILE_BYTES_MAX).map_err(QueueError::io("read", &path))? else {
            return Ok(None);
        };
        let (head, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or_else(damaged)?;
        let mut fields = Fields(head);
        let (magic, epoch, from, until) = (fields.array(), fields.array(), fields.u64(), fields.u64());
        let salt = fields.array::<SALT_BYTES>();
        let (Some(epoch), Some(from), Some(until), Some(salt)) = (epoch, from, until, salt) else {
            return Err(damaged());
        };
        let key = storage.derive(&salt, &[PURPOSE, id]).map_err(|_| QueueError::Stopped)?;
        if magic.as_ref() != Some(RENUMBERED_MAGIC) || !fields.0.is_empty() || !key.check_tag(head, tag) {
            return Err(damaged());
        }
        Ok(Some(Self { epoch: Epoch(epoch), from, until }))
    }

    /// On disk when it returns.
    pub(crate) fn write(
        self,
        folder: &Path,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
    ) -> Result<(), QueueError> {
        let crypto = |_| QueueError::Stopped;
        let salt: [u8; SALT_BYTES] = random().map_err(crypto)?;
        let mut bytes = RENUMBERED_MAGIC.to_vec();
        bytes.extend_from_slice(&self.epoch.0);
        bytes.extend_from_slice(&self.from.to_be_bytes());
        bytes.extend_from_slice(&self.until.to_be_bytes());
        bytes.extend_from_slice(&salt);
        let tag = storage.derive(&salt, &[PURPOSE, id]).and_then(|key| key.tag(&bytes)).map_err(crypto)?;
        bytes.extend_from_slice(&tag);
        let path = path(folder);
        durable::write(&path, &bytes, 0o600).map_err(QueueError::io("write", &path))
    }

    pub(crate) fn names(&self, sequence: u64) -> bool {
        (self.from..self.until).contains(&sequence)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("renumbered")
}
