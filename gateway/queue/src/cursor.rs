//! The highest sequence number that the fleet has acknowledged, on disk.
//!
//! Two slots that are overwritten in turn, in place: a write that a crash cuts short leaves the other slot, and a full
//! disk keeps nobody from acknowledging, which is what makes room again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use edgewarden_platform::durable;

use crate::error::QueueError;
use crate::format::{CURSOR_MAGIC, CURSOR_SLOT_BYTES, Fields, ID_BYTES, SALT_BYTES};
use crate::keys::{StorageKey, TAG_BYTES, random};

const PURPOSE: &[u8] = b"edgewarden queue cursor v1";
const USED_BYTES: usize = 8 + SALT_BYTES + 8 + TAG_BYTES;

/// The acknowledged sequence number, with its file open for writing.
#[derive(Debug)]
pub(crate) struct Cursor {
    path: PathBuf,
    file: File,
    through: u64,
    /// The slot that holds `through`; the other one is written next.
    newest: u64,
}

impl Cursor {
    /// `is_new`: the queue holds nothing, so the cursor may be missing.
    pub(crate) fn open(
        folder: &Path,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
        is_new: bool,
    ) -> Result<Self, QueueError> {
        let path = folder.join("cursor");
        if is_new && !path.exists() {
            let both = [slot(storage, id, 0)?, slot(storage, id, 0)?].concat();
            durable::write(&path, &both, 0o600).map_err(QueueError::io("create", &path))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(QueueError::io("open", &path))?;
        let mut best = None;
        for index in 0..2 {
            let mut bytes = [0; USED_BYTES];
            let found = match file.read_exact_at(&mut bytes, index * CURSOR_SLOT_BYTES as u64) {
                Ok(()) => read_slot(storage, id, &bytes)?,
                Err(_) => None,
            };
            if let Some(through) = found
                && best.is_none_or(|(_, other)| through > other)
            {
                best = Some((index, through));
            }
        }
        let (newest, through) =
            best.ok_or_else(|| QueueError::damaged(&path, 0, "neither slot is what was written"))?;
        Ok(Self { path, file, through, newest })
    }

    pub(crate) fn through(&self) -> u64 {
        self.through
    }

    /// Sets the number up to which the fleet has everything. On disk when it returns.
    pub(crate) fn advance(
        &mut self,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
        through: u64,
    ) -> Result<(), QueueError> {
        let other = 1 - self.newest.min(1);
        let bytes = slot(storage, id, through)?;
        let written = self.file.write_all_at(&bytes, other * CURSOR_SLOT_BYTES as u64);
        written.and_then(|()| self.file.sync_data()).map_err(QueueError::io("write", &self.path))?;
        self.newest = other;
        self.through = through;
        Ok(())
    }
}

fn slot(storage: &StorageKey, id: &[u8; ID_BYTES], through: u64) -> Result<Vec<u8>, QueueError> {
    let crypto = |_| QueueError::Stopped;
    // A new salt, so a new key, for each: the tag's nonce is the same each time.
    let salt: [u8; SALT_BYTES] = random().map_err(crypto)?;
    let mut bytes = CURSOR_MAGIC.to_vec();
    bytes.extend_from_slice(&salt);
    bytes.extend_from_slice(&through.to_be_bytes());
    let tag = storage.derive(&salt, &[PURPOSE, id]).and_then(|key| key.tag(&bytes)).map_err(crypto)?;
    bytes.extend_from_slice(&tag);
    bytes.resize(CURSOR_SLOT_BYTES, 0);
    Ok(bytes)
}

/// `None` for a slot that was not written to its end.
fn read_slot(
    storage: &StorageKey,
    id: &[u8; ID_BYTES],
    bytes: &[u8; USED_BYTES],
) -> Result<Option<u64>, QueueError> {
    let Some((head, tag)) = bytes.split_last_chunk::<TAG_BYTES>() else { return Ok(None) };
    let mut fields = Fields(head);
    let (magic, salt, through) = (fields.array(), fields.array::<SALT_BYTES>(), fields.u64());
    let (Some(salt), Some(through)) = (salt, through) else { return Ok(None) };
    let key = storage.derive(&salt, &[PURPOSE, id]).map_err(|_| QueueError::Stopped)?;
    Ok((magic.as_ref() == Some(CURSOR_MAGIC) && key.check_tag(head, tag)).then_some(through))
}
