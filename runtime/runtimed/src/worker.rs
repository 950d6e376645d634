//! The life of one module: started, watched, started again after its backoff, updated, stopped when told.
//!
//! An update leaves what runs alone until the new revision is permitted, unpacked and prepared. The old one stays the way
//! back until the new one has run for as long as `runtime.update_probation_seconds` says: a new revision that does not
//! start, or ends too often before that, is given up until the deployment says something else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::deployment::{Module, Restart};
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::{ModuleState, ModuleUpdate};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::addresses::Place;
use crate::context::Context;
use crate::images::{self, Ready};
use crate::instance::{self, Exit, Instance, Prepared};
use crate::metrics::Update;
use crate::restarts::Restarts;
use crate::secrets;

const ENDED_BYTES_MAX: usize = 1024 * 1024;
/// A start that was refused for what the image or the gateway is, is tried again this late, or when something changed.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A new revision that ended this often before it had proven itself is given up.
const EARLY_ENDS_MAX: u32 = 3;
/// Wait before `identityd`, which did not hear that a revision has proven itself, is told again.
const PROVE_AGAIN: Duration = Duration::from_secs(5);

/// The revision that a module is to be, and the one that it was before, while that is the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub target: Module,
    pub fallback: Option<Module>,
}

/// The state that the supervisor wants of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Orders {
    stop: bool,
    /// Rises when what refused a start may have changed.
    attempt: u64,
    /// The count of changes of secrets that is in force.
    secrets: u64,
    plan: Arc<Plan>,
}

/// A module that is to run. Dropping it leaves the module running and unwatched.
#[derive(Debug)]
pub struct Worker {
    orders: watch::Sender<Orders>,
    running: watch::Receiver<Option<Digest>>,
    task: JoinHandle<()>,
}

impl Worker {
    /// `adopted` runs already.
    pub fn spawn(context: Arc<Context>, plan: Plan, place: Place, adopted: Option<Instance>) -> Self {
        let plan = Arc::new(plan);
        let first = Orders { stop: false, attempt: 0, secrets: 0, plan: Arc::clone(&plan) };
        let (orders, told) = watch::channel(first);
        let image = adopted.as_ref().map(|instance| instance.record.module.image.digest().clone());
        let (runs, running) = watch::channel(image);
        let life = Life {
            status: ModuleStatus {
                name: plan.target.name.clone(),
                image: plan.target.image.to_string(),
                state: ModuleState::Starting,
                generation: None,
                instance: None,
                pid: None,
                address: Some(place.address),
                restarts: 0,
                reason: None,
                update: None,
            },
            context,
            plan,
            place,
            told,
            runs,
            backoff: Restarts::default(),
            update_backoff: Restarts::default(),
            delivered: None,
            on_target: false,
            given_up: false,
            early_ends: 0,
            ended: None,
            update: (ModuleState::Pulling, None),
            put_off: None,
            prepared: None,
        };
        Self { orders, running, task: tokio::spawn(life.run(adopted)) }
    }

    /// Tries again now, if a start was refused.
    pub fn retry(&self) {
        self.orders.send_modify(|orders| orders.attempt = orders.attempt.wrapping_add(1));
    }

    /// Secrets may have changed, if the count has.
    pub fn secrets(&self, changes: u64) {
        self.orders.send_if_modified(|orders| {
            let news = orders.secrets != changes;
            orders.secrets = changes;
            news
        });
    }

    /// Sets the revisions that the module is to be from now on, which may be those that it has.
    pub fn plan(&self, plan: Plan) {
        self.orders.send_if_modified(|orders| {
            let news = *orders.plan != plan;
            if news {
                orders.plan = Arc::new(plan);
            }
            news
        });
    }

    /// The image of the instance that runs.
    pub fn image(&self) -> Option<Digest> {
        self.running.borrow().clone()
    }

