//! The queue without threads: segments in order, and the cursor.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use edgewarden_platform::durable;
use zeroize::Zeroizing;

use crate::cursor::Cursor;
use crate::epoch::{Epoch, Renumbered};
use crate::error::QueueError;
use crate::format::{Fields, ID_BYTES, QUEUE_MAGIC, SALT_BYTES};
use crate::keys::{StorageKey, TAG_BYTES, random};
use crate::segment::{AppendError, Frame, Place, Segment, first_of, frame_bytes, record_bytes};
use crate::shares::{Charges, SenderOf, admit};
use crate::{RECORD_BYTES_MAX, Record};

const CHECK_PURPOSE: &[u8] = b"edgewarden queue id v1";
/// Many small files after many restarts are still bounded.
const SEGMENTS_MAX: usize = 65_536;

/// The segments of a queue, in order, and what is known of them.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    storage: StorageKey,
    pub(crate) id: [u8; ID_BYTES],
    /// Epoch of what is appended.
    epoch: Epoch,
    renumbered: Option<Renumbered>,
    sender_of: SenderOf,
    /// Of all segments together.
    charges: Charges,
    bytes_max: u64,
    segment_bytes: u64,
    /// Oldest first, without a gap between them.
    segments: VecDeque<Segment>,
    /// The newest segment was made by this run and every write to it succeeded.
    appendable: bool,
    /// A failed write could not be undone.
    stuck: bool,
    cursor: Cursor,
    /// In the first segment.
    place: Place,
    _lock: File,
}

