//! The audit log: what `identityd` decided, in order, on disk before the decision takes effect.
//!
//! Lines of JSON, each with the hash of the one before: a line that was changed, dropped from the middle or moved shows
//! when the log is opened, which is at every start. (Whoever may write the file can still forge a whole new log or cut
//! its end: the chain is for damage and careless hands. Each entry goes to the process log too.)
//! Bounded: a full file is closed and the oldest of several is removed; the chain runs on across files.
//! A line that a crash cut off never took effect; it is removed, and its removal noted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::UnixTime;
use edgewarden_platform::durable;
use edgewarden_protocol::control::AuditEntry;
use serde::{Deserialize, Serialize};

/// Most entries that one request may see.
pub const ENTRIES_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FILES_MAX: usize = 4;
const TEXT_CHARS_MAX: usize = 512;
/// What the first entry of a new log follows.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot use the audit log `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the audit log `{}` was changed at line {line}: {problem}; keep it as evidence, move it away and start again", path.display())]
    Damaged { path: PathBuf, line: usize, problem: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    previous: String,
    entry: AuditEntry,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Such as `svid.issued`: `area.what`, from the program's text, never from a peer.
    pub kind: &'static str,
    pub subject: String,
    pub detail: String,
}

impl Event {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names and texts alike, which reads better"
    )]
    pub fn new(kind: &'static str, subject: impl ToString, detail: impl ToString) -> Self {
        Self { kind, subject: subject.to_string(), detail: detail.to_string() }
    }
}

/// The log, open for appending. One writer.
#[derive(Debug)]
pub struct Audit {
    folder: PathBuf,
    file_bytes_max: u64,
    file: File,
    path: PathBuf,
    length: u64,
    sequence: u64,
    previous: String,
    newest: VecDeque<AuditEntry>,
    /// Set when a failed write could not be undone: nothing can be appended before the next start looks at the file.
    broken: bool,
}

impl Audit {
    /// Opens and verifies the log in `folder`, or begins one.
    pub fn open(folder: &Path, now: UnixTime) -> Result<Self, AuditError> {
        Self::open_sized(folder, FILE_BYTES_MAX, now)
    }

    fn open_sized(folder: &Path, file_bytes_max: u64, now: UnixTime) -> Result<Self, AuditError> {
        let mut chain = Chain::default();
        let mut last = None;
        let mut cut = 0;
        let paths = files(folder).map_err(|source| AuditError::Io { path: folder.into(), source })?;
        for (index, path) in paths.iter().enumerate() {
            let io_error = |source| AuditError::Io { path: path.clone(), source };
            // One line longer than the mark is let in before a file is closed.
            let limit = usize::try_from(file_bytes_max).unwrap_or(usize::MAX).saturating_mul(2);
            let bytes = durable::read(path, limit).map_err(io_error)?.unwrap_or_default();
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
            let (lines, torn) = bytes.split_at_checked(whole).unwrap_or((&bytes, &[]));
            chain.follow(path, lines)?;
            if !torn.is_empty() {
                if index.saturating_add(1) != paths.len() {
                    let problem = "it ends in the middle of a line, and a later file follows".into();
                    return Err(AuditError::Damaged { path: path.clone(), line: chain.line, problem });
                }
                cut = torn.len();
                let file = OpenOptions::new().write(true).open(path).map_err(io_error)?;
                file.set_len(lines.len() as u64).and_then(|()| file.sync_all()).map_err(io_error)?;
            }
            last = Some((path.clone(), lines.len() as u64));
        }
        let (path, length) = last.unwrap_or_else(|| (folder.join(file_name(1)), 0));
        let file = open_file(&path).map_err(|source| AuditError::Io { path: path.clone(), source })?;
        let mut audit = Self {
            folder: folder.into(),
            file_bytes_max,
            file,
            path,
            length,
            sequence: chain.sequence,
            previous: chain.previous.unwrap_or_else(|| GENESIS.into()),
            newest: chain.newest,
            broken: false,
        };
        if cut > 0 {
            audit.append(
                now,
                &Event::new("audit.truncated", "audit log", format!("{cut} bytes of an unfinished line")),
            )?;
        }
        Ok(audit)
    }

    /// Puts an event on disk. When this fails, the log is as it was.
    pub fn append(&mut self, at: UnixTime, event: &Event) -> Result<(), AuditError> {
        let appended = self.append_line(at, event);
        appended.map_err(|source| AuditError::Io { path: self.path.clone(), source })
    }

