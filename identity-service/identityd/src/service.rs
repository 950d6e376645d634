//! The shell around [`edgewarden_decisions::authority`]: one transaction after the other, on disk before in force.
//!
//! Readers (callers of the Workload API, status) take the state as it is and never wait for a disk or a TPM.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use edgewarden_audit::{Audit, AuditError, Head, Query, fingerprint, folder, statement};
use edgewarden_keystore::{Keystore, KeystoreError};
use edgewarden_names::{ModuleName, Reason, Refusal, UnixTime};
use edgewarden_platform::reserve::is_behind;
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{AuditEntry, DiskReserve, Enforcer, Origin, Reply, StorageKey};
use tokio::sync::{Notify, watch};

use crate::clock::{Clock, Ration};
use crate::federation;
use crate::issuance::Issuance;
use crate::jwt::JwtAuthority;
use crate::keys::Keys;
use crate::leaf_mark::LeafMark;
use crate::leaf_renewal::Renewals;
use crate::metrics::{Metrics, Operation};
use crate::refusals::{self, From, Noted, RefusalLog};
use crate::runtime_log::{Keeper, Source};
use crate::secrets::Vault;
use crate::workload::Sockets;
use edgewarden_decisions::authority::{Authority, Context, Effect, Input, Moment};
use edgewarden_decisions::clock::Change;
use edgewarden_decisions::documents::Documents;
use edgewarden_decisions::renewal::Tick;
use edgewarden_state::Store;

