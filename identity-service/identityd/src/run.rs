//! From configuration to a serving process, and its end.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_audit::{Audit, AuditError};
use edgewarden_ca::{CaError, spki};
use edgewarden_decisions::authority::{Authority, Context, Input};
use edgewarden_decisions::clock::Known;
use edgewarden_decisions::deployments::Target;
use edgewarden_decisions::documents::Documents;
use edgewarden_decisions::enrolment::Expected;
use edgewarden_decisions::records::still_lives;
use edgewarden_decisions::site::Site;
use edgewarden_est::{ANCHORS_BYTES_MAX, TrustAnchors};
use edgewarden_keystore::{Keystore, KeystoreError};
use edgewarden_metrics::door;
use edgewarden_names::{ErrorChain, Reason, Refusal, pem};
use edgewarden_platform::kept_socket::{Change, Kept};
use edgewarden_platform::operator_file::{self, Secrecy};
use edgewarden_platform::reserve::Reserve;
use edgewarden_platform::{durable, landlock, memory, process, seccomp, users};
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::config::{Config, Fleet};
use edgewarden_protocol::document::{DocumentSet as _, Texts};
use edgewarden_protocol::dsse::VerifyingKey;
use edgewarden_protocol::est::EstConfig;
use edgewarden_protocol::layout::Layout;
use edgewarden_state::{StateError, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::clock::{Clock, Kernel, TimeSource};
use crate::keys::{self, Keys};
use crate::leaf_mark::LeafMark;
use crate::ledger;
use crate::refuse::internal;
use crate::runtime_log::{INTERVAL, RETRY};
use crate::secrets::Vault;
use crate::service::{Parts, Service};
use crate::sockets::{self, GATEWAYD, ROOT_UID, RUNTIMED, Sockets};
use crate::{boot, confine, control, jwt, metrics, requests, workload};

/// The user that `gatewayd` runs as.
const GATEWAY_USER: &str = "ew-gateway";
const SOCKET_MODE: u32 = 0o666;
const STATE_FOLDER_MODE: u32 = 0o700;
const RUN_FOLDER_MODE: u32 = 0o755;
/// Largest file of a pinned certificate or key.
const PEM_BYTES_MAX: usize = 64 * 1024;
/// Interval at which instances are looked after whose end nobody reported.
const PROCESS_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest silence after which this process may have slept.
const SLEPT_MIN: Duration = Duration::from_secs(10);
/// Interval at which uses of resident keys are written to the audit log.
const KEY_USE_INTERVAL: Duration = Duration::from_secs(60);
/// The head of the audit log is signed after so many entries, or so long after the first that is not covered.
const HEAD_ENTRIES: u64 = 256;
const HEAD_INTERVAL: Duration = Duration::from_secs(600);
/// Interval at which is looked whether it is due.
const HEAD_LOOK: Duration = Duration::from_secs(5);
const HEAD_RETRY: Duration = Duration::from_secs(60);
/// Longest time that the last head may keep the process from ending.
const LAST_HEAD: Duration = Duration::from_secs(5);
/// Disk space that is set aside: what the audit log may still grow by, and the documents.
const RESERVE_BYTES: u64 = 24 * 1024 * 1024;
/// Interval at which is looked whether it can be filled up again.
const REFILL_INTERVAL: Duration = Duration::from_secs(10);
/// Longest sleep between renewals, should anything have changed without a word.
const RENEWAL_INTERVAL_MAX: Duration = Duration::from_secs(30);
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Error of a process that cannot start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot use the folder `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("another identityd has the state in `{}` open; end it first", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot take up the resident keys")]
    Keys(#[from] keys::OpenError),
    #[error("cannot open the keystore")]
    Keystore(#[from] KeystoreError),
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is not what the configuration says: {source}", path.display())]
    Pinned { path: PathBuf, source: CaError },
    #[error("cannot make the socket `{}`", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot confine the process")]
    Harden(#[source] io::Error),
    #[error("cannot confine the process to its files")]
    Files(#[from] landlock::ConfineError),
    #[error("cannot confine the process to its system calls")]
    SystemCalls(#[from] seccomp::SeccompError),
    #[error("cannot ask the system about users, signals or this process")]
    System(#[source] io::Error),
    #[error("the site's CA is not configured well")]
    Site(#[from] Refusal),
    #[error("the process's thread ended")]
    Thread,
}

/// Runs until SIGTERM. Takes rights from the whole process: nothing else may run in it. Landlock binds the calling thread
/// and its descendants, so that is the process's only thread, and all others descend from it; who has others already
/// (a test) keeps them unconfined.
pub fn run(layout: &Layout, config: Config) -> Result<(), RunError> {
    confine::harden_process().map_err(RunError::Harden)?;
    memory::share_heaps();
    confine::lock_memory();
    make_folders(layout)?;
    confine::files(layout, &config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(RunError::System)?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).map_err(RunError::System)?;
        let gateway = users::lookup(GATEWAY_USER).map_err(RunError::System)?;
        let daemon = Daemon::open(layout.clone(), config, gateway.map(|user| user.uid)).await?;
        confine::system_calls(&daemon.service.config)?;
        tracing::info!(gateway = %daemon.service.ledger.context.target.gateway, "identityd serves");
        let stopped = async {
            stop.recv().await;
        };
        daemon.serve_until(stopped).await;
        Ok(())
    })
}

/// Everything open, nothing served yet.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) service: Arc<Service>,
    control: Kept,
    metrics: Kept,
    refused: mpsc::Receiver<Event>,
    gateway_uid: Option<u32>,
    lock: Lock,
}

impl Daemon {
    /// Opens state, keystore and sockets, and takes up the instances that outlived the last run. `gateway_uid` is the
    /// user of `gatewayd`; without one nobody has its rights.
    pub async fn open(layout: Layout, config: Config, gateway_uid: Option<u32>) -> Result<Self, RunError> {
        Self::open_by(layout, config, gateway_uid, Arc::new(Kernel)).await
    }

    /// The same, by other clocks than the machine's.
    pub async fn open_by(
        layout: Layout,
        config: Config,
        gateway_uid: Option<u32>,
        time: Arc<dyn TimeSource>,
    ) -> Result<Self, RunError> {
        make_folders(&layout)?;
        let lock = lock(&layout)?;
        let opened = tokio::task::spawn_blocking(move || open_parts(layout, config, time)).await;
        let (parts, set_aside) = opened.map_err(|_| RunError::Thread)??;
        let (service, refused) = Service::new(parts);
        let service = Arc::new(service);
        for refusal in &set_aside {
            tracing::error!(%refusal, "what was in force before no longer holds under this configuration");
            service.ledger.note(refusal);
        }
        let keeping = Arc::clone(&service);
        let kept = tokio::task::spawn_blocking(move || {
            keeping.look_at_clocks();
            keeping.keep_time(None);
        });
        kept.await.map_err(|_| RunError::Thread)?;
        take_up(&service, gateway_uid)?;
        let renewing = Arc::clone(&service);
        let renewed = tokio::task::spawn_blocking(move || renewing.renew()).await;
        // Without a certificate everything else still works; the renewal goes on trying.
        log_renewal(&renewed.map_err(|_| RunError::Thread)?, &mut None);
        let path = service.ledger.context.layout.control_socket();
        let control = Kept::bind(path.clone(), SOCKET_MODE, "of a daemon or the command line")
            .map_err(|source| RunError::Socket { path, source })?;
        let path = service.ledger.context.layout.identity_run();
        let metrics = door::open(&path).map_err(|source| RunError::Socket { path, source })?;
        service.ledger.record(&Event::new(
            "identityd.started",
            &service.ledger.context.target.gateway,
            service.keystore.describe().text,
        ));
        Ok(Self { service, control, metrics, refused, gateway_uid, lock })
    }

    /// Serves until the future is dropped. Nothing is written afterwards: the next run may open the state.
    pub async fn serve(self) {
        self.serve_until(std::future::pending()).await;
    }

    /// Serves until `stop` resolves, then says its last words.
    async fn serve_until(self, stop: impl Future<Output = ()>) {
        let Self { service, control, metrics, mut refused, gateway_uid, lock } = self;
        // Given back after the state is closed.
        let _lock = lock;
        let _closing = Closing(Arc::clone(&service));
        let changed = |path: &Path, change: Change| workload::file_changed(&service, path, &change);
        let watched = Arc::new(metrics::Watched {
            ledger: Arc::clone(&service.ledger),
            issuance: Arc::clone(&service.issuance),
            keys: Arc::clone(&service.keys),
            keystore: Arc::clone(&service.keystore),
        });
        tokio::select! {
            () = control::serve(Arc::clone(&service), control, gateway_uid) => {}
            () = door::serve(metrics, Arc::new(metrics::Told(watched)), changed) => {}
            () = renew_in_time(&service) => {}
            () = sign_heads(&service) => {}
            () = follow_runtime_log(&service) => {}
            () = look_after_processes(&service, gateway_uid) => {}
            () = confine::let_go_of_memory() => {}
            () = count_key_uses(&service) => {}
            () = refill_reserve(&service) => {}
            () = write_refused(&service, &mut refused) => {}
            () = jwt::write_down(&service.ledger, &service.jwt) => {}
            () = stop => {}
        }
        tokio::join!(last_words(&service, refused), service.sockets.close());
    }
}

/// Closes the state when it is dropped: work that a blocking thread still does then comes to nothing.
struct Closing(Arc<Service>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Given back at once when it is dropped. Closing the file alone would not: a child that another thread has just forked
/// has the same open file until it runs its program.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the lock of the state is given back by the end of the process only");
        }
    }
}

/// One process for one state: two would each put the other's decisions out of force. The kernel gives the lock back
/// when the process ends, however it ends.
fn lock(layout: &Layout) -> Result<Lock, RunError> {
    let path = layout.identity_lock();
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| RunError::Folder { path, source })?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(RunError::InUse(layout.identity_state())),
        Err(TryLockError::Error(source)) => Err(RunError::Folder { path: layout.identity_state(), source }),
    }
}

fn make_folders(layout: &Layout) -> Result<(), RunError> {
    for (path, mode) in
        [(layout.identity_state(), STATE_FOLDER_MODE), (layout.identity_run(), RUN_FOLDER_MODE)]
    {
        if path.is_dir() {
            // Made by who starts the daemons, with the owner and mode that they gave it.
            continue;
        }
        std::fs::create_dir_all(&path)
            .and_then(|()| sockets::set_mode(&path, mode))
            .map_err(|source| RunError::Folder { path: path.clone(), source })?;
    }
    Ok(())
}

/// All documents, as a new state begins with. The keys' index is one of them, and is written by itself.
pub(crate) fn first_documents() -> serde_json::Result<Texts> {
    let mut first = Documents::default().texts(None)?;
    first.put(&keys::Index::default())?;
    Ok(first)
}

type Opened = (Parts, Vec<Refusal>);

fn open_parts(layout: Layout, config: Config, time: Arc<dyn TimeSource>) -> Result<Opened, RunError> {
    let folder = layout.identity_state();
    durable::sweep(&folder).map_err(|source| RunError::Folder { path: folder.clone(), source })?;
    let (reserve, claimed) = Reserve::claim(&folder, RESERVE_BYTES);
    if let Err(error) = claimed {
        tracing::warn!(%error, "no disk space is set aside: on a full disk nothing can be decided");
    }
    let reserve = Arc::new(reserve);
    // Before the documents: it has the key that proves them. Without it nothing could be signed either.
    let keystore = edgewarden_keystore::open(&config.keystore, &folder)?;
    let first = first_documents().map_err(|error| RunError::System(error.into()))?;
    let store = Arc::new(Store::open(&folder, &first, &&*keystore, Some(Arc::clone(&reserve)))?);
    let mut documents = Documents::load(&*store)?;
    let known = Known {
        enrolled: documents.enrolment.accepted.is_some(),
        floor: documents.clock.floor,
        signed: documents.clock.signed,
    };
    let booted = time.boot_id();
    let belief = documents.clock.belief.clone().filter(|belief| Some(&belief.boot) == booted.as_ref());
    let clock = Clock::new(time, &known, belief.as_ref());
    let mut audit = Audit::open_reserved(&folder, clock.now(), reserve)?;
    if store.is_new() && audit.tip().0 > 0 {
        tracing::warn!("there was a log and no state: the state is made anew");
        let event =
            Event::new("state.made_anew", &config.gateway.name, "its documents were gone, all of them");
        audit.append(clock.now(), &event)?;
    }
    let metrics = Arc::new(metrics::Metrics::default());
    let keys = Keys::open(&config, Arc::clone(&keystore), Arc::clone(&metrics), Arc::clone(&store), &folder)?;
    let own_cgroup = i32::try_from(std::process::id())
        .map_err(io::Error::other)
        .and_then(process::cgroup)
        .map_err(RunError::System)?;
    let expected = config.fleet.as_ref().map(|fleet| expected(&config, fleet, &*keystore)).transpose()?;
    let site = config.est.as_ref().map(|est| site(&config, est, &*keystore)).transpose()?;
    let operators = operator_keys(config.operator_keys())?;
    let target = Target {
        gateway: config.gateway.name.clone(),
        trust_domain: config.gateway.trust_domain.clone(),
        labels: config.gateway.labels.clone(),
        operators,
    };
    let boot = process::boot().map_err(RunError::System)?;
    let leaf_mark = LeafMark::new(&layout.identity_run(), &boot);
    let (leaves, lost_tokens) = documents.leaves.of_run(&boot, leaf_mark.read(), clock.now());
    documents.leaves = Arc::new(leaves);
    let measured_boot = boot::measured(&*keystore);
    let context =
        Arc::new(Context { layout: layout.clone(), target, expected, site, own_cgroup, boot, measured_boot });
    let vault = Vault::open(&folder, &documents.secrets)
        .map_err(|source| RunError::Folder { path: folder.clone(), source })?;
    let (authority, mut set_aside) = Authority::recover(Arc::clone(&context), documents);
    set_aside.extend(lost_tokens.iter().map(|leaf| {
        Refusal::new(
            Reason::LeafToken,
            leaf,
            "its unused token is older than the machine's last start, or came back with a backup",
        )
    }));
    let sockets = Sockets::new(layout);
    let ledger = ledger::Parts { context, clock, metrics, store, leaf_mark, authority, audit };
    let parts = Parts { ledger, config, keystore, sockets, vault, keys };
    Ok((parts, set_aside))
}

fn expected(config: &Config, fleet: &Fleet, keystore: &dyn Keystore) -> Result<Expected, RunError> {
    Ok(Expected {
        gateway: config.gateway.name.clone(),
        trust_domain: config.gateway.trust_domain.clone(),
        root: read_pem(&fleet.root, pem::CERTIFICATE)?,
        ca_public: keystore.ca_public()?,
    })
}

fn site(config: &Config, est: &EstConfig, keystore: &dyn Keystore) -> Result<Site, RunError> {
    let gateway = &config.gateway;
    let ca_public = keystore.ca_public()?;
    let refuse = |error| Refusal::new(Reason::EstConfig, "trust anchors", error);
    let file = operator_file::read(&est.trust_anchors, ANCHORS_BYTES_MAX, Secrecy::Public).map_err(refuse)?;
    let anchors = TrustAnchors::parse(&file)?;
    Ok(Site::new(est.url.clone(), anchors, gateway.name.clone(), gateway.trust_domain.clone(), ca_public)?)
}

fn operator_keys(paths: &[PathBuf]) -> Result<Vec<VerifyingKey>, RunError> {
    let one = |path: &PathBuf| {
        let point = spki::point(&read_pem(path, pem::PUBLIC_KEY)?)
            .map_err(|source| RunError::Pinned { path: path.clone(), source })?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(VerifyingKey { name, point })
    };
    paths.iter().map(one).collect()
}

fn read_pem(path: &PathBuf, label: &str) -> Result<Vec<u8>, RunError> {
    let read = |path: &PathBuf| {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let bytes = durable::read(path, PEM_BYTES_MAX)?.ok_or_else(missing)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    };
    let text = read(path).map_err(|source| RunError::Read { path: path.clone(), source })?;
    pem::one(&text, label).map_err(|error| RunError::Pinned { path: path.clone(), source: error.into() })
}

/// Binds the sockets again of the instances that still live, at the paths that their containers have mounted, and
/// forgets the others.
fn take_up(service: &Arc<Service>, gateway_uid: Option<u32>) -> Result<(), RunError> {
    let state = service.ledger.current();
    let records = &state.documents().records;
    let mut gone = Vec::new();
    let folder = |source| RunError::Folder { path: service.ledger.context.layout.identity_run(), source };
    service.sockets.sweep(|name| records.get(name).is_some()).map_err(folder)?;
    for record in records.iter() {
        let seen = sockets::look_at(record.pid).ok().map(|(seen, _)| seen);
        let begun = still_lives(record, seen.as_ref()).then(|| {
            workload::bind_instance(service, &record.instance, &record.module)?;
            workload::begin(service, record)
        });
        match begun {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(%error, instance = record.instance, "an instance cannot be taken up again");
                gone.push(record.instance.clone());
            }
            None => gone.push(record.instance.clone()),
        }
    }
    for (name, uid, dns) in [(RUNTIMED, Some(ROOT_UID), &[][..]), (GATEWAYD, gateway_uid, &["gateway"][..])] {
        let path = service.ledger.context.layout.workload_socket(name);
        workload::bind_own(service, name, uid).map_err(|source| RunError::Socket { path, source })?;
        workload::begin_own(service, name, dns);
    }
    forget(service, gone);
    let state = service.ledger.current();
    for untrusted in state.documents().records.iter().filter_map(|record| state.distrusts(record)) {
        tracing::error!(refusal = %untrusted.refusal, instance = untrusted.record.instance, then = %untrusted.then, "an instance runs that nobody vouches for");
        service.ledger.note(&untrusted.refusal);
    }
    Ok(())
}

/// Takes instances whose process is gone out of the state, at start when nobody is served yet.
fn forget(service: &Arc<Service>, gone: Vec<String>) {
    for instance in &gone {
        service.issuance.end(instance);
        if let Err(error) = service.sockets.remove(instance) {
            tracing::error!(%error, instance, "cannot remove the workload socket");
        }
    }
    if !gone.is_empty()
        && let Err(refusal) = service.ledger.transact(Input::Tick { gone })
    {
        tracing::error!(%refusal, "instances that are gone could not be forgotten");
    }
}

/// Keeps certificates fresh. A certificate that cannot be renewed stays in use until it expires.
async fn renew_in_time(service: &Arc<Service>) {
    let mut logged = None;
    loop {
        let renewing = Arc::clone(service);
        let renewed = match tokio::task::spawn_blocking(move || renewing.renew()).await {
            Ok(renewed) => renewed,
            Err(error) => Err(internal("renewal", &error)),
        };
        log_renewal(&renewed, &mut logged);
        let pause = match &renewed {
            // These end by a request, which wakes us.
            Err(refusal) if matches!(refusal.reason, Reason::AttestRequired | Reason::AttestFailed) => {
                RENEWAL_INTERVAL_MAX
            }
            _ => {
                let wake = service.issuance.wake(service.ledger.tick());
                wake.unwrap_or(RENEWAL_INTERVAL_MAX).clamp(RENEWAL_INTERVAL_MIN, RENEWAL_INTERVAL_MAX)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = service.renewal_due.notified() => {}
        }
    }
}

/// Says once why nothing is issued, however often it is tried.
fn log_renewal(renewed: &Result<(), Refusal>, logged: &mut Option<Refusal>) {
    let refusal = renewed.as_ref().err();
    if let Some(refusal) = refusal.filter(|refusal| logged.as_ref() != Some(refusal)) {
        tracing::warn!(%refusal, "certificates are not renewed");
    }
    *logged = refusal.cloned();
}

/// Notices instances that ended without a word, permits that nobody used, sockets that somebody removed, and the passing of
/// time.
async fn look_after_processes(service: &Arc<Service>, gateway_uid: Option<u32>) {
    let mut ticks = tokio::time::interval(PROCESS_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut awake = service.ledger.clock.since_boot();
    loop {
        ticks.tick().await;
        // Timers stand still while the machine sleeps; certificates do not.
        let before = std::mem::replace(&mut awake, service.ledger.clock.since_boot());
        if awake.saturating_sub(before) >= SLEPT_MIN {
            service.renewal_due.notify_one();
        }
        workload::restore(service, gateway_uid);
        let looking = Arc::clone(service);
        if let Err(error) = tokio::task::spawn_blocking(move || looking.look_at_clocks()).await {
            tracing::error!(%error, "the clocks were not looked at");
        }
        let gone = service.sockets.exited();
        if gone.is_empty()
            && !service.ledger.is_unsaved()
            && !service.ledger.current().tick_is_due(service.ledger.now())
        {
            continue;
        }
        if let Err(refusal) = requests::decide(service, Input::Tick { gone }).await {
            tracing::error!(%refusal, "the state could not be brought up to date");
        }
    }
}

/// Signs the head of the audit log at intervals: soon after the start, then by number of entries or by time.
async fn sign_heads(service: &Arc<Service>) {
    let mut covered = Instant::now().checked_sub(HEAD_INTERVAL);
    loop {
        let (_, unsigned, _) = service.ledger.audit_state();
        let long_ago = covered.is_none_or(|covered| covered.elapsed() >= HEAD_INTERVAL);
        let mut pause = HEAD_LOOK;
        if unsigned >= HEAD_ENTRIES || (unsigned > 0 && long_ago) {
            if sign_head(service).await {
                covered = Some(Instant::now());
            } else {
                pause = HEAD_RETRY;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn sign_head(service: &Arc<Service>) -> bool {
    let signing = Arc::clone(service);
    match tokio::task::spawn_blocking(move || signing.sign_head()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            service.ledger.metrics.head_failed();
            tracing::error!(error = %ErrorChain(&error), "the head of the audit log is not signed");
            false
        }
        Err(error) => {
            tracing::error!(%error, "the head of the audit log is not signed");
            false
        }
    }
}

/// Extends what happened into the PCR. Without a TPM there is nothing to do, for ever.
async fn follow_runtime_log(service: &Arc<Service>) {
    let Some(keeper) = &service.runtime_log else { return std::future::pending().await };
    loop {
        let pause = if follow_runtime_log_once(service).await { INTERVAL } else { RETRY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = keeper.due.notified() => {}
        }
    }
}

async fn follow_runtime_log_once(service: &Arc<Service>) -> bool {
    let following = Arc::clone(service);
    let followed = tokio::task::spawn_blocking(move || following.follow_runtime_log()).await;
    followed.unwrap_or_else(|error| {
        tracing::error!(%error, "the runtime log is not written");
        false
    })
}

/// Writes the last refusals and the last head before the process ends.
async fn last_words(service: &Arc<Service>, mut refused: mpsc::Receiver<Event>) {
    let stopping = Arc::clone(service);
    let words = async {
        let told = tokio::task::spawn_blocking(move || {
            while let Ok(event) = refused.try_recv() {
                stopping.ledger.record(&event);
            }
            keys::write_uses(&stopping.ledger, &stopping.keys);
            stopping.ledger.record(&Event::new(
                "identityd.stopped",
                &stopping.ledger.context.target.gateway,
                "",
            ));
        });
        // Nobody is left to hear of it.
        drop(told.await);
        sign_head(service).await;
        follow_runtime_log_once(service).await
    };
    if tokio::time::timeout(LAST_HEAD, words).await.is_err() {
        tracing::warn!("the keystore is too slow to sign the last head of the audit log");
    }
}

/// Sets disk space aside again that was needed.
async fn refill_reserve(service: &Arc<Service>) {
    let mut ticks = tokio::time::interval(REFILL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let service = Arc::clone(service);
        if let Err(error) = tokio::task::spawn_blocking(move || service.ledger.refill_reserve()).await {
            tracing::error!(%error, "no disk space is set aside");
        }
    }
}

/// Writes down what resident keys were used for.
async fn count_key_uses(service: &Arc<Service>) {
    let mut ticks = tokio::time::interval(KEY_USE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let service = Arc::clone(service);
        let written =
            tokio::task::spawn_blocking(move || keys::write_uses(&service.ledger, &service.keys)).await;
        if let Err(error) = written {
            tracing::error!(%error, "uses of resident keys were not written down");
        }
    }
}

/// Writes down which callers were refused, as far as [`ledger::Ledger::note_soon`] wants it.
async fn write_refused(service: &Arc<Service>, refused: &mut mpsc::Receiver<Event>) {
    while let Some(event) = refused.recv().await {
        let service = Arc::clone(service);
        let written = tokio::task::spawn_blocking(move || service.ledger.record(&event)).await;
        if let Err(error) = written {
            tracing::error!(%error, "a refused caller was not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_given_back_while_a_child_still_has_its_file() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        make_folders(&layout).unwrap();
        let held = lock(&layout).unwrap();
        assert!(matches!(lock(&layout), Err(RunError::InUse(_))));
        // What fork(2) makes of an open file.
        let _child = held.0.try_clone().unwrap();
        drop(held);
        assert!(lock(&layout).is_ok());
    }
}
