//! The ledger: one decision after the other, on disk before in force, and the log of them.
//!
//! Readers (callers of the Workload API, status) take the state as it is and never wait for a disk or a TPM. Features
//! have the ledger, and not what else the process is made of.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use edgewarden_audit::{Audit, AuditError, Head, Query, folder};
use edgewarden_decisions::authority::{Authority, Context, Effect, Input, Moment};
use edgewarden_decisions::documents::Documents;
use edgewarden_decisions::renewal::Tick;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::control::{AuditEntry, DiskReserve, Enforcer, Origin, Reply, StorageKey};
use edgewarden_state::Store;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::leaf_mark::LeafMark;
use crate::metrics::Metrics;
use crate::refusals::{self, From, Noted, RefusalLog};
use crate::refuse::{internal, random};

/// Refusals of callers that wait to be written down. Beyond it they are refused all the same.
const REFUSED_MAX: usize = 256;

/// Somebody who goes by what is in force without asking each time.
pub trait Follower: Send + Sync {
    /// Called within each decision once it is in force, so it is quick and asks for no decision.
    fn in_force(&self, authority: &Authority);
}

/// The state in force, its documents on disk, and the audit log: they change together.
pub struct Ledger {
    pub(crate) context: Arc<Context>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    store: Arc<Store>,
    leaf_mark: LeafMark,
    current: RwLock<Arc<Authority>>,
    /// Whoever holds the audit log may change `current`.
    audit: Mutex<Audit>,
    refusals: Mutex<RefusalLog>,
    /// `true` while the state in force is newer than that on disk. Changes under the audit log's lock.
    unsaved: AtomicBool,
    /// Entries of the audit log that could not be written: who asks for it does not wait for a disk.
    unwritten: AtomicU64,
    revision: watch::Sender<u64>,
    refused: mpsc::Sender<Event>,
    followers: Vec<Arc<dyn Follower>>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

/// The parts of a [`Ledger`].
pub struct Parts {
    pub context: Arc<Context>,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub store: Arc<Store>,
    pub leaf_mark: LeafMark,
    pub authority: Authority,
    pub audit: Audit,
}

impl Ledger {
    /// Also returns where the refusals of callers come that are to be written down.
    pub fn new(parts: Parts, followers: Vec<Arc<dyn Follower>>) -> (Self, mpsc::Receiver<Event>) {
        let Parts { context, clock, metrics, store, leaf_mark, authority, audit } = parts;
        let (refused, receiver) = mpsc::channel(REFUSED_MAX);
        let now = clock.now();
        for follower in &followers {
            follower.in_force(&authority);
        }
        let ledger = Self {
            context,
            clock,
            metrics,
            store,
            leaf_mark,
            current: RwLock::new(Arc::new(authority)),
            audit: Mutex::new(audit),
            refusals: Mutex::new(RefusalLog::new(now)),
            unsaved: AtomicBool::new(false),
            unwritten: AtomicU64::new(0),
            // Above every revision of an earlier run, so that an enforcer that outlived it looks again.
            revision: watch::Sender::new(now.0.saturating_mul(1_000_000)),
            refused,
            followers,
        };
        (ledger, receiver)
    }

    /// The state as it is now.
    pub fn current(&self) -> Arc<Authority> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The time to decide by.
    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// Both clocks.
    pub fn tick(&self) -> Tick {
        Tick { monotonic: self.clock.since_boot(), wall: self.now() }
    }

    /// The revision of the state, which rises when enforcers must look again.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Has the enforcers look again.
    pub fn revise(&self) {
        self.revision.send_modify(|revision| *revision = revision.saturating_add(1));
    }

    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, RefusalLog> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides one input, puts the decision on disk, then in force. Blocks on the disk.
    pub fn transact(&self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
        let decided = self.attempt(input);
        decided.inspect_err(|refusal| self.note(refusal))
    }