pub struct Service {
    pub(crate) context: Arc<Context>,
    pub(crate) config: Config,
    pub(crate) keystore: Arc<dyn Keystore>,
    pub(crate) issuance: Issuance,
    pub(crate) jwt: JwtAuthority,
    pub(crate) federation: federation::Shown,
    pub(crate) federation_troubles: federation::Troubles,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sockets: Sockets,
    pub(crate) vault: Vault,
    pub(crate) keys: Keys,
    pub(crate) clock: Clock,
    pub(crate) leaf_renewals: Renewals,
    store: Arc<Store>,
    leaf_mark: LeafMark,
    current: RwLock<Arc<Authority>>,
    /// Whoever holds the audit log may change `current`.
    audit: Mutex<Audit>,
    refusals: Mutex<RefusalLog>,
    /// What is in force is newer than what is on disk. Changes under the audit log's lock.
    unsaved: AtomicBool,
    /// Entries of the audit log that could not be written: who asks for it does not wait for a disk.
    unwritten: AtomicU64,
    /// How often doubts of the clock, and other beliefs in the time, are written down.
    doubts_told: Mutex<Ration>,
    beliefs_told: Mutex<Ration>,
    revision: watch::Sender<u64>,
    /// One renewal at a time: the last one always sees the latest state.
    renewal: Mutex<()>,
    /// Held while a secret that the keystore seals is made or released.
    pub(crate) storage_key: Mutex<()>,
    /// Wakes the task that renews.
    pub(crate) renewal_due: Notify,
    /// `None` when the keystore has no PCRs.
    pub(crate) runtime_log: Option<Keeper>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Why the head of the audit log is not signed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SignHeadError {
    #[error("the newest entry has no hash")]
    Statement,
    #[error("the keystore does not sign")]
    Keystore(#[source] KeystoreError),
    #[error("the signed head is not stored")]
    Audit(#[source] AuditError),
}

/// What a [`Service`] is made of.
pub struct Parts {
    pub leaf_mark: LeafMark,
    pub context: Arc<Context>,
    pub config: Config,
    pub keystore: Arc<dyn Keystore>,
    pub store: Arc<Store>,
    pub authority: Authority,
    pub audit: Audit,
    pub sockets: Sockets,
    pub vault: Vault,
    pub keys: Keys,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

impl Service {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            leaf_mark,
            context,
            config,
            keystore,
            store,
            authority,
            audit,
            sockets,
            vault,
            keys,
            metrics,
            clock,
        } = parts;
        let gateway = &config.gateway;
        let runtime_log = Keeper::new(&config, &context.layout);
        let issuance = Issuance::new(
            gateway.trust_domain.clone(),
            gateway.name.clone(),
            &config.identity,
            Arc::clone(&metrics),
        );
        let now = clock.now();
        let jwt = JwtAuthority::new(&gateway.trust_domain, &gateway.name, &config.identity);
        jwt.show(&authority.documents().jwt_keys);
        Self {
            context,
            keystore,
            issuance,
            jwt,
            federation: federation::Shown::default(),
            federation_troubles: federation::Troubles::default(),
            metrics,
            sockets,
            vault,
            keys,
            clock,
            leaf_renewals: Renewals::default(),
            store,
            leaf_mark,
            current: RwLock::new(Arc::new(authority)),
            audit: Mutex::new(audit),
            refusals: Mutex::new(RefusalLog::new(now)),
            unsaved: AtomicBool::new(false),
            unwritten: AtomicU64::new(0),
            doubts_told: Mutex::new(Ration::new()),
            beliefs_told: Mutex::new(Ration::new()),
            // Above every revision of an earlier run, so that an enforcer that outlived it looks again.
            revision: watch::Sender::new(now.0.saturating_mul(1_000_000)),
            renewal: Mutex::new(()),
            storage_key: Mutex::new(()),
            renewal_due: Notify::new(),
            runtime_log,
            config,
        }
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

    /// Looks at the clocks of the machine. Blocks on the disk when another time is believed.
    pub fn look_at_clocks(&self) {
        let changes = self.clock.look(&self.current().known_of_time());
        self.time_changed(changes);
    }

    pub fn hear_time(&self, offset_millis: i64) -> Result<(), Refusal> {
        let changes = self.clock.hear(offset_millis, &self.current().known_of_time())?;
        self.time_changed(changes);
        Ok(())
    }

    pub fn accept_time(&self) -> Result<(), Refusal> {
        let changes = self.clock.accept(&self.current().known_of_time())?;
        self.time_changed(changes);
        Ok(())
    }

    fn time_changed(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            match change {
                Change::Doubted { shows, believed } => {
                    self.metrics.clock_stepped();
                    let detail = format!("it shows {shows}, {believed} is believed");
                    if let Some(detail) = self.told(&self.doubts_told, detail) {
                        tracing::warn!(%shows, %believed, "the system clock leapt and is not believed");
                        self.record(&Event::new("clock.doubted", "system clock", detail));
                    }
                }
                Change::Believed { before, now, by } => {
                    tracing::warn!(%before, %now, ?by, "another time is believed; certificates are looked at again");
                    let detail = format!("{before} before, {now} by {}", by.text());
                    let told = self.told(&self.beliefs_told, detail);
                    self.keep_time(told.map(|detail| Event::new("clock.believed", "time", detail)));
                }
                Change::Followed => {}
            }
        }
        // The other daemons are told at once, and what a false time had issued is issued anew.
        self.revision.send_modify(|revision| *revision = revision.saturating_add(1));
        self.renewal_due.notify_one();
    }

    fn told(&self, kind: &Mutex<Ration>, detail: String) -> Option<String> {
        let since_boot = self.clock.since_boot();
        kind.lock().unwrap_or_else(PoisonError::into_inner).tell(since_boot, detail)
    }

    /// Puts on disk what is believed, so that a restart believes nothing else. A disk that is full changes no belief.
    pub fn keep_time(&self, event: Option<Event>) {
        let input = Input::TimeBelieved { belief: self.clock.belief(), event };
        if let Err(refusal) = self.transact(input) {
            tracing::error!(%refusal, "what is believed of the time is not on disk");
        }
    }

    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, RefusalLog> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides one input, puts the decision on disk, then in force. Blocks on the disk.
    pub fn transact(&self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
        let decided = self.transact_unnoted(input);
        decided.inspect_err(|refusal| self.note(refusal))
    }

    /// The same, when the caller sees to it that a refusal is written down.
    pub fn transact_quietly(&self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
        self.transact_unnoted(input)
    }

    fn transact_unnoted(&self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
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
        self.jwt.show(&next.documents().jwt_keys);
        let (leaves, changes) = (Arc::clone(&before.documents().leaves), next.documents().leaves.changes());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.federation.update(&self.jwt.bundles().borrow(), &self.current());
        self.wake_runtime_log();
        if step.enforcers_look {
            self.revision.send_modify(|revision| *revision = revision.saturating_add(1));
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

    /// What `runtimed` authenticates what it keeps with.
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

    /// How much disk space is set aside, and what is not on disk.
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
            self.sockets.write_soon(event);
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

    fn wake_runtime_log(&self) {
        if let Some(keeper) = &self.runtime_log {
            keeper.due.notify_one();
        }
    }

    /// Brings the runtime log up to date. Blocks on the disk and the TPM. False when it is to be tried again.
    pub fn follow_runtime_log(&self) -> bool {
        self.runtime_log.as_ref().is_none_or(|keeper| keeper.follow(self, &*self.keystore))
    }

    /// Writes nothing more to the state, from any thread. Waits for a decision that is being written.
    pub fn close(&self) {
        self.keys.close();
        self.audit().close();
        if let Some(keeper) = &self.runtime_log {
            keeper.close();
        }
    }

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

    /// Signs the head of the audit log, if there is anything new in it. Blocks on the keystore, without the log's lock.
    pub fn sign_head(&self) -> Result<(), SignHeadError> {
        let (unsigned, (sequence, hash)) = {
            let audit = self.audit();
            (audit.signed().0, audit.tip())
        };
        if unsigned == 0 {
            return Ok(());
        }
        let (gateway, at) = (self.config.gateway.name.clone(), self.now());
        let statement = statement(&gateway, sequence, &hash, at).ok_or(SignHeadError::Statement)?;
        let signed = self.metrics.keystore(Operation::CaSign, || {
            Ok((self.keystore.ca_public()?, self.keystore.ca_sign(&statement)?))
        });
        let (point, signature) = signed.map_err(SignHeadError::Keystore)?;
        let (key, signature) = (fingerprint(&point), hex::encode(signature));
        let head = Head { gateway, sequence, hash, at, key, signature };
        self.audit().append_head(at, &head).map_err(SignHeadError::Audit)?;
        self.wake_runtime_log();
        Ok(())
    }

    pub fn refused_lately(&self) -> Vec<(UnixTime, Refusal)> {
        self.refusals().shown()
    }

    pub fn refused_strangers(&self) -> Vec<(UnixTime, Refusal)> {
        self.refusals().strangers()
    }

    /// Brings the issuing CA and all certificates up to date with the state. Blocks on the keystore.
    pub fn renew(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew_alone()
    }

    /// Gives new certificates now: to one module's instances, or to all.
    pub fn rotate(&self, module: Option<&ModuleName>) -> Result<(), Refusal> {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.issuance.rotate(module);
        if let Some(module) = module.filter(|_| count == 0) {
            return Err(Refusal::new(Reason::RequestInvalid, module, "no instance of it is live"));
        }
        self.renew_alone()
    }

    /// Sees to it that no certificate in memory is in use where the deployment wants the key in the keystore. Quick.
    pub fn keep_keys_resident(&self) {
        let authority = self.current();
        let Ok(accepted) = authority.documents().enrolment.trusted() else { return };
        self.issuance.set_resident(|module| authority.wants_resident_key(module), &accepted.bundle());
    }

    fn renew_alone(&self) -> Result<(), Refusal> {
        let authority = self.current();
        let tick = self.tick();
        let now = tick.wall;
        self.issuance.expire(now);
        if authority.documents().enrolment.trusted().is_err() {
            self.issuance.withdraw();
        }
        self.keep_keys_resident();
        let accepted = authority.documents().enrolment.may_issue(now)?;
        if self.issuance.wants_birth(accepted, tick) {
            match self.issuance.give_birth(&*self.keystore, accepted, tick) {
                Ok(event) => self.record(&event),
                // The one held, if any, goes on signing as long as it is valid.
                Err(error) => tracing::error!(error = %Chain(&error), "no new issuing certificate"),
            }
        }
        for (id, error) in self.issuance.issue_due(tick, |event| self.record(event)) {
            tracing::error!(%id, error = %Chain(&error), "no new certificate");
        }
        let jwt = self.renew_jwt_key(now);
        self.issuance.problems().into_iter().next().map_or(jwt, Err)
    }
}

impl Source for Service {
    fn after(&self, sequence: u64) -> Vec<AuditEntry> {
        let audit = self.audit();
        let new = audit.tip().0.checked_sub(sequence).unwrap_or(u64::MAX);
        audit.newest(usize::try_from(new).unwrap_or(usize::MAX))
    }

    fn complain(&self, refusal: &Refusal) {
        tracing::error!(%refusal, "the runtime log");
        self.note(refusal);
    }
}

/// 32 bytes that nobody can guess.
pub fn random() -> Result<[u8; 32], Refusal> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|error| internal("random numbers", &error))?;
    Ok(bytes)
}

/// The peer learns that; the log learns why.
pub fn internal(subject: &str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(subject, error = %Chain(error), "refused for an error of our own");
    if is_behind(error) {
        return Refusal::new(Reason::Storage, subject, "it cannot be written");
    }
    Refusal::new(Reason::Internal, subject, "see the log of identityd")
}

/// An error with its sources.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
