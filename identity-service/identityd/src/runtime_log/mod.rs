//! The runtime log: module starts and stops, policy epochs, verdicts and signed heads of the audit log, extended into a
//! PCR of the TPM, so that a quote proves that none of it was taken back
//! ([`edgewarden_evidence::runtime_log`] is the format and the check).
//!
//! It follows the audit log, which is on the disk before a decision takes effect; so nothing that it is about waits for
//! the TPM, order is the audit log's, and what was not yet written when the process died is written at the next start.
//! Extensions are single requests in the last lane of the keystore's queue: one start is delayed by one of them at most.
//!
//! * `writer`: on the disk, then in the PCR, and what of it came through · `files`: the files
//!
//! Trusts the TPM's quote. Distrusts the PCR (anybody on the machine can extend it) and the files: what does not agree
//! is said, in status and audit log, and a new section begins. Never keeps anything from working.

mod files;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_audit::HEAD_EVENT;
use edgewarden_decisions::authority::Authority;
use edgewarden_evidence::runtime_log::Event;
use edgewarden_keystore::Keystore;
use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_protocol::config::{self, Config};
use edgewarden_protocol::control::AuditEntry;
use edgewarden_protocol::layout::Layout;
use tokio::sync::Notify;

use self::files::Files;
use self::writer::{Door, LogError, Writer};
use crate::ledger::{Follower, Ledger};

/// Events that get a line. The audit log has everything, and its signed heads cover it.
const KINDS: [&str; 7] = [
    "module.started",
    "module.stopped",
    "deployment.accepted",
    "epoch.enforced",
    "enrol.accepted",
    "verdict.failed",
    HEAD_EVENT,
];
/// Says that entries of the audit log have no line.
const SKIPPED: &str = "audit.skipped";
/// Should anything have happened without a word.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// After an error.
pub(crate) const RETRY: Duration = Duration::from_secs(30);

/// The part of the audit log that the runtime log follows.
pub(crate) trait Source {
    /// Entries after that one which are remembered, oldest first; all, if the log ends before it.
    fn after(&self, sequence: u64) -> Vec<AuditEntry>;
    fn complain(&self, refusal: &Refusal);
}

/// The log of a gateway with a TPM, open or not.
pub(crate) struct Keeper {
    pcr: u8,
    folder: PathBuf,
    /// One at a time; held over requests to the TPM.
    writer: Mutex<Option<Writer>>,
    door: Door,
    /// For people.
    state: Mutex<String>,
    /// Wakes the task that extends.
    pub(crate) due: Notify,
}

impl Keeper {
    /// `None` for a keystore without PCRs.
    pub(crate) fn new(config: &Config, layout: &Layout) -> Option<Self> {
        match config.keystore {
            config::Keystore::Tpm { .. } | config::Keystore::DangerousSimulatedTpm { .. } => {}
            config::Keystore::Pkcs11 { .. } | config::Keystore::Software { .. } => return None,
        }
        let pcr = config.attestation.runtime_pcr;
        Some(Self::in_folder(pcr, layout.identity_state().join(format!("runtime-log-{pcr}"))))
    }

    fn in_folder(pcr: u8, folder: PathBuf) -> Self {
        let state = Mutex::new(format!("PCR {pcr}, not yet open"));
        Self { pcr, folder, writer: Mutex::default(), door: Door::default(), state, due: Notify::new() }
    }

    pub(crate) fn pcr(&self) -> u8 {
        self.pcr
    }

    /// For status.
    pub(crate) fn state(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: String) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Nothing is written any more.
    pub(crate) fn close(&self) {
        self.door.close();
    }

    /// A writer is put back only when what it says agrees with the disk and the PCR.
    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and extends what is new. Blocks on disk and TPM. False when it is to be tried again.
    pub(crate) fn follow(&self, source: &dyn Source, keystore: &dyn Keystore) -> bool {
        self.follow_locked(&mut self.lock(), source, keystore)
    }

