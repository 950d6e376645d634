//! One segment file: its header, its frames, and what a crash may have left at its end.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::epoch::Epoch;
use crate::error::QueueError;
use crate::format::{
    FRAME_HEADER_BYTES, FRAME_RECORDS_MAX, Fields, FrameHeader, ID_BYTES, SALT_BYTES, SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC, records,
};
use crate::keys::{FrameKey, StorageKey, TAG_BYTES, random};
use crate::shares::{Charges, SenderOf};

const PURPOSE: &[u8] = b"edgewarden queue segment v1";

/// A segment whose bytes have been checked up to `bytes`.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) key: FrameKey,
    pub(crate) epoch: Epoch,
    pub(crate) charges: Charges,
    pub(crate) first: u64,
    /// The next sequence number; equals `first` while the segment is empty.
    pub(crate) next: u64,
    pub(crate) bytes: u64,
    /// Index of the next frame, and what it is chained to.
    index: u64,
    chain: [u8; TAG_BYTES],
}

/// A place between two frames of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
}

/// The records of one frame.
pub(crate) struct Frame {
    /// Sequence number of the first.
    pub(crate) first: u64,
    pub(crate) bodies: Vec<Vec<u8>>,
    /// The place of the next frame.
    pub(crate) after: Place,
}

impl Place {
    pub(crate) const START: Self = Self { offset: SEGMENT_HEADER_BYTES as u64 };
}

/// `name` of a segment file.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

impl Segment {
    /// Makes an empty one. It is on disk, header and name, when this returns.
    pub(crate) fn create(
        folder: &Path,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
        epoch: Epoch,
        first: u64,
    ) -> Result<Self, QueueError> {
        let path = folder.join(format!("{first:020}.segment"));
        let salt: [u8; SALT_BYTES] = random().map_err(|_| QueueError::Stopped)?;
        let key = storage.derive(&salt, &[PURPOSE, id]).map_err(|_| QueueError::Stopped)?;
        let mut header = SEGMENT_MAGIC.to_vec();
        header.extend_from_slice(&epoch.0);
        header.extend_from_slice(&first.to_be_bytes());
        header.extend_from_slice(&salt);
        let chain = key.tag(&header).map_err(|_| QueueError::Stopped)?;
        header.extend_from_slice(&chain);
        edgewarden_platform::durable::write(&path, &header, 0o600)
            .map_err(QueueError::io("create", &path))?;
        let file = open_file(&path)?;
        Ok(Self {
            path,
            file,
            key,
            epoch,
            charges: Charges::default(),
            first,
            next: first,
            bytes: Place::START.offset,
            index: 0,
            chain,
        })
    }

    /// Opens one and checks every frame. `last`: an unfinished frame at the end is cut off, because a crash leaves one
    /// in the newest segment and nowhere else.
    pub(crate) fn open(
        path: &Path,
        storage: &StorageKey,
        id: &[u8; ID_BYTES],
        first: u64,
        last: bool,
        sender_of: SenderOf,
    ) -> Result<Self, QueueError> {
        let file = open_file(path)?;
        let length = file.metadata().map_err(QueueError::io("read", path))?.len();
        let damaged = |what| QueueError::damaged(path, 0, what);
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(|_| damaged("the header is cut off"))?;
        let (head, tag) =
            header.split_last_chunk::<TAG_BYTES>().ok_or_else(|| damaged("the header is cut off"))?;
        let mut fields = Fields(head);
        let magic = fields.array();
        let epoch = fields.array().map(Epoch).ok_or_else(|| damaged("the header is cut off"))?;
        let number = fields.u64();
        let salt: [u8; SALT_BYTES] = fields.array().ok_or_else(|| damaged("the header is cut off"))?;
        if magic.as_ref() != Some(SEGMENT_MAGIC) || number != Some(first) {
            return Err(damaged("the header is of another segment or version"));
        }
        let key = storage.derive(&salt, &[PURPOSE, id]).map_err(|_| QueueError::Stopped)?;
        if !key.check_tag(head, tag) {
            return Err(damaged("the header is not what was written"));
        }
        let bytes = Place::START.offset;
        let mut segment = Self {
            path: path.into(),
            file,
            key,
            epoch,
            charges: Charges::default(),
            first,
            next: first,
            bytes,
            index: 0,
            chain: *tag,
        };
        while segment.bytes < length {
            let Some((header, plaintext)) = segment.frame_at(segment.bytes, length)?.filter(|(header, _)| {
                (header.index, header.first_sequence, header.chain)
                    == (segment.index, segment.next, segment.chain)
            }) else {
                segment.cut_tail(length, last)?;
                break;
            };
            let tag_at = segment.bytes + header.frame_bytes() - TAG_BYTES as u64;
            segment.file.read_exact_at(&mut segment.chain, tag_at).map_err(QueueError::io("read", path))?;
            let bodies = records(&plaintext, header.count)
                .ok_or_else(|| QueueError::damaged(path, segment.bytes, "a frame is not what was written"))?;
            segment.charge(&bodies, sender_of);
            segment.passed(header);
        }
        Ok(segment)
    }