    /// Stops the module and cleans up. Returns when that is done.
    pub async fn stop(self) {
        self.orders.send_modify(|orders| orders.stop = true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a worker ended early");
        }
    }
}

struct Life {
    context: Arc<Context>,
    plan: Arc<Plan>,
    place: Place,
    told: watch::Receiver<Orders>,
    /// The image of what runs.
    runs: watch::Sender<Option<Digest>>,
    status: ModuleStatus,
    backoff: Restarts,
    /// Wait between attempts at an update: what runs is not made to wait for them.
    update_backoff: Restarts,
    /// The count of changes of secrets that the running instance has seen.
    delivered: Option<u64>,
    /// The target has been started and not given up.
    on_target: bool,
    /// The target was tried in vain; it is not tried again while there is something else to run.
    given_up: bool,
    early_ends: u32,
    /// The revision that ended for good: the way back does not lead there.
    ended: Option<Module>,
    /// The target's state while something else runs.
    update: (ModuleState, Option<Refusal>),
    /// The time of the next try at the target, after what was prepared could not be started for a reason that passes.
    put_off: Option<Instant>,
    /// The target, prepared while something else ran.
    prepared: Option<Prepared>,
}

/// Cause of the end of watching an instance.
enum End {
    Exited(Exit),
    Stopped,
    /// Its successor is prepared.
    Replaced,
    /// It is no longer confined as it was started.
    Altered(Refusal),
}

impl Life {
    async fn run(mut self, mut adopted: Option<Instance>) {
        if let Some((module, reason)) = self.ended_before() {
            let target = module == self.plan.target;
            self.ended = Some(module);
            if target && adopted.is_none() {
                self.show(ModuleState::Stopped, Some(reason));
                self.wait_for_other_plan().await;
            }
        }
        while !self.told.borrow().stop {
            self.follow_plan();
            let instance = match adopted.take() {
                Some(instance) => instance,
                None => match self.start().await {
                    Ok(Some(instance)) => instance,
                    // Another order came first.
                    Ok(None) => continue,
                    Err(refusal) => {
                        self.refused(refusal).await;
                        continue;
                    }
                },
            };
            let module = instance.record.module.clone();
            if let Some(reason) = self.watch(instance).await {
                self.keep_ended(module, &reason);
                self.show(ModuleState::Stopped, Some(reason));
                self.wait_for_other_plan().await;
            }
        }
        if let Some(prepared) = self.prepared.take() {
            instance::abandon(&self.context, prepared).await;
        }
        self.forget_ended();
        self.context.board.remove_module(&self.plan.target.name);
    }

    /// Takes up the newest order about what the module is to be. True when that is something else than before.
    fn follow_plan(&mut self) -> bool {
        let plan = Arc::clone(&self.told.borrow_and_update().plan);
        let changed = plan.target != self.plan.target;
        self.plan = plan;
        if changed {
            self.on_target = false;
            self.given_up = false;
            self.early_ends = 0;
            self.update_backoff = Restarts::default();
            self.update = (ModuleState::Pulling, None);
            self.put_off = None;
            if self.ended.take_if(|ended| *ended == self.plan.target).is_some() {
                // It is wanted anew.
                self.forget_ended();
            }
        }
        changed
    }