    fn follow_locked(&self, slot: &mut Option<Writer>, source: &dyn Source, keystore: &dyn Keystore) -> bool {
        let before = self.state();
        match self.try_follow(slot, source, keystore) {
            Ok(state) => {
                self.set_state(state);
                true
            }
            Err(LogError::Closed) => true,
            Err(error) => {
                // What it says may no longer be so; the next try compares disk and PCR.
                *slot = None;
                let rule = format!("PCR {}: {}", self.pcr, ErrorChain(&error));
                if rule != before {
                    source.complain(&Refusal::new(Reason::AttestRuntimeLog, "runtime log", &rule));
                }
                self.set_state(rule);
                false
            }
        }
    }

    fn try_follow(
        &self,
        slot: &mut Option<Writer>,
        source: &dyn Source,
        keystore: &dyn Keystore,
    ) -> Result<String, LogError> {
        let writer = match slot {
            Some(writer) => writer,
            empty => {
                let (writer, unexplained) = Writer::open(&self.folder, self.pcr, keystore, &self.door)?;
                if unexplained {
                    let rule = format!(
                        "PCR {} is not where the log says: others extended it, or the log was changed; a new section begins",
                        self.pcr
                    );
                    source.complain(&Refusal::new(Reason::AttestRuntimeLog, "runtime log", rule));
                }
                empty.insert(writer)
            }
        };
        let (events, covered) = lines_for(&source.after(writer.covered), writer.covered, writer.room())?;
        if let Some(skipped) = events.first().filter(|event| event.kind == SKIPPED) {
            let rule = format!("entries {} of the audit log have no line", skipped.subject);
            source.complain(&Refusal::new(Reason::AttestRuntimeLog, "runtime log", rule));
        }
        writer.add(events, covered, &self.door)?;
        while writer.extend_one(keystore, &self.door)? {}
        Ok(format!("PCR {}, {} lines, {} waiting", self.pcr, writer.lines(), writer.waiting()))
    }

    /// Runs `quote` while nothing is extended, and gives the log with it.
    pub(crate) fn with_log<T, E>(
        &self,
        source: &dyn Source,
        keystore: &dyn Keystore,
        quote: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Vec<u8>), E> {
        let mut slot = self.lock();
        // When this fails the quote still says what the PCR is, and the check of the log will say that they differ.
        self.follow_locked(&mut slot, source, keystore);
        let quoted = quote()?;
        let log = Files::text(&self.folder).unwrap_or_else(|error| {
            tracing::error!(%error, "the runtime log cannot be read");
            Vec::new()
        });
        Ok((quoted, log))
    }
}

impl Source for Ledger {
    fn after(&self, sequence: u64) -> Vec<AuditEntry> {
        self.entries_after(sequence)
    }

    fn complain(&self, refusal: &Refusal) {
        tracing::error!(%refusal, "the runtime log");
        self.note(refusal);
    }
}

impl Follower for Keeper {
    fn in_force(&self, _: &Authority) {
        self.due.notify_one();
    }
}

/// Lines for new entries, at most `room`, and the newest entry that they cover.
fn lines_for(entries: &[AuditEntry], covered: u64, room: usize) -> Result<(Vec<Event>, u64), LogError> {
    let (first, last) = match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => (first.sequence, last.sequence),
        _ => return Ok((Vec::new(), covered)),
    };
    // An operator may have moved the audit log away: then it began anew.
    let mut covered = if last < covered { 0 } else { covered };
    let mut events = Vec::new();
    let expected = covered.saturating_add(1);
    if covered > 0 && first > expected && room > 0 {
        covered = first.saturating_sub(1);
        events.push(Event {
            audit_sequence: covered,
            audit_hash: [0; 32],
            kind: SKIPPED.into(),
            subject: format!("{expected} to {covered}"),
        });
    }
    for entry in entries {
        if entry.sequence <= covered {
            continue;
        }
        if events.len() >= room {
            break;
        }
        covered = entry.sequence;
        if KINDS.contains(&entry.event.as_str()) {
            events.push(Event {
                audit_sequence: entry.sequence,
                audit_hash: audit_hash(&entry.hash)?,
                kind: entry.event.clone(),
                subject: entry.subject.clone(),
            });
        }
    }
    Ok((events, covered))
}

/// The hash of an entry: 64 hexadecimal digits, as the audit log makes them.
fn audit_hash(text: &str) -> Result<[u8; 32], LogError> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|_| LogError::Hash)?;
    Ok(hash)
}