    fn charge(&mut self, bodies: &[&[u8]], sender_of: SenderOf) {
        for body in bodies {
            if let Some(sender) = sender_of(body) {
                self.charges.add(sender, record_bytes(body));
            }
        }
    }

    fn passed(&mut self, header: FrameHeader) {
        self.bytes += header.frame_bytes();
        self.next = header.last_sequence() + 1;
        self.index += 1;
    }

    /// The frame that begins at `offset`, if an authentic one does: its header and plaintext.
    fn frame_at(&self, offset: u64, length: u64) -> Result<Option<(FrameHeader, Vec<u8>)>, QueueError> {
        let mut head = [0; FRAME_HEADER_BYTES];
        if offset.saturating_add(FRAME_HEADER_BYTES as u64) > length {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, offset).map_err(QueueError::io("read", &self.path))?;
        let Some(header) = FrameHeader::parse(&head) else { return Ok(None) };
        if offset.saturating_add(header.frame_bytes()) > length {
            return Ok(None);
        }
        let Ok(size) = usize::try_from(header.length) else { return Ok(None) };
        let mut body = vec![0; size + TAG_BYTES];
        self.file
            .read_exact_at(&mut body, offset + FRAME_HEADER_BYTES as u64)
            .map_err(QueueError::io("read", &self.path))?;
        if self.key.open(header.index, &head, &mut body).is_err() {
            return Ok(None);
        }
        body.truncate(size);
        Ok(Some((header, body)))
    }

    /// The bytes from here to `length` are no valid next frame. Cuts them off if a crash explains them.
    fn cut_tail(&mut self, length: u64, last: bool) -> Result<(), QueueError> {
        let damaged = |what| QueueError::damaged(&self.path, self.bytes, what);
        if !last {
            return Err(damaged("a frame is not what was written"));
        }
        // Each frame is synced before the next is written, so a crash spoils only the last one. If any authentic
        // frame is found further on, something else has been at work.
        if self.later_frame_exists(length)? {
            return Err(damaged("a frame is missing, moved or changed"));
        }
        self.cut_to(self.bytes).map_err(QueueError::io("cut the unfinished end off", &self.path))
    }