    /// The same, for a caller that notes refusals itself.
    pub fn attempt(&self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
        let mut audit = self.audit();
        if audit.is_closed() {
            return Err(Refusal::new(Reason::Busy, "identityd", "it is stopping"));
        }
        let before = self.current();
        let mut next = Authority::clone(&before);
        let moment = Moment { now: self.now(), random: random()? };
        let now = moment.now;
        let binds_at_once = input.only_takes_away();
        let step = next.decide(&moment, input)?;
        let written = self.write_down(&mut audit, now, &step.events, (before.documents(), next.documents()));
        if written.is_err() && binds_at_once {
            step.events.iter().for_each(|_| audit.lose(now));
        }
        self.unwritten.store(audit.lost(), Ordering::Relaxed);
        match written {
            Err(refusal) if !binds_at_once => return Err(refusal),
            // Nobody may keep what has been taken from them because it cannot be written: it is written when it can be.
            Err(_) => self.unsaved.store(true, Ordering::Relaxed),
            Ok(()) => self.unsaved.store(false, Ordering::Relaxed),
        }
        if matches!(step.reply, Reply::Permit(_)) {
            self.metrics.permitted();
        }
        let (leaves, changes) = (Arc::clone(&before.documents().leaves), next.documents().leaves.changes());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        let in_force = self.current();
        self.followers.iter().for_each(|follower| follower.in_force(&in_force));
        if step.enforcers_look {
            self.revise();
        }
        if leaves.changes() != changes {
            // Before anybody hears of it: a token that counted as used must not come back with an older copy of the state.
            self.leaf_mark.write(changes).map_err(|error| internal("leaf tokens", &error))?;
        }
        Ok((step.reply, step.effects))
    }

    /// Puts a decision on disk. For one that binds at once, what cannot be written is counted.
    fn write_down(
        &self,
        audit: &mut Audit,
        now: UnixTime,
        events: &[Event],
        (before, next): (&Documents, &Documents),
    ) -> Result<(), Refusal> {
        for event in events {
            audit.append(now, event).map_err(|error| internal("audit log", &error))?;
        }
        let saved =
            if self.is_unsaved() { self.store.save_all(next) } else { self.store.save_changed(next, before) };
        saved.map_err(|error| {
            let event = Event::new("state.not_stored", "identityd", &error);
            if let Err(error) = audit.append(now, &event) {
                tracing::error!(%error, "the audit log cannot be written");
            }
            internal("state", &error)
        })
    }

    /// Key that `runtimed` authenticates with what it keeps.
    pub fn record_key(&self) -> StorageKey {
        self.store.record_key()
    }

