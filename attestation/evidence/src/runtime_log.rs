//! The runtime log: what `identityd` did since the boot (module starts and stops, policy epochs, verdicts, signed heads
//! of its audit log), each extended into a PCR, and its replay to a quoted value of that PCR.
//!
//! Lines of text. Each line is extended as its SHA-256. A section begins with a `start` line, which says what the PCR's
//! value was (nobody can know what others measured there) and commits to the end of the section before. So one quoted
//! value proves every line that is still there: none was changed, left out, added or moved. What rotation removed at
//! the front shows by the first line's number.
//!
//! As with the boot log: a claim until its replay meets a quoted PCR. What an event *means* is in the audit log, at the
//! entry whose number and hash it names. A PCR may be extended by anybody on the machine, so a log that replays proves
//! that nothing was taken back, not that root did nothing.

use std::fmt::Write as _;

use crate::{HashAlg, ParseError};

/// Largest log that is parsed.
pub const LOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest line, with its line break.
pub const LINE_BYTES_MAX: usize = 4 * 1024;
/// Most lines in a log.
pub const ENTRIES_MAX: usize = 128 * 1024;
const KIND_BYTES_MAX: usize = 64;
const SUBJECT_BYTES_MAX: usize = 2048;

/// Reason that a section begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The first of a boot: the TPM was reset, or the log is new.
    Boot,
    /// The file before was full. The PCR's value is where the section before ended.
    Rotated,
    /// The PCR was not where the log says, within one boot: others extended it, or the log was tampered with.
    Unexplained,
}

impl Why {
    const ALL: [Self; 3] = [Self::Boot, Self::Rotated, Self::Unexplained];

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Rotated => "rotated",
            Self::Unexplained => "unexplained",
        }
    }
}

/// The first line of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub why: Why,
    pub pcr: u8,
    /// The PCR before this line was extended.
    pub value: [u8; 32],
    /// The PCR's value after the section before, by its own lines; zeros when there is none.
    pub previous: [u8; 32],
    /// The TPM's counters (TPMS_CLOCK_INFO), which tell one boot from another.
    pub resets: u32,
    pub restarts: u32,
}

/// Something that happened, by its entry in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub audit_sequence: u64,
    pub audit_hash: [u8; 32],
    /// Such as `module.started`.
    pub kind: String,
    pub subject: String,
}

/// Contents of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Start(Start),
    Event(Event),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub sequence: u64,
    pub record: Record,
    /// The digest that is extended: SHA-256 of the line without its line break.
    pub digest: [u8; 32],
}

impl Entry {
    /// `None` when the record does not fit in a line.
    pub fn new(sequence: u64, record: Record) -> Option<Self> {
        let mut entry = Self { sequence, record, digest: [0; 32] };
        let line = entry.line();
        entry.digest = hash(&[line.strip_suffix('\n')?.as_bytes()]);
        (parse_line(&line).as_ref() == Some(&entry)).then_some(entry)
    }

    /// The line, with its line break.
    pub fn line(&self) -> String {
        let sequence = self.sequence;
        match &self.record {
            Record::Start(Start { why, pcr, value, previous, resets, restarts }) => format!(
                "{sequence} start why={} pcr={pcr} value={} previous={} resets={resets} restarts={restarts}\n",
                why.name(),
                hex(value),
                hex(previous)
            ),
            Record::Event(Event { audit_sequence, audit_hash, kind, subject }) => format!(
                "{sequence} event kind={kind} audit={audit_sequence} hash={} subject={subject}\n",
                hex(audit_hash)
            ),
        }
    }
}

/// A log that was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLog {
    entries: Vec<Entry>,
    /// The PCR's value after each entry, as the log has it.
    values: Vec<[u8; 32]>,
}

/// Counts of a log that leads to a quoted value, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Lines, all of them proven.
    pub entries: usize,
    /// Number of the first line: above 1 when older ones were rotated away.
    pub first: u64,
    /// Sections that begin with [`Why::Unexplained`].
    pub unexplained: usize,
    /// Boots that the log knows.
    pub boots: usize,
}

/// Error of a log that a quoted value does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the runtime log is of PCR {found}, not of PCR {wanted}")]
    Pcr { wanted: u8, found: u8 },
    #[error("the runtime log does not lead to the quoted value: it was changed, or is not complete")]
    NotQuoted,
}

