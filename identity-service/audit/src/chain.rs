//! One line after the other: which follows which. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_protocol::control::AuditEntry;
use serde::{Deserialize, Serialize};

/// Hash before the first entry of a new log.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longest line: two texts of [`edgewarden_protocol::audit::TEXT_CHARS_MAX`] in the longest escape, and the rest.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    previous: String,
    entry: AuditEntry,
}

/// SHA-256 over the previous hash and the entry as a JSON array without its hash.
fn hash(previous: &str, entry: &AuditEntry) -> serde_json::Result<String> {
    let AuditEntry { sequence, at, event, subject, detail, hash: _ } = entry;
    let bytes = serde_json::to_vec(&(previous, sequence, at, event, subject, detail))?;
    Ok(hex::encode(digest(&SHA256, &bytes)))
}

/// The end of a chain: what the next line must follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Of the last line, 0 before the first.
    sequence: u64,
    /// Hash of the last line. `None` when nothing was read: the files before may be gone.
    previous: Option<String>,
}

impl Chain {
    /// Number of the last line, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Hash of the last line, [`GENESIS`] before the first.
    pub fn hash(&self) -> &str {
        self.previous.as_deref().unwrap_or(GENESIS)
    }

    /// Makes the next line from an entry without sequence and hash, and its chain.
    pub fn next(&self, mut entry: AuditEntry) -> serde_json::Result<(Self, Vec<u8>, AuditEntry)> {
        entry.sequence = self.sequence.saturating_add(1);
        entry.hash = hash(self.hash(), &entry)?;
        let mut line = serde_json::to_vec(&Line { previous: self.hash().to_owned(), entry: entry.clone() })?;
        line.push(b'\n');
        Ok((Self { sequence: entry.sequence, previous: Some(entry.hash.clone()) }, line, entry))
    }

    /// Takes in one line with its line break. On an error nothing has changed.
    pub fn follow(&mut self, text: &[u8]) -> Result<AuditEntry, String> {
        if text.len() > LINE_BYTES_MAX {
            return Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
        }
        let line: Line = serde_json::from_slice(text).map_err(|error| format!("not an entry: {error}"))?;
        // What the very first line follows may be gone with an old file; but its number says whether it is the first.
        let follows = match &self.previous {
            Some(previous) => {
                line.previous == *previous && self.sequence.checked_add(1) == Some(line.entry.sequence)
            }
            None => match line.entry.sequence {
                0 => false,
                1 => line.previous == GENESIS,
                _ => true,
            },
        };
        if !follows {
            return Err(format!("entry {} does not follow the line before", line.entry.sequence));
        }
        if hash(&line.previous, &line.entry).ok().as_ref() != Some(&line.entry.hash) {
            return Err(format!("the hash of entry {} is wrong", line.entry.sequence));
        }
        // The hash is over what a line means; this is over how it is written.
        if serde_json::to_vec(&line).ok().as_deref() != text.strip_suffix(b"\n") {
            return Err(format!("entry {} is not written as identityd writes it", line.entry.sequence));
        }
        self.sequence = line.entry.sequence;
        self.previous = Some(line.entry.hash.clone());
        Ok(line.entry)
    }
}