impl Log {
    pub(crate) fn open(
        folder: &Path,
        key: Zeroizing<[u8; 32]>,
        bytes_max: u64,
        sender_of: SenderOf,
    ) -> Result<Self, QueueError> {
        let storage = StorageKey(key);
        std::fs::create_dir_all(folder).map_err(QueueError::io("create", folder))?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).map_err(QueueError::io("create", &lock_path))?;
        lock.try_lock().map_err(|_| QueueError::InUse(folder.into()))?;
        durable::sweep(folder).map_err(QueueError::io("clean", folder))?;
        let firsts = segment_names(folder)?;
        let id = open_id(folder, &storage, firsts.is_empty())?;
        let cursor = Cursor::open(folder, &storage, &id, firsts.is_empty())?;
        let renumbered = Renumbered::read(folder, &storage, &id)?;
        let mut log = Self {
            folder: folder.into(),
            storage,
            id,
            epoch: Epoch::random()?,
            renumbered,
            sender_of,
            charges: Charges::default(),
            bytes_max,
            segment_bytes: (bytes_max / 16).clamp(4096, 4 * 1024 * 1024),
            segments: VecDeque::new(),
            appendable: false,
            stuck: false,
            cursor,
            place: Place::START,
            _lock: lock,
        };
        log.open_segments(&firsts)?;
        log.drop_consumed()?;
        Ok(log)
    }

    fn open_segments(&mut self, firsts: &[u64]) -> Result<(), QueueError> {
        for (index, first) in firsts.iter().enumerate() {
            let path = self.folder.join(format!("{first:020}.segment"));
            let last = index + 1 == firsts.len();
            let segment = Segment::open(&path, &self.storage, &self.id, *first, last, self.sender_of)?;
            // The segments before the first are those that the cursor says are consumed.
            let contiguous = match self.segments.back() {
                Some(before) => before.next == *first,
                None => *first <= self.acknowledged().saturating_add(1),
            };
            if !contiguous {
                return Err(QueueError::damaged(
                    &path,
                    0,
                    "the segment before this one is missing or cut off",
                ));
            }
            self.charges.add_all(&segment.charges);
            self.segments.push_back(segment);
        }
        Ok(())
    }

    /// The fleet knows other records under the numbers of ours: what it has not acknowledged, and what is appended from
    /// here on, is of a new epoch. On disk when it returns.
    pub(crate) fn begin_epoch(&mut self) -> Result<Epoch, QueueError> {
        let epoch = Epoch::random()?;
        let from = self.acknowledged().saturating_add(1);
        let renumbered = Renumbered { epoch, from, until: self.next_sequence() };
        renumbered.write(&self.folder, &self.storage, &self.id)?;
        self.renumbered = Some(renumbered);
        self.epoch = epoch;
        // The next record begins a segment, which carries the epoch.
        self.appendable = false;
        Ok(epoch)
    }

    /// The number that the next record gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.next).max(self.acknowledged().saturating_add(1))
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.cursor.through()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Appends what fits as one group commit. The results are in the order of `bodies`; a body that does not fit does
    /// not keep a smaller one behind it out.
    pub(crate) fn append(&mut self, bodies: &[Vec<u8>]) -> Vec<Result<u64, QueueError>> {
        if self.stuck {
            return bodies.iter().map(|_| Err(QueueError::Stopped)).collect();
        }
        if let Err(error) = self.make_appendable() {
            return bodies.iter().map(|_| Err(error.clone())).collect();
        }
        let mut results = Vec::new();
        let mut admitted: Vec<&[u8]> = Vec::new();
        let mut admitted_bytes = 0;
        let used = self.bytes();
        let mut sequence = self.next_sequence();
        let mut group = Charges::default();
        for body in bodies {
            let frame = frame_bytes(admitted.len() + 1, admitted_bytes + body.len());
            if body.len() > RECORD_BYTES_MAX {
                results.push(Err(QueueError::TooLarge(body.len())));
            } else if used.saturating_add(frame) > self.bytes_max {
                results.push(Err(QueueError::Full { bytes_max: self.bytes_max }));
            } else if let Err(error) = self.admit_share(&mut group, body, used.saturating_add(frame)) {
                results.push(Err(error));
            } else {
                admitted.push(body);
                admitted_bytes += body.len();
                results.push(Ok(sequence));
                sequence += 1;
            }
        }
        let Some(segment) = self.segments.back_mut().filter(|_| !admitted.is_empty()) else { return results };
        if let Err(failure) = segment.append(&admitted, self.sender_of) {
            self.appendable = false;
            let error = match failure {
                AppendError::Undone(error) => error,
                AppendError::Stuck(error) => {
                    self.stuck = true;
                    error
                }
            };
            return bodies.iter().map(|_| Err(error.clone())).collect();
        }
        self.charges.add_all(&group);
        results
    }

    /// Charges the sender within `group`, if it may hold what it then holds.
    fn admit_share(&self, group: &mut Charges, body: &[u8], used: u64) -> Result<(), QueueError> {
        let Some(sender) = (self.sender_of)(body) else { return Ok(()) };
        let bytes = record_bytes(body);
        let held = self.charges.of(sender).saturating_add(group.of(sender)).saturating_add(bytes);
        admit(held, self.bytes_max.saturating_sub(used), self.bytes_max)?;
        group.add(sender, bytes);
        Ok(())
    }

    /// Begins a new segment where the newest may not grow.
    fn make_appendable(&mut self) -> Result<(), QueueError> {
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= self.segment_bytes);
        if self.appendable && !full {
            return Ok(());
        }
        let consumed = self.next_sequence().saturating_sub(1) <= self.acknowledged();
        if (self.bytes() >= self.bytes_max && !consumed) || self.segments.len() >= SEGMENTS_MAX {
            return Err(QueueError::Full { bytes_max: self.bytes_max });
        }
        let next = self.next_sequence();
        // An empty segment of an earlier run or of a failed write would have the same name.
        if let Some(empty) = self.segments.pop_back_if(|segment| segment.is_empty()) {
            durable::remove(&empty.path).map_err(QueueError::io("remove", &empty.path))?;
        }
        self.appendable = false;
        let segment = Segment::create(&self.folder, &self.storage, &self.id, self.epoch, next)?;
        if self.segments.is_empty() {
            self.place = Place::START;
        }
        self.segments.push_back(segment);
        self.appendable = true;
        self.drop_consumed()
    }

    /// The oldest records that are not acknowledged.
    pub(crate) fn read(&self, records_max: usize, bytes_max: usize) -> Result<Vec<Record>, QueueError> {
        let mut found: Vec<Record> = Vec::new();
        let mut bytes = 0usize;
        let mut place = self.place;
        for segment in &self.segments {
            while let Some(Frame { first, bodies, after }) = segment.read(place)? {
                for (sequence, body) in (first..).zip(bodies) {
                    if sequence <= self.acknowledged() {
                        continue;
                    }
                    bytes = bytes.saturating_add(body.len());
                    // One record always comes, however large.
                    if found.len() >= records_max || (bytes > bytes_max && !found.is_empty()) {
                        return Ok(found);
                    }
                    let renumbered = self.renumbered.filter(|renumbered| renumbered.names(sequence));
                    let epoch = renumbered.map_or(segment.epoch, |renumbered| renumbered.epoch);
                    found.push(Record { epoch, sequence, body });
                }
                place = after;
            }
            place = Place::START;
        }
        Ok(found)
    }

    /// The fleet has everything up to `through`: it is never given out again.
    pub(crate) fn acknowledge(&mut self, through: u64) -> Result<(), QueueError> {
        if through >= self.next_sequence() {
            return Err(QueueError::NoSuchRecord(through));
        }
        if through <= self.acknowledged() {
            return Ok(());
        }
        self.cursor.advance(&self.storage, &self.id, through)?;
        self.drop_consumed()
    }

    /// Removes segments that the cursor has passed, and moves `place` behind what it has passed in the first.
    fn drop_consumed(&mut self) -> Result<(), QueueError> {
        loop {
            let newest = self.segments.len() == 1;
            let keep = newest && self.appendable;
            let Some(first) = self.segments.front() else { return Ok(()) };
            if first.next.saturating_sub(1) > self.acknowledged() || keep {
                self.place = first.skip(self.place, self.acknowledged())?;
                return Ok(());
            }
            // Losing the removal to a crash is no harm: the cursor is on disk, the next start removes it again.
            let path = first.path.clone();
            std::fs::remove_file(&path).map_err(QueueError::io("remove", &path))?;
            if let Some(gone) = self.segments.pop_front() {
                self.charges.remove_all(&gone.charges);
            }
            self.place = Place::START;
        }
    }
}