    fn append_line(&mut self, at: UnixTime, event: &Event) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed and could not be undone"));
        }
        if self.length >= self.file_bytes_max {
            self.next_file()?;
        }
        let (subject, detail) = (clip(&event.subject), clip(&event.detail));
        let sequence = self.sequence.saturating_add(1);
        let mut entry =
            AuditEntry { sequence, at, event: event.kind.into(), subject, detail, hash: String::new() };
        entry.hash = hash(&self.previous, &entry)?;
        let mut line = serde_json::to_vec(&Line { previous: self.previous.clone(), entry: entry.clone() })?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            self.broken = self.file.set_len(self.length).and_then(|()| self.file.sync_data()).is_err();
            return Err(error);
        }
        tracing::info!(event = event.kind, subject = entry.subject, detail = entry.detail, "audit");
        self.length = self.length.saturating_add(line.len() as u64);
        self.sequence = sequence;
        self.previous.clone_from(&entry.hash);
        remember(&mut self.newest, entry);
        Ok(())
    }

    fn next_file(&mut self) -> io::Result<()> {
        let path = self.folder.join(file_name(self.sequence.saturating_add(1)));
        self.file = open_file(&path)?;
        self.path = path;
        self.length = 0;
        let paths = files(&self.folder)?;
        for old in paths.iter().take(paths.len().saturating_sub(FILES_MAX)) {
            durable::remove(old)?;
        }
        Ok(())
    }

    /// The newest entries, oldest first.
    pub fn newest(&self, count: usize) -> Vec<AuditEntry> {
        self.newest.iter().skip(self.newest.len().saturating_sub(count)).cloned().collect()
    }
}

/// What reading the log so far has shown.
#[derive(Default)]
struct Chain {
    sequence: u64,
    previous: Option<String>,
    newest: VecDeque<AuditEntry>,
    line: usize,
}

impl Chain {
    fn follow(&mut self, path: &Path, lines: &[u8]) -> Result<(), AuditError> {
        self.line = 0;
        for text in lines.split_inclusive(|byte| *byte == b'\n') {
            self.line = self.line.saturating_add(1);
            self.one(text).map_err(|problem| AuditError::Damaged {
                path: path.into(),
                line: self.line,
                problem,
            })?;
        }
        Ok(())
    }

    fn one(&mut self, text: &[u8]) -> Result<(), String> {
        let line: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        // The files before the oldest one are gone, so what the very first line follows cannot be checked; but its
        // sequence number says whether it is the first of all.
        let follows = match &self.previous {
            Some(previous) => {
                line.previous == *previous && line.entry.sequence == self.sequence.saturating_add(1)
            }
            None => line.entry.sequence > 1 || line.previous == GENESIS,
        };
        if !follows {
            return Err("it does not follow the line before".into());
        }
        if hash(&line.previous, &line.entry).ok().as_ref() != Some(&line.entry.hash) {
            return Err("its hash is wrong".into());
        }
        self.sequence = line.entry.sequence;
        self.previous = Some(line.entry.hash.clone());
        remember(&mut self.newest, line.entry);
        Ok(())
    }
}

fn remember(newest: &mut VecDeque<AuditEntry>, entry: AuditEntry) {
    if newest.len() >= ENTRIES_MAX {
        newest.pop_front();
    }
    newest.push_back(entry);
}

/// SHA-256 over the previous hash and the entry as a JSON array without its hash.
fn hash(previous: &str, entry: &AuditEntry) -> io::Result<String> {
    let AuditEntry { sequence, at, event, subject, detail, hash: _ } = entry;
    let bytes = serde_json::to_vec(&(previous, sequence, at, event, subject, detail))?;
    Ok(hex::encode(digest(&SHA256, &bytes)))
}

/// Text that may come from a peer: bounded, and without what could fool a terminal.
pub fn clip(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(printable).collect()
}

fn file_name(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

/// The log's files, oldest first.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".jsonl"));
        if number.is_some_and(|number| number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit())) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?;
    // The file's name must outlive a power cut as the lines in it do.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok(file)
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
            let path = write(folder.path(), 3).path;
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
        let path = write(folder.path(), 3).path;
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
        assert_eq!(audit.sequence, 40);
        drop(audit);
        // A file out of the middle is missed.
        std::fs::remove_file(&files(folder.path()).unwrap()[1]).unwrap();
        assert!(matches!(Audit::open_sized(folder.path(), 600, NOW), Err(AuditError::Damaged { .. })));
    }

    #[test]
    fn what_a_peer_wrote_is_bounded_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let mut audit = write(folder.path(), 0);
        let subject = format!("\u{1b}[2J\n{}", "x".repeat(10_000));
        audit.append(NOW, &Event::new("test.event", subject, "")).unwrap();
        let subject = &audit.newest(1)[0].subject;
        assert_eq!(subject.chars().count(), TEXT_CHARS_MAX);
        assert!(!subject.contains(char::is_control));
    }
}
