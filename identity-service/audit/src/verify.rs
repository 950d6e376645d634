//! Judges a log: its chain across files, its numbers, its signed heads. Pure: no disk, no clock, no daemon.
//!
//! Trusts the keys that it is given and the head that the caller knows. Distrusts every byte of the files.

use std::collections::VecDeque;

use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_platform::durable::whole_lines;
use edgewarden_protocol::control::AuditEntry;
use serde::Serialize;

use crate::chain::Chain;
use crate::head::{Head, Keys};

/// A head covers an entry at most this far before its own: signing takes time, and others write meanwhile.
const LAG_MAX: usize = 4096;

/// The first place where a log is not what `identityd` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("broken at `{file}` line {line}: {problem}")]
pub struct Broken {
    pub file: String,
    /// From 1; 0 when the file as a whole is meant.
    pub line: usize,
    pub problem: String,
}

/// Facts of an unbroken log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub gateway: Option<GatewayName>,
    pub files: usize,
    pub entries: u64,
    /// The oldest entry that is still there; above 1 when older files were rotated away.
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub last_at: Option<UnixTime>,
    /// Signed heads whose signatures are right.
    pub heads: u64,
    /// The newest of them. Keep it elsewhere: a log that is cut off below it is found out.
    pub head: Option<Head>,
    /// Entries after what the newest head covers: chained, and not yet signed.
    pub unsigned: u64,
    /// Bytes of a line without an end, which a crash or a running writer leaves.
    pub unfinished_bytes: usize,
    /// The known head is of a time whose entries were rotated away: it proves nothing any more.
    pub known_head_rotated_away: bool,
}

/// Takes in a log's files, oldest first.
#[derive(Debug)]
pub struct Verifier {
    keys: Keys,
    known: Option<Head>,
    chain: Chain,
    recent: VecDeque<(u64, String)>,
    report: Report,
    last_file: String,
}

impl Verifier {
    /// `known`: a head that was seen before, and kept where the log's writer cannot reach it.
    pub fn new(keys: Keys, known: Option<Head>) -> Self {
        Self {
            keys,
            known,
            chain: Chain::default(),
            recent: VecDeque::new(),
            report: Report::default(),
            last_file: String::new(),
        }
    }

    /// One file. `first` is the number that the file's name says its first entry has.
    pub fn file(&mut self, name: &str, first: u64, bytes: &[u8]) -> Result<(), Broken> {
        let broken = |line, problem: String| Broken { file: name.to_owned(), line, problem };
        if self.report.unfinished_bytes > 0 {
            let problem = "it ends in the middle of a line, and a later file follows".into();
            return Err(Broken { file: std::mem::take(&mut self.last_file), line: 0, problem });
        }
        self.report.files = self.report.files.saturating_add(1);
        name.clone_into(&mut self.last_file);
        let (lines, torn) = whole_lines(bytes);
        self.report.unfinished_bytes = torn.len();
        for (index, text) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line = index.saturating_add(1);
            let entry = self.chain.follow(text).map_err(|problem| broken(line, problem))?;
            if index == 0 && entry.sequence != first {
                let problem = format!("it begins with entry {}, its name says {first}", entry.sequence);
                return Err(broken(line, problem));
            }
            self.entry(&entry).map_err(|problem| broken(line, problem))?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &AuditEntry) -> Result<(), String> {
        let report = &mut self.report;
        report.entries = report.entries.saturating_add(1);
        report.first.get_or_insert(entry.sequence);
        report.last = Some(entry.sequence);
        report.last_at = Some(entry.at);
        if let Some(known) = self.known.as_ref().filter(|known| known.sequence == entry.sequence)
            && known.hash != entry.hash
        {
            return Err(format!("entry {} is not the one that the known head covers", entry.sequence));
        }
        if let Some(head) = Head::of(entry).map_err(|problem| problem.to_string())? {
            self.head(head, entry)?;
        }
        if self.recent.len() >= LAG_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((entry.sequence, entry.hash.clone()));
        Ok(())
    }

    fn head(&mut self, head: Head, entry: &AuditEntry) -> Result<(), String> {
        head.verify(&self.keys).map_err(|problem| problem.to_string())?;
        if entry.subject != head.gateway.as_str()
            || self.report.gateway.as_ref().is_some_and(|gateway| *gateway != head.gateway)
        {
            return Err(format!("the signed head is of another gateway, `{}`", head.gateway));
        }
        if self.report.head.as_ref().is_some_and(|before| head.sequence < before.sequence) {
            return Err("the signed head is older than the one before".into());
        }
        let covered = self.recent.iter().find(|(sequence, _)| *sequence == head.sequence);
        match covered {
            Some((_, hash)) if *hash == head.hash => {}
            Some(_) => return Err(format!("the signed head covers another entry {}", head.sequence)),
            // Rotated away; the signature is right all the same.
            None if self.report.first.is_some_and(|first| head.sequence < first) => {}
            None => {
                return Err(format!(
                    "the signed head covers entry {}, which is not before it",
                    head.sequence
                ));
            }
        }
        self.report.gateway = Some(head.gateway.clone());
        self.report.heads = self.report.heads.saturating_add(1);
        self.report.head = Some(head);
        Ok(())
    }

    /// After the last file.
    pub fn finish(mut self) -> Result<Report, Broken> {
        let end = |problem: String| Broken { file: self.last_file.clone(), line: 0, problem };
        if let Some(known) = &self.known {
            known.verify(&self.keys).map_err(|problem| end(format!("the known head: {problem}")))?;
            if self.report.gateway.as_ref().is_some_and(|gateway| *gateway != known.gateway) {
                return Err(end(format!("the known head is of another gateway, `{}`", known.gateway)));
            }
            let last = self.report.last.unwrap_or(0);
            if last < known.sequence {
                let problem = format!(
                    "the log ends at entry {last}, and a signed head covers entry {}: its end was cut off",
                    known.sequence
                );
                return Err(end(problem));
            }
            self.report.known_head_rotated_away =
                self.report.first.is_some_and(|first| known.sequence < first);
        }
        if self.report.entries > 0 && self.report.heads == 0 {
            return Err(end("no signed head: nobody vouches for this log".into()));
        }
        let covered = self.report.head.as_ref().map_or(0, |head| head.sequence);
        self.report.unsigned = self.report.last.unwrap_or(0).saturating_sub(covered);
        Ok(self.report)
    }
}