    fn later_frame_exists(&self, length: u64) -> Result<bool, QueueError> {
        let size = usize::try_from(length.saturating_sub(self.bytes))
            .map_err(|_| QueueError::damaged(&self.path, self.bytes, "its end is longer than memory"))?;
        let mut tail = vec![0; size];
        self.file.read_exact_at(&mut tail, self.bytes).map_err(QueueError::io("read", &self.path))?;
        let farthest = self.next.saturating_add(size as u64);
        for (distance, window) in tail.windows(FRAME_HEADER_BYTES).enumerate() {
            // The cheap test comes first: the cipher is asked only where a header could be.
            let likely = FrameHeader::parse(window).is_some_and(|header| {
                header.index > self.index
                    && header.first_sequence > self.next
                    && header.first_sequence <= farthest
            });
            if likely && self.frame_at(self.bytes + distance as u64, length)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn cut_to(&self, bytes: u64) -> std::io::Result<()> {
        self.file.set_len(bytes)?;
        self.file.sync_all()
    }

    /// Writes the records as one frame and waits for the disk. After an error the file is as it was, but the segment
    /// must not be appended to again: bytes under this nonce may have reached the disk.
    pub(crate) fn append(&mut self, bodies: &[&[u8]], sender_of: SenderOf) -> Result<(), AppendError> {
        let path = self.path.clone();
        let stopped = || AppendError::Undone(QueueError::Stopped);
        let mut plaintext = Vec::new();
        for body in bodies {
            let length = u32::try_from(body.len()).map_err(|_| stopped())?;
            plaintext.extend_from_slice(&length.to_be_bytes());
            plaintext.extend_from_slice(body);
        }
        let header = FrameHeader {
            length: u32::try_from(plaintext.len()).map_err(|_| stopped())?,
            count: u32::try_from(bodies.len()).map_err(|_| stopped())?,
            index: self.index,
            first_sequence: self.next,
            chain: self.chain,
        };
        let head = header.to_bytes();
        let tag = self.key.seal(self.index, &head, &mut plaintext).map_err(|_| stopped())?;
        let mut frame = head.to_vec();
        frame.append(&mut plaintext);
        frame.extend_from_slice(&tag);
        let written = self.file.write_all_at(&frame, self.bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let undone = self.cut_to(self.bytes);
            let error = QueueError::io("append to", &path)(error);
            return Err(if undone.is_ok() { AppendError::Undone(error) } else { AppendError::Stuck(error) });
        }
        self.chain = tag;
        self.charge(bodies, sender_of);
        self.passed(header);
        Ok(())
    }

    /// The frame at `place`; `None` at the end.
    pub(crate) fn read(&self, place: Place) -> Result<Option<Frame>, QueueError> {
        if place.offset >= self.bytes {
            return Ok(None);
        }
        let damaged = || QueueError::damaged(&self.path, place.offset, "a frame is not what was written");
        let (header, plaintext) = self.frame_at(place.offset, self.bytes)?.ok_or_else(damaged)?;
        let bodies = records(&plaintext, header.count).ok_or_else(damaged)?;
        let bodies = bodies.into_iter().map(<[u8]>::to_vec).collect();
        let after = Place { offset: place.offset + header.frame_bytes() };
        Ok(Some(Frame { first: header.first_sequence, bodies, after }))
    }

    /// The place after all frames that end at or before `through`.
    pub(crate) fn skip(&self, mut place: Place, through: u64) -> Result<Place, QueueError> {
        while place.offset < self.bytes {
            let mut head = [0; FRAME_HEADER_BYTES];
            self.file.read_exact_at(&mut head, place.offset).map_err(QueueError::io("read", &self.path))?;
            let header = FrameHeader::parse(&head).ok_or_else(|| {
                QueueError::damaged(&self.path, place.offset, "a frame is not what was written")
            })?;
            if header.last_sequence() > through {
                break;
            }
            place.offset += header.frame_bytes();
        }
        Ok(place)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next == self.first
    }
}

/// A failed append, by the state that it left the file in.
pub(crate) enum AppendError {
    /// The file is as it was.
    Undone(QueueError),
    /// It could not be put back.
    Stuck(QueueError),
}

fn open_file(path: &Path) -> Result<File, QueueError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(QueueError::io("open", path))
}

/// Bytes of a record in its frame.
pub(crate) fn record_bytes(body: &[u8]) -> u64 {
    (body.len() as u64).saturating_add(4)
}

/// Bytes that `records` records with `bytes` bytes together take in one frame.
pub(crate) fn frame_bytes(records: usize, bytes: usize) -> u64 {
    debug_assert!(records <= FRAME_RECORDS_MAX);
    (FRAME_HEADER_BYTES + TAG_BYTES + 4 * records + bytes) as u64
}