impl RuntimeLog {
    /// Parses a log, oldest line first. Sections must follow one another.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(ParseError::TooLarge { what: "runtime log", max: LOG_BYTES_MAX, unit: "bytes" });
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| ParseError::Malformed("the runtime log is no text"))?;
        let mut log = Self { entries: Vec::new(), values: Vec::new() };
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let wrong = |what| ParseError::Line { line: index.saturating_add(1), what };
            if index == ENTRIES_MAX {
                return Err(ParseError::TooLarge { what: "runtime log", max: ENTRIES_MAX, unit: "lines" });
            }
            let entry = parse_line(line).ok_or_else(|| wrong("it is not a line of a runtime log"))?;
            log.follow(entry).map_err(wrong)?;
        }
        Ok(log)
    }

    fn follow(&mut self, entry: Entry) -> Result<(), &'static str> {
        let before = self.entries.last().map(|entry| entry.sequence).zip(self.end());
        if before.is_some_and(|(sequence, _)| sequence.checked_add(1) != Some(entry.sequence)) {
            return Err("its number does not follow the line before");
        }
        if entry.sequence == 0 {
            return Err("lines are numbered from 1");
        }
        let value = match (&entry.record, before) {
            (Record::Event(_), None) => return Err("the log does not begin with a start"),
            (Record::Event(_), Some((_, value))) => value,
            (Record::Start(start), before) => {
                if before.is_some_and(|(_, end)| start.previous != end) {
                    return Err("it does not commit to the section before");
                }
                if before.is_none() && entry.sequence == 1 && start.previous != [0; 32] {
                    return Err("it commits to a section before the first");
                }
                if start.why == Why::Rotated && start.value != start.previous {
                    return Err("a rotated log begins at another value than it ended at");
                }
                start.value
            }
        };
        self.values.push(extend(&value, &entry.digest));
        self.entries.push(entry);
        Ok(())
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The PCR's value when all is extended; `None` for an empty log.
    pub fn end(&self) -> Option<[u8; 32]> {
        self.values.last().copied()
    }

    /// The digests that are still to be extended when the PCR has this value. `None` when no prefix of what the log
    /// says about this boot leads there.
    pub fn missing(&self, value: &[u8; 32]) -> Option<Vec<[u8; 32]>> {
        let mut missing = Vec::new();
        for (entry, after) in self.entries.iter().zip(&self.values).rev() {
            if after == value {
                missing.reverse();
                return Some(missing);
            }
            missing.push(entry.digest);
            if let Record::Start(start) = &entry.record {
                if start.value == *value {
                    missing.reverse();
                    return Some(missing);
                }
                if start.why != Why::Rotated {
                    return None;
                }
            }
        }
        None
    }

    /// The start of the newest section.
    pub fn newest_start(&self) -> Option<&Start> {
        self.entries.iter().rev().find_map(|entry| match &entry.record {
            Record::Start(start) => Some(start),
            Record::Event(_) => None,
        })
    }

    /// The PCR's value before the newest sections that hang together, as the log has it.
    pub fn begun_at(&self) -> Option<[u8; 32]> {
        self.entries.iter().rev().find_map(|entry| match &entry.record {
            Record::Start(start) if start.why != Why::Rotated => Some(start.value),
            _ => None,
        })
    }

    /// Checks the whole log against a quoted value of its PCR.
    pub fn replay(&self, pcr: u8, quoted: &[u8]) -> Result<Replayed, ReplayError> {
        let (mut unexplained, mut boots) = (0_usize, 0_usize);
        for entry in &self.entries {
            let Record::Start(start) = &entry.record else { continue };
            if start.pcr != pcr {
                return Err(ReplayError::Pcr { wanted: pcr, found: start.pcr });
            }
            unexplained += usize::from(start.why == Why::Unexplained);
            boots += usize::from(start.why == Why::Boot);
        }
        match self.entries.first() {
            Some(first) if self.end().is_some_and(|end| end == quoted) => {
                Ok(Replayed { entries: self.entries.len(), first: first.sequence, unexplained, boots })
            }
            _ => Err(ReplayError::NotQuoted),
        }
    }
}

/// Value of a PCR after an extend (TPM 2.0 Library Part 1, section 17.2).
pub fn extend(value: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    hash(&[value, digest])
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(HashAlg::Sha256.digest(parts)) {
        *to = from;
    }
    hash
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// One line with its line break, written exactly as [`Entry::line`] writes it.
fn parse_line(line: &str) -> Option<Entry> {
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    let text = line.strip_suffix('\n')?;
    let (sequence, rest) = text.split_once(' ')?;
    let record = if let Some(rest) = rest.strip_prefix("start ") {
        let mut fields = rest.split(' ');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let why = field("why")?;
        let start = Start {
            why: Why::ALL.into_iter().find(|known| known.name() == why)?,
            pcr: field("pcr")?.parse().ok()?,
            value: unhex(field("value")?)?,
            previous: unhex(field("previous")?)?,
            resets: field("resets")?.parse().ok()?,
            restarts: field("restarts")?.parse().ok()?,
        };
        Record::Start(start)
    } else {
        // The subject is last and may have blanks.
        let mut fields = rest.strip_prefix("event ")?.splitn(4, ' ');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let event = Event {
            kind: field("kind")?.to_owned(),
            audit_sequence: field("audit")?.parse().ok()?,
            audit_hash: unhex(field("hash")?)?,
            subject: field("subject")?.to_owned(),
        };
        let harmless = !event.subject.contains(char::is_control) && event.subject.len() <= SUBJECT_BYTES_MAX;
        let is_kind = |byte: u8| byte.is_ascii_lowercase() || byte == b'.' || byte == b'_';
        if !harmless || event.kind.len() > KIND_BYTES_MAX || !event.kind.bytes().all(is_kind) {
            return None;
        }
        Record::Event(event)
    };
    let entry = Entry { sequence: sequence.parse().ok()?, record, digest: hash(&[text.as_bytes()]) };
    (entry.line() == line).then_some(entry)
}