    /// Is something in force that is not on disk?
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Relaxed)
    }

    /// Fills up the disk space that is set aside. Blocks on the disk.
    pub fn refill_reserve(&self) {
        if let Some(Err(error)) = self.store.reserve().map(|reserve| reserve.refill()) {
            tracing::debug!(%error, "no disk space is set aside");
        }
        let now = self.now();
        let mut audit = self.audit();
        if let Err(error) = audit.tell_lost(now) {
            tracing::debug!(%error, "the audit log cannot be written yet");
        }
        self.unwritten.store(audit.lost(), Ordering::Relaxed);
    }

    /// Disk space that is set aside, and the state of what is not on disk.
    pub fn disk(&self) -> Option<DiskReserve> {
        let (bytes, bytes_wanted) = self.store.reserve()?.state();
        Some(DiskReserve {
            bytes,
            bytes_wanted,
            unwritten: self.unwritten.load(Ordering::Relaxed),
            unsaved: self.is_unsaved(),
        })
    }

    /// Writes down a decision that was no. Blocks on the disk.
    pub fn note(&self, refusal: &Refusal) {
        self.write_noted(&From::decision(refusal), refusal);
    }

    /// The same for a caller of one of our sockets.
    pub fn note_caller(&self, socket: &str, refusal: &Refusal) {
        self.write_noted(&From::caller(socket), refusal);
    }

    /// The same for what an enforcer refused.
    pub fn note_reported(&self, by: Enforcer, origin: &Origin, refusal: Refusal) {
        self.write_noted(&From::reported(by, origin), &refusals::by_address(origin, refusal));
    }

    fn write_noted(&self, from: &From, refusal: &Refusal) {
        if let Some(event) = self.noted(from, refusal) {
            self.record(&event);
        }
    }

    /// The same for what callers of the sockets cause, at whatever rate: the few refusals that are written wait for a task
    /// to do it. A thread for each refusal would make a noisy caller fill the process with threads.
    pub fn note_soon(&self, socket: &str, refusal: &Refusal) {
        if let Some(event) = self.noted(&From::caller(socket), refusal) {
            self.write_soon(event);
        }
    }

    /// Counts a refusal. The event to write down, if it is to be.
    fn noted(&self, from: &From, refusal: &Refusal) -> Option<Event> {
        self.metrics.refused(refusal.reason);
        let now = self.now();
        let noted = self.refusals().note(now, from, refusal);
        let Noted::Write { refusal, suppressed } = noted else { return None };
        let more = match suppressed {
            0 => String::new(),
            count => format!(" ({count} more refusals of this kind of peer were not written)"),
        };
        let detail = format!("{}: {}{more}", refusal.reason, refusal.rule);
        Some(Event::new("refused", &refusal.subject, detail))
    }

    /// Writes an event down whose effect does not wait for it: a full disk must not take certificates from what runs.
    pub fn record(&self, event: &Event) {
        let now = self.now();
        let mut audit = self.audit();
        if let Err(error) = audit.append(now, event) {
            audit.lose(now);
            tracing::error!(%error, event = event.kind, subject = event.subject, "the audit log cannot be written");
        }
        self.unwritten.store(audit.lost(), Ordering::Relaxed);
    }

    fn write_soon(&self, event: Event) {
        // A full queue loses the note, not the refusal.
        if let Err(mpsc::error::TrySendError::Full(event) | mpsc::error::TrySendError::Closed(event)) =
            self.refused.try_send(event)
        {
            let (subject, detail) = (event.subject, event.detail);
            tracing::warn!(subject, detail, "a refused caller was not written to the audit log");
        }
    }

    /// Writes nothing more. Waits for a decision that is being written.
    pub fn close(&self) {
        self.audit().close();
    }

    /// The newest `count` entries of the audit log, oldest first.
    pub fn audit_newest(&self, count: usize) -> Vec<AuditEntry> {
        self.audit().newest(count)
    }

    /// The newest entries that a query picks. Blocks on the disk when they are no longer in memory.
    pub fn audit_query(&self, query: &Query) -> Result<Vec<AuditEntry>, folder::FolderError> {
        let (newest, path) = {
            let audit = self.audit();
            (audit.newest(usize::MAX), audit.folder().to_owned())
        };
        let oldest = newest.first();
        let complete = oldest
            .is_none_or(|oldest| oldest.sequence == 1 || query.since.is_some_and(|since| oldest.at < since));
        let picked: Vec<_> = newest.into_iter().filter(|entry| query.picks(entry)).collect();
        if complete || picked.len() >= query.last {
            return Ok(picked.into_iter().rev().take(query.last).rev().collect());
        }
        folder::query(&path, query)
    }

    /// Number of the newest entry, how many no head covers, and the newest that one covers.
    pub fn audit_state(&self) -> (u64, u64, u64) {
        let audit = self.audit();
        let (unsigned, signed) = audit.signed();
        (audit.tip().0, unsigned, signed)
    }

    /// The newest entry and its hash, unless a signed head covers it.
    pub fn head_to_sign(&self) -> Option<(u64, String)> {
        let audit = self.audit();
        (audit.signed().0 > 0).then(|| audit.tip())
    }

    /// Writes down a signed head. Blocks on the disk.
    pub fn put_head(&self, at: UnixTime, head: &Head) -> Result<(), AuditError> {
        self.audit().append_head(at, head)
    }

    /// Latest refusals but those of strangers, oldest first.
    pub fn refused_lately(&self) -> Vec<(UnixTime, Refusal)> {
        self.refusals().shown()
    }

    /// Latest refusals of strangers, oldest first.
    pub fn refused_strangers(&self) -> Vec<(UnixTime, Refusal)> {
        self.refusals().strangers()
    }

    /// Entries of the audit log after that one which are remembered, oldest first; all, if the log ends before it.
    pub fn entries_after(&self, sequence: u64) -> Vec<AuditEntry> {
        let audit = self.audit();
        let new = audit.tip().0.checked_sub(sequence).unwrap_or(u64::MAX);
        audit.newest(usize::try_from(new).unwrap_or(usize::MAX))
    }
}
