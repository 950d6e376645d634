//! The writer of the audit log.
//!
//! Bounded: a full file is closed and the oldest of several is removed; the chain runs on across files.
//! A line that a crash cut off never took effect; it is removed, and its removal noted. The log is verified when it is
//! opened, which is at every start: its chain, not its signatures, which need no running daemon to be checked.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgewarden_names::UnixTime;
use edgewarden_platform::durable::{self, AppendFile};
use edgewarden_platform::reserve::{Reserve, is_full};
use edgewarden_protocol::audit::{Event, clip};
use edgewarden_protocol::control::AuditEntry;

use crate::chain::Chain;
use crate::folder::{FILE_BYTES_MAX, FILES_MAX, file_name, files, read};
use crate::head::{HEAD_EVENT, Head};
use crate::query::ENTRIES_MAX;

const FILE_MODE: u32 = 0o600;
/// Room for entries that is taken from what is set aside at once.
const AHEAD_BYTES: usize = 256 * 1024;

/// Error of the writer: the disk's, or a log that was changed.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot use the audit log `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the audit log `{}` was changed at line {line}: {problem}; keep it as evidence, move it away and start again", path.display())]
    Damaged { path: PathBuf, line: usize, problem: String },
}

/// The log, open for appending. One writer.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    file_bytes_max: u64,
    file: AppendFile,
    chain: Chain,
    newest: VecDeque<AuditEntry>,
    /// Entries that are no heads, since the newest that a head covers.
    unsigned: u64,
    signed: u64,
    closed: bool,
    reserve: Option<Arc<Reserve>>,
    /// Entries that could not be written, and since when. They are said to be missing as soon as that can be.
    lost: u64,
    lost_since: UnixTime,
}

/// The event that stands for entries that could not be written.
const GAP_EVENT: &str = "audit.gap";

impl Audit {
    /// Opens and verifies the log in `folder`, or begins one.
    #[cfg(test)]
    pub fn open(folder: &Path, now: UnixTime) -> Result<Self, AuditError> {
        Self::open_sized(folder, FILE_BYTES_MAX, now)
    }

    /// Opens and verifies the log in `folder`, or begins one, in files of this size.
    pub fn open_sized(folder: &Path, file_bytes_max: u64, now: UnixTime) -> Result<Self, AuditError> {
        Self::open_with(folder, file_bytes_max, now, None)
    }

    /// The same with disk space for when there is none.
    pub fn open_reserved(folder: &Path, now: UnixTime, reserve: Arc<Reserve>) -> Result<Self, AuditError> {
        Self::open_with(folder, FILE_BYTES_MAX, now, Some(reserve))
    }

    fn open_with(
        folder: &Path,
        file_bytes_max: u64,
        now: UnixTime,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, AuditError> {
        let mut chain = Chain::default();
        let (mut newest, mut unsigned, mut signed) = (VecDeque::new(), 0, 0);
        let mut torn = None;
        let paths = files(folder).map_err(|source| AuditError::Io { path: folder.into(), source })?;
        for (_, path) in &paths {
            let damaged = |line, problem| AuditError::Damaged { path: path.clone(), line, problem };
            if torn.is_some() {
                return Err(damaged(1, "the file before it ends in the middle of a line".into()));
            }
            let io_error = |source| AuditError::Io { path: path.clone(), source };
            let gone = || io_error(io::ErrorKind::NotFound.into());
            let bytes = read(path, file_bytes_max).map_err(io_error)?.ok_or_else(gone)?;
            let (lines, rest) = durable::whole_lines(&bytes);
            for (index, text) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
                let line = index.saturating_add(1);
                let entry = chain.follow(text).map_err(|problem| damaged(line, problem))?;
                count(&entry, &mut unsigned, &mut signed);
                remember(&mut newest, entry);
            }
            torn = (!rest.is_empty()).then_some((lines.len() as u64, rest.len()));
        }
        let path = paths.last().map_or_else(|| folder.join(file_name(1)), |(_, path)| path.clone());
        let io_error = |source| AuditError::Io { path: path.clone(), source };
        let mut file = AppendFile::open(&path, FILE_MODE).map_err(io_error)?;
        if let Some((whole, _)) = torn {
            file.truncate(whole).map_err(io_error)?;
        }
        let mut audit = Self {
            folder: folder.into(),
            file_bytes_max,
            file,
            chain,
            newest,
            unsigned,
            signed,
            closed: false,
            reserve,
            lost: 0,
            lost_since: now,
        };
        if let Some((_, cut)) = torn {
            let detail = format!("{cut} bytes of an unfinished line");
            match audit.append(now, &Event::new("audit.truncated", "audit log", detail)) {
                // A disk that has no room for the note is no reason not to run: it is said later that one is missing.
                Err(AuditError::Io { source, .. }) if is_full(&source) => audit.lose(now),
                noted => noted?,
            }
        }
        Ok(audit)
    }