    /// Starts what was prepared, or else what is to run, or was. `None` when another order came first.
    async fn start(&mut self) -> Result<Option<Instance>, Refusal> {
        if let Some(prepared) = self.prepared.take() {
            if *prepared.module() == self.plan.target {
                match self.start_prepared(prepared).await {
                    Err(refusal) if self.plan.fallback.is_some() && is_no_fault_of_the_target(&refusal) => {
                        self.put_off(refusal);
                    }
                    Err(refusal) if self.plan.fallback.is_some() => {
                        self.context.metrics.start_refused(refusal.reason);
                        self.give_up(refusal);
                    }
                    started => return started.map(Some),
                }
            } else {
                instance::abandon(&self.context, prepared).await;
            }
        }
        let target = self.plan.target.clone();
        let fallback = self.plan.fallback.clone().filter(|fallback| self.ended.as_ref() != Some(fallback));
        let Some(fallback) = fallback else { return self.start_module(&target).await };
        // What has not run before comes as an update to what has: that one is on disk and needs nobody.
        let order =
            if self.on_target && !self.given_up { [&target, &fallback] } else { [&fallback, &target] };
        let mut refused = None;
        for module in order {
            match self.start_module(module).await {
                Err(refusal) => {
                    tracing::warn!(module = %module.name, image = %module.image, reason = refusal.reason.code(), %refusal, "a revision does not start");
                    if *module == target || refused.is_none() {
                        refused = Some(refusal);
                    }
                }
                started => return started,
            }
        }
        Err(refused.unwrap_or_else(|| Refusal::new(Reason::Internal, &target.name, "nothing was tried")))
    }

    async fn start_module(&mut self, module: &Module) -> Result<Option<Instance>, Refusal> {
        self.status.image = module.image.to_string();
        self.on_target = *module == self.plan.target;
        self.show(ModuleState::Pulling, None);
        let ready = tokio::select! {
            ready = self.ready(module) => ready?,
            () = overtaken(self.told.clone(), Arc::clone(&self.plan)) => return Ok(None),
        };
        let prepared = instance::prepare(&self.context, module, self.place, ready).await?;
        self.start_prepared(prepared).await.map(Some)
    }

    /// Carried to its end even when another order comes meanwhile: half a start is cleaned by nobody.
    async fn start_prepared(&mut self, prepared: Prepared) -> Result<Instance, Refusal> {
        self.show(ModuleState::Starting, None);
        let secrets = self.told.borrow().secrets;
        let instance = instance::start(&self.context, prepared).await?;
        self.context.metrics.started();
        self.delivered = Some(secrets);
        Ok(instance)
    }

    fn ready(&self, module: &Module) -> impl Future<Output = Result<Ready, Refusal>> + Send + use<> {
        let (context, module) = (Arc::clone(&self.context), module.clone());
        async move { images::ready(&context, &module).await }
    }

    /// The target does not run well; something else does.
    fn give_up(&mut self, refusal: Refusal) {
        tracing::warn!(module = %self.plan.target.name, image = %self.plan.target.image, %refusal, "the new revision is given up");
        self.context.metrics.updated(Update::GivenUp);
        self.on_target = false;
        self.given_up = true;
        self.update = (ModuleState::Refused, Some(refusal));
    }

    /// The target cannot be started now; what ran before runs until it can.
    fn put_off(&mut self, refusal: Refusal) {
        tracing::warn!(module = %self.plan.target.name, image = %self.plan.target.image, %refusal, "the new revision is put off");
        self.context.metrics.updated(Update::PutOff);
        self.context.metrics.start_refused(refusal.reason);
        let (state, wait) = after_refusal(&refusal, &mut self.update_backoff);
        self.on_target = false;
        self.put_off = Some(Instant::now() + wait);
        self.update = (state, Some(refusal));
    }

    async fn refused(&mut self, refusal: Refusal) {
        tracing::warn!(module = %self.plan.target.name, reason = refusal.reason.code(), %refusal, "the module does not start");
        self.context.metrics.start_refused(refusal.reason);
        let (state, wait) = after_refusal(&refusal, &mut self.backoff);
        self.show(state, Some(refusal));
        self.rest(wait).await;
    }

