//! Writes lines, then extends them.
//!
//! A line is on the disk before the PCR is extended by it, so after a crash the PCR's value says how far it came: what
//! is written and not extended is extended then. Two values of one boot are never the same, so nothing is extended twice.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use edgewarden_evidence::runtime_log::{Entry, Event, Record, RuntimeLog, Start, Why, extend};
use edgewarden_evidence::tpm::Attest;
use edgewarden_keystore::{Keystore, KeystoreError};

use super::files::Files;
use crate::refuse::random;

/// Lines that wait for the TPM. While it is away no more are taken from the audit log, which keeps them.
const PENDING_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(
        "cannot use the runtime log in `{folder}`; if it was changed, keep it as evidence and move it away"
    )]
    Files { folder: String, source: std::io::Error },
    #[error("the keystore does not extend or quote the PCR")]
    Keystore(#[from] KeystoreError),
    #[error("the TPM's quote cannot be read")]
    Quote,
    #[error("an event does not fit in a line")]
    Event,
    #[error("an entry of the audit log has no SHA-256")]
    Hash,
    #[error("the PCR is not where it was led")]
    Moved,
    #[error("identityd is stopping")]
    Closed,
}

/// Lets nothing more be written once it is closed. Held for as long as a write takes, never for a TPM.
#[derive(Default)]
pub(super) struct Door(Mutex<bool>);

impl Door {
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn pass(&self) -> Result<MutexGuard<'_, bool>, LogError> {
        let closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed { Err(LogError::Closed) } else { Ok(closed) }
    }
}

/// The log, open. One writer.
pub(super) struct Writer {
    folder: String,
    files: Files,
    pcr: u8,
    resets: u32,
    restarts: u32,
    /// Of the last line.
    sequence: u64,
    /// The PCR's value now, by what was extended.
    value: [u8; 32],
    /// And when all that is written is extended.
    end: [u8; 32],
    pending: VecDeque<[u8; 32]>,
    /// The newest entry of the audit log that has a line, 0 if none has.
    pub(super) covered: u64,
}

impl Writer {
    /// Opens the log and compares it with the PCR. True when within this boot the PCR is not where the log says.
    pub(super) fn open(
        folder: &Path,
        pcr: u8,
        keystore: &dyn Keystore,
        door: &Door,
    ) -> Result<(Self, bool), LogError> {
        // By the attestation key's signature, not by the word of the bus.
        let nonce = random().map_err(|_| LogError::Quote)?;
        let quote = keystore.quote(&nonce, &[pcr])?;
        let clock = Attest::parse(&quote.message).map_err(|_| LogError::Quote)?.clock;
        let Some((_, value)) = quote.pcrs.first().copied() else { return Err(LogError::Quote) };
        let name = folder.display().to_string();
        let passing = door.pass()?;
        let (files, log) =
            Files::open(folder).map_err(|source| LogError::Files { folder: name.clone(), source })?;
        drop(passing);
        let same_reset = log.newest_start().is_some_and(|start| start.resets == clock.reset_count);
        let same_boot =
            same_reset && log.newest_start().is_some_and(|start| start.restarts == clock.restart_count);
        // A TPM that was reset begins at the value that it began at before, and nothing of this boot is extended yet.
        // One that slept keeps its values and counts a restart (TPM 2.0 Library Part 1, section 12.2.3).
        let slept = same_reset && log.begun_at() != Some(value);
        let missing = log.missing(&value).filter(|_| same_boot || slept);
        let end = log.end().unwrap_or_default();
        let mut writer = Self {
            folder: name,
            files,
            pcr,
            resets: clock.reset_count,
            restarts: clock.restart_count,
            sequence: log.entries().last().map_or(0, |entry| entry.sequence),
            value,
            end,
            pending: missing.clone().unwrap_or_default().into(),
            covered: covered(&log),
        };
        if missing.is_some() {
            return Ok((writer, false));
        }
        let why = if same_boot { Why::Unexplained } else { Why::Boot };
        writer.start(why, value, door)?;
        Ok((writer, same_boot))
    }

    fn start(&mut self, why: Why, value: [u8; 32], door: &Door) -> Result<(), LogError> {
        let previous = if self.sequence == 0 { [0; 32] } else { self.end };
        let (resets, restarts) = (self.resets, self.restarts);
        let start = Start { why, pcr: self.pcr, value, previous, resets, restarts };
        self.write(Some(value), vec![Record::Start(start)], door)
    }

    /// Puts records on the disk, all in one write, to be extended later. `from` is where the PCR is led from, if not
    /// from the end of the log.
    fn write(&mut self, from: Option<[u8; 32]>, records: Vec<Record>, door: &Door) -> Result<(), LogError> {
        let (mut sequence, mut end) = (self.sequence, from.unwrap_or(self.end));
        let (mut text, mut digests) = (String::new(), Vec::new());
        for record in records {
            sequence = sequence.saturating_add(1);
            let entry = Entry::new(sequence, record).ok_or(LogError::Event)?;
            text.push_str(&entry.line());
            end = extend(&end, &entry.digest);
            digests.push(entry.digest);
        }
        let passing = door.pass()?;
        let failed = |source| LogError::Files { folder: self.folder.clone(), source };
        self.files.append(&text).map_err(failed)?;
        drop(passing);
        (self.sequence, self.end) = (sequence, end);
        self.pending.extend(digests);
        Ok(())
    }

    /// Number of events that are taken now.
    pub(super) fn room(&self) -> usize {
        PENDING_MAX.saturating_sub(self.pending.len())
    }

    pub(super) fn lines(&self) -> u64 {
        self.sequence
    }

    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Puts events on the disk. `covered` is the newest entry of the audit log that was looked at.
    pub(super) fn add(&mut self, events: Vec<Event>, covered: u64, door: &Door) -> Result<(), LogError> {
        if !events.is_empty() {
            if self.files.is_full() {
                let passing = door.pass()?;
                let failed = |source| LogError::Files { folder: self.folder.clone(), source };
                self.files.rotate(self.sequence.saturating_add(1)).map_err(failed)?;
                drop(passing);
            }
            // Each file begins with a start, so that what is left is a log when the files before it are gone.
            if self.files.is_empty() {
                self.start(Why::Rotated, self.end, door)?;
            }
            self.write(None, events.into_iter().map(Record::Event).collect(), door)?;
        }
        self.covered = covered;
        Ok(())
    }

    /// Extends the oldest line that waits. False when none does.
    pub(super) fn extend_one(&mut self, keystore: &dyn Keystore, door: &Door) -> Result<bool, LogError> {
        let Some(digest) = self.pending.front() else { return Ok(false) };
        // What waits when the process ends is extended by the next one.
        drop(door.pass()?);
        let after = keystore.pcr_extend(self.pcr, digest)?;
        if after != extend(&self.value, digest) {
            return Err(LogError::Moved);
        }
        self.value = after;
        self.pending.pop_front();
        Ok(true)
    }
}

fn covered(log: &RuntimeLog) -> u64 {
    let newest = log.entries().iter().rev().find_map(|entry| match &entry.record {
        Record::Event(event) => Some(event.audit_sequence),
        Record::Start(_) => None,
    });
    newest.unwrap_or_default()
}