    /// Puts an event on disk. When this fails, the log is as it was.
    pub fn append(&mut self, at: UnixTime, event: &Event) -> Result<(), AuditError> {
        self.tell_lost(at)?;
        self.append_line(at, event.kind, clip(&event.subject), clip(&event.detail))
    }

    /// Notes that an event has happened which is not on disk.
    pub fn lose(&mut self, at: UnixTime) {
        if self.lost == 0 {
            self.lost_since = at;
        }
        self.lost = self.lost.saturating_add(1);
    }

    /// Says how many are missing, if any are.
    pub fn tell_lost(&mut self, at: UnixTime) -> Result<(), AuditError> {
        if self.lost > 0 {
            let detail = format!("{} entries since {} could not be written", self.lost, self.lost_since);
            self.append_line(at, GAP_EVENT, "audit log".into(), detail)?;
            self.lost = 0;
        }
        Ok(())
    }

    /// Entries that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Puts a signed head on disk.
    pub fn append_head(&mut self, at: UnixTime, head: &Head) -> Result<(), AuditError> {
        let detail = serde_json::to_string(head)
            .map_err(|error| AuditError::Io { path: self.file.path().into(), source: error.into() })?;
        self.append_line(at, HEAD_EVENT, head.gateway.as_str().into(), detail)
    }

    fn append_line(
        &mut self,
        at: UnixTime,
        event: &'static str,
        subject: String,
        detail: String,
    ) -> Result<(), AuditError> {
        let appended = self.try_append(at, event, subject, detail);
        appended.map_err(|source| AuditError::Io { path: self.file.path().into(), source })
    }

    fn try_append(
        &mut self,
        at: UnixTime,
        event: &'static str,
        subject: String,
        detail: String,
    ) -> io::Result<()> {
        if self.closed {
            return Err(io::Error::other("the log is closed"));
        }
        if self.file.length() >= self.file_bytes_max {
            self.next_file()?;
        }
        let entry = AuditEntry { sequence: 0, at, event: event.into(), subject, detail, hash: String::new() };
        let (chain, line, entry) = self.chain.next(entry)?;
        self.put(&line)?;
        tracing::info!(event, subject = entry.subject, detail = entry.detail, "audit");
        self.chain = chain;
        count(&entry, &mut self.unsigned, &mut self.signed);
        remember(&mut self.newest, entry);
        Ok(())
    }

    /// Appends with the space that is set aside, if there is no other. Then for what comes after it too: who fills disks
    /// would take each piece that is given up for a single line.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        let file = &mut self.file;
        match (&self.reserve, file.append(line)) {
            (Some(reserve), Err(error)) if is_full(&error) => reserve.write(AHEAD_BYTES, || {
                // Where less is left, or the file system cannot, the line alone may fit.
                drop(file.allocate_ahead(AHEAD_BYTES as u64));
                file.append(line)
            }),
            (_, appended) => appended,
        }
    }

    fn next_file(&mut self) -> io::Result<()> {
        let path = self.folder.join(file_name(self.chain.sequence().saturating_add(1)));
        let open = || AppendFile::open(&path, FILE_MODE);
        self.file = match &self.reserve {
            Some(reserve) => reserve.write(0, open)?,
            None => open()?,
        };
        let paths = files(&self.folder)?;
        for (_, old) in paths.iter().take(paths.len().saturating_sub(FILES_MAX)) {
            durable::remove(old)?;
        }
        Ok(())
    }

    /// The newest entries, oldest first.
    pub fn newest(&self, count: usize) -> Vec<AuditEntry> {
        self.newest.iter().skip(self.newest.len().saturating_sub(count)).cloned().collect()
    }

    /// The newest entry's number and hash: what a head covers.
    pub fn tip(&self) -> (u64, String) {
        (self.chain.sequence(), self.chain.hash().to_owned())
    }

    /// Entries that no head covers, not counting heads; and the last entry that one covers.
    pub fn signed(&self) -> (u64, u64) {
        (self.unsigned, self.signed)
    }

    /// Nothing is appended any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// `true` when nothing more is written.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Folder of the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn count(entry: &AuditEntry, unsigned: &mut u64, signed: &mut u64) {
    match Head::of(entry) {
        Ok(None) => *unsigned = unsigned.saturating_add(1),
        Ok(Some(head)) => {
            // Entries that were written while it was signed are before it and not covered; so are heads among them.
            *unsigned = entry.sequence.saturating_sub(head.sequence).saturating_sub(1).min(*unsigned);
            *signed = head.sequence;
        }
        // The verifier complains about it; writing goes on.
        Err(_) => {}
    }
}