    /// The revision that ended for good in the time of an earlier daemon, and its refusal.
    fn ended_before(&self) -> Option<(Module, Refusal)> {
        let path = self.context.places.ended(&self.plan.target.name);
        let bytes = durable::read(&path, ENDED_BYTES_MAX).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn forget_ended(&self) {
        let name = &self.plan.target.name;
        if let Err(error) = durable::remove(&self.context.places.ended(name)) {
            tracing::warn!(module = %name, %error, "the note of a module's end was not removed");
        }
    }

    fn keep_ended(&mut self, module: Module, reason: &Refusal) {
        let path = self.context.places.ended(&module.name);
        let kept = serde_json::to_vec(&(&module, reason))
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::write(&path, &bytes, 0o600));
        if let Err(error) = kept {
            tracing::warn!(module = %module.name, %error, "the end of a module is not noted: a new daemon will start it again");
        }
        self.ended = Some(module);
    }

    /// Watches until the end, the order to stop, or until another revision is ready to take its place. Says how it ended
    /// when it is not to run again.
    async fn watch(&mut self, mut instance: Instance) -> Option<Refusal> {
        let module = instance.record.module.clone();
        self.on_target = module == self.plan.target;
        self.runs.send_replace(Some(module.image.digest().clone()));
        self.status.image = module.image.to_string();
        self.status.generation = Some(instance.record.generation);
        self.status.instance = Some(instance.record.instance.clone());
        self.status.pid = Some(instance.process.pid());
        self.show(ModuleState::Running, None);
        tracing::info!(module = %module.name, instance = %instance.record.instance, pid = instance.process.pid(), "the module runs");
        let since = Instant::now();
        // Apart, since the rest of the instance is looked at meanwhile.
        let altered = instance.take_altered();
        let end = tokio::select! {
            end = self.follow(&instance, since) => end,
            refusal = altered => End::Altered(refusal),
        };
        match &end {
            End::Exited(_) => {}
            End::Stopped | End::Replaced => instance.stop(&self.context).await,
            End::Altered(_) => instance.kill(&self.context).await,
        }
        let reason = self.how_it_ended(&instance, &end);
        let done = matches!(end, End::Exited(Exit::Code(0))) && module.restart != Restart::Always;
        if done && self.on_target && self.plan.fallback.is_some() {
            // A job that has done its work has proven itself. `identityd` knows the instance until it is cleaned.
            self.prove(&instance).await;
        }
        instance::clean(&self.context, &instance.record).await;
        self.runs.send_replace(None);
        self.status.pid = None;
        self.status.instance = None;
        let exit = match end {
            End::Exited(exit) => exit,
            End::Stopped | End::Replaced => return None,
            End::Altered(_) => {
                self.restarts();
                self.show(ModuleState::Waiting, reason);
                let wait = self.backoff.after(since.elapsed());
                self.rest(wait).await;
                return None;
            }
        };
        let again = match module.restart {
            Restart::Always => true,
            Restart::OnFailure => exit != Exit::Code(0),
            Restart::Never => false,
        };
        tracing::info!(module = %module.name, instance = %instance.record.instance, %exit, again, "the module ended");
        let reason = reason.unwrap_or_else(|| Refusal::new(Reason::ModuleExited, &module.name, exit));
        if !again {
            return self.ended_for_good(module, reason);
        }
        self.restarts();
        self.show(ModuleState::Waiting, Some(reason.clone()));
        if self.on_target && self.plan.fallback.is_some() && since.elapsed() < self.probation() {
            self.early_ends = self.early_ends.saturating_add(1);
            if self.early_ends >= EARLY_ENDS_MAX && !self.given_up {
                self.give_up(reason);
                return None;
            }
        }
        let wait = self.backoff.after(since.elapsed());
        self.rest(wait).await;
        None
    }

    fn restarts(&mut self) {
        self.status.restarts = self.status.restarts.saturating_add(1);
        self.context.metrics.restarted();
    }

    fn ended_for_good(&mut self, module: Module, reason: Refusal) -> Option<Refusal> {
        if self.on_target || self.given_up {
            return Some(reason);
        }
        // The one before the update is done; the update is not.
        self.keep_ended(module, &reason);
        self.on_target = true;
        None
    }

    fn probation(&self) -> Duration {
        Duration::from_secs(self.context.config.runtime.update_probation_seconds.into())
    }