fn segment_names(folder: &Path) -> Result<Vec<u64>, QueueError> {
    let mut firsts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(QueueError::io("list", folder))? {
        let entry = entry.map_err(QueueError::io("list", folder))?;
        if let Some(first) = entry.file_name().to_str().and_then(first_of) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// The queue's id; a new one for a new folder. Tells a wrong key from damage.
fn open_id(folder: &Path, storage: &StorageKey, is_new: bool) -> Result<[u8; ID_BYTES], QueueError> {
    let path = folder.join("queue");
    let damaged = |what| QueueError::damaged(&path, 0, what);
    let crypto = |_| QueueError::Stopped;
    let Some(bytes) = durable::read(&path, 1024).map_err(QueueError::io("read", &path))? else {
        if !is_new {
            return Err(damaged("it is missing, and there are segments"));
        }
        let id: [u8; ID_BYTES] = random().map_err(crypto)?;
        let salt: [u8; SALT_BYTES] = random().map_err(crypto)?;
        let mut bytes = QUEUE_MAGIC.to_vec();
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&salt);
        let tag = storage.derive(&salt, &[CHECK_PURPOSE]).and_then(|key| key.tag(&bytes)).map_err(crypto)?;
        bytes.extend_from_slice(&tag);
        durable::write(&path, &bytes, 0o600).map_err(QueueError::io("create", &path))?;
        return Ok(id);
    };
    let (head, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or_else(|| damaged("it is cut off"))?;
    let mut fields = Fields(head);
    let (magic, id, salt) = (fields.array(), fields.array(), fields.array::<SALT_BYTES>());
    let (Some(id), Some(salt)) = (id, salt) else { return Err(damaged("it is cut off")) };
    if magic.as_ref() != Some(QUEUE_MAGIC) || !fields.0.is_empty() {
        return Err(damaged("it is not of this version"));
    }
    let key = storage.derive(&salt, &[CHECK_PURPOSE]).map_err(crypto)?;
    if key.check_tag(head, tag) { Ok(id) } else { Err(QueueError::WrongKey(folder.into())) }
}