fn remember(newest: &mut VecDeque<AuditEntry>, entry: AuditEntry) {
    if newest.len() >= ENTRIES_MAX {
        newest.pop_front();
    }
    newest.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(5);

    fn write(folder: &Path, count: usize) -> Audit {
        let mut audit = Audit::open(folder, NOW).unwrap();
        for n in 0..count {
            audit.append(NOW, &Event::new("test.event", n, "detail")).unwrap();
        }
        audit
    }

    #[test]
    fn the_chain_goes_on_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 2);
        let audit = write(folder.path(), 2);
        let sequences: Vec<_> = audit.newest(3).iter().map(|entry| entry.sequence).collect();
        assert_eq!(sequences, [2, 3, 4]);
        assert_eq!(audit.newest(100).len(), 4);
    }

    #[test]
    fn a_changed_log_is_refused() {
        type Change = fn(Vec<String>) -> String;
        let changes: [(&str, Change); 8] = [
            ("changed subject", |lines| lines.concat().replace("\"subject\":\"1\"", "\"subject\":\"9\"")),
            ("changed time", |lines| lines.concat().replacen("\"at\":5", "\"at\":6", 1)),
            ("dropped line", |lines| [lines[0].as_str(), &lines[2]].concat()),
            ("dropped first line of all", |lines| lines[1].replace("\"sequence\":2", "\"sequence\":1")),
            ("swapped lines", |lines| [lines[0].as_str(), &lines[2], &lines[1]].concat()),
            ("repeated line", |lines| [lines[0].as_str(), &lines[0]].concat()),
            ("not JSON", |lines| format!("{}\n", lines[0])),
            ("unknown field", |lines| lines[0].replace("{\"previous\"", "{\"x\":1,\"previous\"")),
        ];
        for (name, change) in changes {
            let folder = tempfile::tempdir().unwrap();
            let path = write(folder.path(), 3).file.path().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.split_inclusive('\n').map(String::from).collect();
            std::fs::write(&path, change(lines)).unwrap();
            let error = Audit::open(folder.path(), NOW).unwrap_err();
            assert!(matches!(error, AuditError::Damaged { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_torn_last_line_is_removed_and_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), 3).file.path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for cut in 1..text.lines().last().unwrap().len() {
            std::fs::write(&path, &text.as_bytes()[..text.len() - cut]).unwrap();
            let audit = Audit::open(folder.path(), NOW).unwrap();
            let entries = audit.newest(10);
            assert_eq!(entries.len(), 3, "two whole lines and the note");
            assert_eq!(entries[2].event, "audit.truncated");
            drop(audit);
            assert_eq!(Audit::open(folder.path(), NOW).unwrap().newest(10), entries);
        }
    }

    #[test]
    fn old_files_go_and_the_chain_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut audit = Audit::open_sized(folder.path(), 600, NOW).unwrap();
        for n in 0..40 {
            audit.append(NOW, &Event::new("test.event", n, "detail")).unwrap();
        }
        assert_eq!(files(folder.path()).unwrap().len(), FILES_MAX);
        drop(audit);
        let audit = Audit::open_sized(folder.path(), 600, NOW).unwrap();
        assert_eq!(audit.tip().0, 40);
        drop(audit);
        // A file out of the middle is missed.
        std::fs::remove_file(&files(folder.path()).unwrap()[1].1).unwrap();
        assert!(matches!(Audit::open_sized(folder.path(), 600, NOW), Err(AuditError::Damaged { .. })));
    }

    #[test]
    fn what_a_peer_wrote_is_bounded_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let mut audit = write(folder.path(), 0);
        let subject = format!("\u{1b}[2J\n{}", "x".repeat(10_000));
        audit.append(NOW, &Event::new("test.event", subject, "")).unwrap();
        let subject = &audit.newest(1)[0].subject;
        assert_eq!(subject.chars().count(), 512);
        assert!(!subject.contains(char::is_control));
    }
}