    async fn follow(&mut self, instance: &Instance, since: Instant) -> End {
        let context = Arc::clone(&self.context);
        let module = &instance.record.module;
        let mut rotation = Rotation::new(&context, module, self.told.clone(), self.delivered.take());
        let mut secrets = std::pin::pin!(rotation.follow(instance));
        let mut attempt: Option<Attempt> = None;
        let mut attempt_at = self.put_off.take().unwrap_or_else(Instant::now);
        let mut prove_at = since + self.probation();
        let mut attempts = self.told.borrow().attempt;
        loop {
            let wants = !self.on_target && !self.given_up;
            let proving = self.on_target && self.plan.fallback.is_some();
            tokio::select! {
                exit = instance.exited() => return End::Exited(exit),
                () = &mut secrets => {}
                told = self.told.changed() => {
                    if told.is_err() {
                        // The daemon just ends: the module does not.
                        std::future::pending::<()>().await;
                    }
                    let orders = self.told.borrow().clone();
                    if orders.stop {
                        return End::Stopped;
                    }
                    if self.follow_plan() {
                        attempt = None;
                        self.on_target = *module == self.plan.target;
                    }
                    if attempts != orders.attempt {
                        attempts = orders.attempt;
                        attempt_at = Instant::now();
                    }
                    self.show(ModuleState::Running, None);
                }
                () = sleep_until(attempt_at), if wants && attempt.is_none() => {
                    attempt = Some(Box::pin(self.ready(&self.plan.target)));
                }
                ready = outcome(&mut attempt) => {
                    attempt = None;
                    let prepared = match ready {
                        Ok(ready) => instance::prepare(&context, &self.plan.target, self.place, ready).await,
                        Err(refusal) => Err(refusal),
                    };
                    match prepared {
                        Ok(prepared) => {
                            self.prepared = Some(prepared);
                            return End::Replaced;
                        }
                        Err(refusal) => {
                            tracing::warn!(module = %module.name, reason = refusal.reason.code(), %refusal, "an update waits; the module runs as it is");
                            context.metrics.start_refused(refusal.reason);
                            let (state, wait) = after_refusal(&refusal, &mut self.update_backoff);
                            attempt_at = Instant::now() + wait;
                            self.update = (state, Some(refusal));
                            self.show(ModuleState::Running, None);
                        }
                    }
                }
                () = sleep_until(prove_at), if proving => {
                    prove_at = Instant::now() + PROVE_AGAIN;
                    self.prove(instance).await;
                }
            }
        }
    }

    /// The way back is not needed any more: `identityd` is told, then the disk is tidied.
    async fn prove(&mut self, instance: &Instance) {
        let proven = questions::Proven { instance: instance.record.instance.clone() };
        match self.context.identityd.call(proven).await {
            Ok(()) => {
                tracing::info!(instance = %instance.record.instance, "the new revision has proven itself");
                self.context.metrics.updated(Update::Proven);
                self.plan = Arc::new(Plan { target: self.plan.target.clone(), fallback: None });
                self.context.tidy.notify_one();
            }
            Err(error) => tracing::debug!(%error, "identityd was not told that an update is over"),
        }
    }

    /// Looked at while the instance's cgroup is still there.
    fn how_it_ended(&self, instance: &Instance, end: &End) -> Option<Refusal> {
        let exit = match end {
            End::Stopped | End::Replaced => return None,
            End::Altered(refusal) => return Some(refusal.clone()),
            End::Exited(exit) => exit,
        };
        let limits = instance.record.limits(&self.context);
        let times = limits.hits().out_of_memory;
        // A shell whose program was ended says so by a status of its own.
        Some(if times > 0 && *exit != Exit::Code(0) {
            let rule = format!("{exit}; {}", limits.memory_ended(times));
            Refusal::new(Reason::ModuleOutOfMemory, &instance.record.module.name, rule)
        } else {
            Refusal::new(Reason::ModuleExited, &instance.record.module.name, exit)
        })
    }

