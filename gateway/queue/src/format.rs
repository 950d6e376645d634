//! Layout of the queue's files. All numbers are big-endian.
//!
//! A folder holds `queue` (the id), `cursor` (how far the fleet has it), `renumbered` (once the fleet knew other records
//! under our numbers), `lock`, and segments named after their first sequence number.
//!
//! ```text
//! queue    "EWQUEUE1" id[16] salt[32] tag[16]
//! cursor   slot slot
//! slot     "EWQCURS1" salt[32] through:u64 tag[16] zero[4032]        the highest `through` counts
//! renumbered "EWQEPOC1" epoch[16] from:u64 until:u64 salt[32] tag[16]
//! segment  "EWQSEGM1" epoch[16] first_sequence:u64 salt[32] tag[16]  frame*
//! frame    length:u32 count:u32 index:u64 first_sequence:u64 chain[16]  ciphertext[length] tag[16]
//! ```
//!
//! A frame's plaintext is `count` times `length:u32 body[length]`. Its nonce is `index`, its additional data the 40
//! bytes before the ciphertext; `chain` is the tag of the frame before it, or of the segment's header. A tag that
//! stands without ciphertext authenticates all bytes before it. One run of the process writes a segment: after a
//! restart or a failed write a new segment with a new salt begins, so that no nonce is used twice with a key.
//!
//! All keys are derived from the queue's id too, so that a file of another queue is none of this one. A record is named
//! by its segment's epoch and its number; from `from` up to, not including, `until` by the epoch of `renumbered`. Segments
//! of before there were epochs have the queue's id in that place, and that is their epoch.

use crate::keys::TAG_BYTES;

pub(crate) const QUEUE_MAGIC: &[u8; 8] = b"EWQUEUE1";
pub(crate) const CURSOR_MAGIC: &[u8; 8] = b"EWQCURS1";
pub(crate) const RENUMBERED_MAGIC: &[u8; 8] = b"EWQEPOC1";
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"EWQSEGM1";
/// A slot has blocks of its own, so that a write to one cannot spoil the other.
pub(crate) const CURSOR_SLOT_BYTES: usize = 4096;
pub(crate) const ID_BYTES: usize = 16;
pub(crate) const SALT_BYTES: usize = 32;

pub(crate) const SEGMENT_HEADER_BYTES: usize = 8 + ID_BYTES + 8 + SALT_BYTES + TAG_BYTES;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
/// A group commit takes records until it has this many bytes; one record may go beyond by its own size.
pub(crate) const GROUP_BYTES: usize = 1024 * 1024;
pub(crate) const FRAME_RECORDS_MAX: usize = 4096;
/// Largest plaintext of a frame.
pub(crate) const FRAME_BYTES_MAX: usize = GROUP_BYTES + crate::RECORD_BYTES_MAX + 4 * FRAME_RECORDS_MAX;

/// Header of a frame, 40 bytes on disk. `length` is that of the ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: u32,
    pub(crate) count: u32,
    pub(crate) index: u64,
    pub(crate) first_sequence: u64,
    pub(crate) chain: [u8; TAG_BYTES],
}

impl FrameHeader {
    pub(crate) fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let fields = self
            .length
            .to_be_bytes()
            .into_iter()
            .chain(self.count.to_be_bytes())
            .chain(self.index.to_be_bytes())
            .chain(self.first_sequence.to_be_bytes())
            .chain(self.chain);
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }

    /// `None` for what no writer writes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let header = Self {
            length: fields.u32()?,
            count: fields.u32()?,
            index: fields.u64()?,
            first_sequence: fields.u64()?,
            chain: fields.array()?,
        };
        let possible = usize::try_from(header.length).is_ok_and(|length| length <= FRAME_BYTES_MAX)
            && (1..=FRAME_RECORDS_MAX).contains(&usize::try_from(header.count).unwrap_or(usize::MAX))
            && header.first_sequence > 0
            && header.first_sequence.checked_add(header.count.into()).is_some();
        possible.then_some(header)
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_bytes(self) -> u64 {
        u64::from(self.length) + (FRAME_HEADER_BYTES + TAG_BYTES) as u64
    }

    pub(crate) fn last_sequence(self) -> u64 {
        self.first_sequence.saturating_add(self.count.into()).saturating_sub(1)
    }
}

/// Reads fixed fields off the front.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The records of a frame's plaintext; `None` when it is not `count` records exactly.
pub(crate) fn records(plaintext: &[u8], count: u32) -> Option<Vec<&[u8]>> {
    let mut fields = Fields(plaintext);
    let mut records = Vec::new();
    for _ in 0..count {
        let length = fields.u32()?;
        records.push(fields.bytes(usize::try_from(length).ok()?)?);
    }
    fields.0.is_empty().then_some(records)
}