    /// Waits for a time, for a reason to try again, or for the order to stop.
    async fn rest(&mut self, wait: Duration) {
        let before = self.told.borrow_and_update().clone();
        if before.stop {
            return;
        }
        let changed = self.told.wait_for(|orders| *orders != before);
        // A sender that is gone means that the daemon ends: the timeout is as good as any.
        drop(tokio::time::timeout(wait, changed).await);
    }

    async fn wait_for_other_plan(&mut self) {
        overtaken(self.told.clone(), Arc::clone(&self.plan)).await;
    }

    fn show(&mut self, state: ModuleState, reason: Option<Refusal>) {
        self.status.state = state;
        self.status.reason = reason;
        let (state, reason) = self.update.clone();
        let image = self.plan.target.image.to_string();
        self.status.update = (!self.on_target && self.status.instance.is_some()).then_some(ModuleUpdate {
            image,
            state,
            reason,
        });
        self.context.board.set_module(self.status.clone());
    }
}

/// `true` when a start was refused for what has nothing to do with the revision that was to start.
fn is_no_fault_of_the_target(refusal: &Refusal) -> bool {
    matches!(
        refusal.reason,
        Reason::Busy | Reason::IdentityUnavailable | Reason::StartPermit | Reason::Storage
    )
}

/// The state that a refused start shows as, and the wait before the next try.
fn after_refusal(refusal: &Refusal, backoff: &mut Restarts) -> (ModuleState, Duration) {
    // Trouble that passes by itself is tried sooner than a refusal that somebody must remove.
    let passing = refusal.reason.passes();
    // Nothing is wrong with a module whose secret has not come yet; it starts when it does.
    let waits = passing || refusal.reason == Reason::SecretMissing;
    let state = if waits { ModuleState::Waiting } else { ModuleState::Refused };
    (state, if passing { backoff.after(Duration::ZERO) } else { REFUSED_WAIT })
}

type Attempt = Pin<Box<dyn Future<Output = Result<Ready, Refusal>> + Send>>;

/// The result of an attempt; never returns when there is none.
async fn outcome(attempt: &mut Option<Attempt>) -> Result<Ready, Refusal> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Returns when the module is to stop or to be something else; never when the daemon just ends.
async fn overtaken(mut told: watch::Receiver<Orders>, plan: Arc<Plan>) {
    if told.wait_for(|orders| orders.stop || orders.plan.target != plan.target).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Keeps the secrets of a running instance as new as what is in force.
struct Rotation<'a> {
    context: &'a Context,
    module: &'a Module,
    told: watch::Receiver<Orders>,
    delivered: Option<u64>,
}

impl<'a> Rotation<'a> {
    fn new(
        context: &'a Context,
        module: &'a Module,
        told: watch::Receiver<Orders>,
        delivered: Option<u64>,
    ) -> Self {
        Self { context, module, told, delivered }
    }

    /// Never returns. Dropping it may leave a set half written, which nobody sees and the next attempt removes.
    async fn follow(&mut self, instance: &Instance) {
        if self.module.secrets.is_empty() {
            return std::future::pending().await;
        }
        let mut backoff = Restarts::default();
        loop {
            let changes = self.told.borrow_and_update().secrets;
            if self.delivered == Some(changes) {
                if self.told.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            }
            let name = &instance.record.instance;
            match secrets::deliver(self.context, self.module, name, &instance.process, None).await {
                Ok(()) => self.delivered = Some(changes),
                Err(refusal) => {
                    // The module keeps what it has.
                    tracing::warn!(instance = %name, reason = refusal.reason.code(), %refusal, "the module's secrets are not brought up to date");
                    tokio::select! {
                        () = tokio::time::sleep(backoff.after(Duration::ZERO)) => {}
                        _ = self.told.changed() => {}
                    }
                }
            }
        }
    }
}
