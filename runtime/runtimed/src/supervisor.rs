//! Makes what runs agree with what `identityd` has in force.
//!
//! Order: first the kernel gets the new epoch, so that what it no longer allows ends at once; then modules that left are
//! stopped; then the others are started or told what they are to become. Nothing starts before the rules that know its
//! address are in force.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{Epoch, ModuleName, Refusal};
use edgewarden_policy::CompiledEpoch;
use edgewarden_protocol::control::{
    DeploymentInForce, Enforcer, Snapshot, StartRecord, Untrusted, questions,
};
use edgewarden_protocol::deployment::{Module, WhenUntrusted};
use tokio::sync::{mpsc, oneshot};

use crate::addresses::{Addresses, Place};
use crate::context::Context;
use crate::error::RunError;
use crate::identity::Client;
use crate::instance;
use crate::kernel::Kernel;
use crate::network;
use crate::worker::{Plan, Worker};

const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks at refused packets while modules run.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends the supervisor: stops every module and removes rules and networks.
pub type StopAll = oneshot::Sender<()>;

/// The owner of all modules' workers and of the rules: makes them what the deployment in force wants.
#[derive(Debug)]
pub struct Supervisor {
    context: Arc<Context>,
    addresses: Addresses,
    kernel: Kernel,
    workers: BTreeMap<ModuleName, Worker>,
    adopted: bool,
    reported: Option<Epoch>,
    /// Modules whose instance is not vouched for: no flow of theirs is let through.
    closed: BTreeSet<ModuleName>,
    /// Faults of modules that run on all the same.
    troubles: BTreeMap<ModuleName, Refusal>,
    /// Deployment, trust and secrets at the last comparison: when they change, refused starts are tried again.
    last: Option<(edgewarden_names::Digest, bool, u64)>,
}

impl Supervisor {
    pub fn new(context: Arc<Context>, addresses: Addresses) -> Self {
        let kernel = Kernel::new(addresses.network().gateway(), context.config.mqtt.module_port);
        Self {
            context,
            addresses,
            kernel,
            workers: BTreeMap::new(),
            adopted: false,
            reported: None,
            closed: BTreeSet::new(),
            troubles: BTreeMap::new(),
            last: None,
        }
    }

    /// Runs until it is told to stop everything. Dropping the future leaves the modules running.
    pub async fn run(mut self, mut stop: mpsc::Receiver<StopAll>) -> Result<(), RunError> {
        let (send, mut snapshots) = mpsc::channel(1);
        let watcher = Watcher(tokio::spawn(watch(Arc::clone(&self.context), send)));
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pending: Option<Snapshot> = None;
        loop {
            tokio::select! {
                told = stop.recv() => {
                    drop(watcher);
                    self.stop_all().await?;
                    if let Some(done) = told {
                        // Whoever asked may be gone.
                        let _ = done.send(());
                    }
                    return Ok(());
                }
                snapshot = snapshots.recv() => pending = snapshot.map(|Seen { snapshot, first }| {
                    if first {
                        // It has forgotten what it was told.
                        self.reported = None;
                    }
                    snapshot
                }),
                _ = look.tick() => self.look().await,
                () = self.context.tidy.notified() => self.tidy().await,
            }
            if let Some(snapshot) = pending.take()
                && let Err(error) = self.compare(&snapshot).await
            {
                tracing::warn!(error = %error.chain(), "what is in force cannot be carried out yet; trying again");
                tokio::time::sleep(RETRY).await;
                pending = Some(snapshot);
            }
        }
    }

    async fn compare(&mut self, snapshot: &Snapshot) -> Result<(), RunError> {
        if !self.addresses.is_read() {
            let key = self.context.record_key().await.map_err(RunError::Identity)?;
            self.addresses.read(key, &started(snapshot).cloned().collect::<Vec<_>>())?;
        }
        if !self.adopted {
            self.adopt(snapshot).await?;
            self.adopted = true;
        }
        let deployment =
            self.context.identityd.call(questions::Deployment).await.map_err(RunError::Identity)?;
        let epoch = match &snapshot.policy {
            None => None,
            Some(policy) => Some(
                serde_json::from_slice::<CompiledEpoch>(policy.compiled.as_slice()).map_err(|error| {
                    RunError::Runtime(format!("the policy of epoch {} cannot be read: {error}", policy.epoch))
                })?,
            ),
        };
        match (deployment, epoch) {
            (Some(deployment), Some(epoch)) if deployment.epoch == epoch.epoch() => {
                self.carry_out(*deployment, epoch, snapshot).await?;
            }
            // Read at two moments: the next snapshot is on its way.
            (Some(_), _) => return Ok(()),
            (None, _) => self.stop_workers(&BTreeSet::new()).await,
        }
        self.settle_records(snapshot).await;
        Ok(())
    }

    async fn carry_out(
        &mut self,
        force: DeploymentInForce,
        epoch: CompiledEpoch,
        snapshot: &Snapshot,
    ) -> Result<(), RunError> {
        let modules = &force.deployment.modules;
        let names: Vec<ModuleName> = modules.iter().map(|module| module.name.clone()).collect();
        let running: Vec<ModuleName> = self.workers.keys().cloned().collect();
        self.addresses.assign(&names, &running)?;
        self.write_hosts()?;
        let untrusted = self.untrusted(snapshot);
        self.closed =
            untrusted.iter().filter(|(_, then)| **then != WhenUntrusted::Report).map(name_of).collect();
        self.enforce(epoch.clone()).await?;
        let staying: BTreeSet<ModuleName> = names
            .iter()
            .filter(|name| self.workers.contains_key(*name))
            .filter(|name| untrusted.get(*name) != Some(&WhenUntrusted::Stop))
            .cloned()
            .collect();
        if staying.len() < self.workers.len() {
            self.stop_workers(&staying).await;
            // What starts in their place has been judged anew.
            self.closed.retain(|module| staying.contains(module));
            self.addresses.assign(&names, &[])?;
            self.write_hosts()?;
            self.enforce(epoch).await?;
        }
        for module in modules {
            self.plan(&force, module);
        }
        self.show_troubles(snapshot);
        self.workers.values().for_each(|worker| worker.secrets(snapshot.secrets));
        let now = Some((force.envelope.clone(), snapshot.trusted, snapshot.secrets));
        if self.last != now {
            self.workers.values().for_each(Worker::retry);
            self.last = now;
        }
        self.retain(&force).await
    }

    /// Removes from the disk what neither runs, nor is to run, nor is the way back of an update.
    async fn retain(&self, force: &DeploymentInForce) -> Result<(), RunError> {
        let named = force.deployment.modules.iter().chain(&force.fallbacks);
        let running = self.workers.values().filter_map(Worker::image);
        let images = named.map(|module| module.image.digest().clone()).chain(running).collect();
        let store = self.context.store.clone();
        self.context
            .blocking(move || store.retain(&images).map_err(|error| RunError::Store(error.refusal())))
            .await
    }

    /// Modules that run as an instance that the deployment does not vouch for, with what is then to be done.
    fn untrusted(&self, snapshot: &Snapshot) -> BTreeMap<ModuleName, WhenUntrusted> {
        let runs = |untrusted: &&Untrusted| self.context.is_live(&untrusted.record.instance);
        let untrusted = snapshot.untrusted.iter().filter(runs);
        untrusted.map(|untrusted| (untrusted.record.module.clone(), untrusted.then)).collect()
    }

    /// Shows what is wrong with what runs on all the same.
    fn show_troubles(&mut self, snapshot: &Snapshot) {
        let board = &self.context.board;
        let runs = |untrusted: &&Untrusted| self.context.is_live(&untrusted.record.instance);
        let troubles = snapshot.untrusted.iter().filter(runs);
        let troubles: BTreeMap<ModuleName, Refusal> =
            troubles.map(|untrusted| (untrusted.record.module.clone(), untrusted.refusal.clone())).collect();
        for module in self.troubles.keys().filter(|module| !troubles.contains_key(*module)) {
            board.set_trouble(module, None);
        }
        self.troubles = troubles;
    }

    /// Plans every module anew and drops images of no use, after an update has proven itself.
    async fn tidy(&mut self) {
        let Ok(Some(force)) = self.context.identityd.call(questions::Deployment).await else {
            // The next deployment tidies too.
            return;
        };
        if self.last.as_ref().is_none_or(|(envelope, ..)| *envelope != force.envelope) {
            return;
        }
        for module in &force.deployment.modules {
            self.plan(&force, module);
        }
        if let Err(error) = self.retain(&force).await {
            tracing::warn!(error = %error.chain(), "what is not needed any more stays on the disk for now");
        }
    }

    fn plan(&mut self, force: &DeploymentInForce, module: &Module) {
        let fallback = force.fallbacks.iter().find(|before| before.name == module.name).cloned();
        let plan = Plan { target: module.clone(), fallback };
        if let Some(worker) = self.workers.get(&module.name) {
            worker.plan(plan);
            return;
        }
        let Some(number) = self.addresses.number(&module.name) else { return };
        let place = Place { number, address: self.addresses.network().module(number) };
        let worker = Worker::spawn(Arc::clone(&self.context), plan, place, None);
        self.workers.insert(module.name.clone(), worker);
    }

    /// Stops all workers but these, side by side.
    async fn stop_workers(&mut self, kept: &BTreeSet<ModuleName>) {
        let all = std::mem::take(&mut self.workers);
        let (keep, stop): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(name, _)| kept.contains(name));
        self.workers = keep;
        let mut stopping = tokio::task::JoinSet::new();
        for worker in stop.into_values() {
            stopping.spawn(worker.stop());
        }
        while stopping.join_next().await.is_some() {}
    }

    async fn enforce(&mut self, epoch: CompiledEpoch) -> Result<(), RunError> {
        // What the sets refused is lost with the old rules.
        self.report_refusals().await;
        let number = epoch.epoch();
        let mut rules = self.kernel.plan(&epoch, &self.addresses, &self.closed)?;
        if let Some(planned) = rules.clone() {
            let put = self.context.guard()?.rules(planned).await;
            if let Err(error) = put {
                // A kernel without `nft_connlimit` refuses the rule that counts, and with it all of them.
                if !error.chain().contains("ct count") || !self.kernel.cannot_count() {
                    return Err(error);
                }
                tracing::warn!(error = %error.chain(), "this kernel cannot count a module's flows: there is no limit on them");
                rules = self.kernel.plan(&epoch, &self.addresses, &self.closed)?;
                if let Some(planned) = rules.clone() {
                    self.context.guard()?.rules(planned).await?;
                }
            }
            tracing::info!(epoch = %number, "the rules are in force");
        }
        self.kernel.enforced(epoch, rules.map(|rules| rules.gateway));
        self.context.board.set_epoch(number);
        if self.reported != Some(number) {
            let enforced = questions::EpochEnforced { enforcer: Enforcer::Runtimed, epoch: number };
            self.context.identityd.call(enforced).await.map_err(RunError::Identity)?;
            self.reported = Some(number);
        }
        Ok(())
    }

    /// The file is mounted into containers that run, so it is changed in place; it is read in one piece.
    fn write_hosts(&self) -> Result<(), RunError> {
        let what = || RunError::io("write the hosts file");
        let path = self.context.places.hosts();
        let text = self.addresses.hosts();
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(what())?;
        file.write_all_at(text.as_bytes(), 0).map_err(what())?;
        file.set_len(text.len() as u64).map_err(what())?;
        // The umask must not decide whether modules can read it.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .map_err(what())?;
        crate::furnishing::update_hosts(&self.context.places, &text).map_err(what())
    }

    /// Takes over what an earlier daemon left running, and removes what nobody knows.
    async fn adopt(&mut self, snapshot: &Snapshot) -> Result<(), RunError> {
        let context = Arc::clone(&self.context);
        let mut records = instance::records(&context.places.records())?;
        // Of two instances of a module the newer one stays.
        records.sort_by_key(|record| std::cmp::Reverse(record.generation));
        let running: BTreeSet<String> = context
            .runc
            .list()
            .await?
            .into_iter()
            .filter(|container| container.status == "running" && container.pid > 0)
            .map(|container| container.id)
            .collect();
        let known: Vec<StartRecord> = started(snapshot).cloned().collect();
        let mut numbers = BTreeSet::new();
        for record in records {
            let name = record.module.name.clone();
            let fits = running.contains(&record.instance)
                && !self.workers.contains_key(&name)
                && self.addresses.number(&name) == Some(record.place.number);
            let adopted =
                if fits { instance::adopt(&context, record, &known).await } else { Err(Box::new(record)) };
            match adopted {
                Ok(instance) => {
                    tracing::info!(instance = %instance.record.instance, pid = instance.process.pid(), "took over a running module");
                    context.live(&instance.record.instance);
                    let place = instance.record.place;
                    let plan = Plan { target: instance.record.module.clone(), fallback: None };
                    numbers.insert(place.number);
                    self.workers
                        .insert(name, Worker::spawn(Arc::clone(&context), plan, place, Some(instance)));
                }
                Err(record) => {
                    tracing::info!(instance = %record.instance, "removing what is left of an instance");
                    if numbers.contains(&record.place.number) {
                        // Its interface has passed to a newer instance.
                        clean_unknown(&context, &record.instance).await;
                    } else {
                        instance::clean(&context, &record).await;
                    }
                }
            }
        }
        self.remove_unknown(&numbers).await
    }

    async fn remove_unknown(&self, numbers: &BTreeSet<u8>) -> Result<(), RunError> {
        let context = &self.context;
        let mut unknown: BTreeSet<String> =
            context.runc.list().await?.into_iter().map(|container| container.id).collect();
        let places = &context.places;
        for folder in [places.bundles(), places.namespaces(), places.roots(), places.all_files()] {
            let what = || RunError::io(format!("read `{}`", folder.display()));
            for entry in std::fs::read_dir(&folder).map_err(what())? {
                unknown.insert(entry.map_err(what())?.file_name().to_string_lossy().into_owned());
            }
        }
        for instance in unknown {
            if !context.is_live(&instance) {
                tracing::warn!(%instance, "removing an instance that nobody knows");
                clean_unknown(context, &instance).await;
            }
        }
        for number in network::interfaces()? {
            if !numbers.contains(&number) {
                network::remove_interface(number)?;
            }
        }
        Ok(())
    }

    /// Tells `identityd` of instances that it counts as live and that are not.
    async fn settle_records(&self, snapshot: &Snapshot) {
        for record in started(snapshot) {
            if !self.context.is_live(&record.instance) {
                let stopped = questions::Stopped { instance: record.instance.clone() };
                if let Err(error) = self.context.identityd.call(stopped).await {
                    tracing::debug!(instance = %record.instance, %error, "identityd was not told of the end");
                }
            }
        }
    }

    async fn look(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        self.report_refusals().await;
        for (module, trouble) in &self.troubles {
            self.context.board.set_trouble(module, Some(trouble.clone()));
        }
    }

    async fn report_refusals(&mut self) {
        if self.kernel.epoch().is_none() {
            return;
        }
        let Ok(guard) = self.context.guard() else { return };
        let listed = match guard.listed().await {
            Ok(listed) => listed,
            Err(error) => {
                return tracing::warn!(error = %error.chain(), "the refused packets cannot be listed");
            }
        };
        for (origin, refusal) in self.kernel.refusals(&listed, &self.addresses, Instant::now()) {
            tracing::warn!(reason = refusal.reason.code(), %refusal, "refused in the kernel");
            self.context.metrics.flow_refused(refusal.reason);
            if let Err(error) = self.context.identityd.call(questions::Refused { origin, refusal }).await {
                tracing::debug!(%error, "identityd was not told of a refusal");
            }
        }
    }

    /// Stops every module and removes rules, networks and leftovers.
    async fn stop_all(&mut self) -> Result<(), RunError> {
        self.stop_workers(&BTreeSet::new()).await;
        for record in instance::records(&self.context.places.records())? {
            instance::clean(&self.context, &record).await;
        }
        self.remove_unknown(&BTreeSet::new()).await?;
        self.context.remove_cgroups();
        self.context.guard()?.retire().await
    }
}

fn name_of((module, _): (&ModuleName, &WhenUntrusted)) -> ModuleName {
    module.clone()
}

/// All that runs by `identityd`'s permits, vouched for or not.
fn started(snapshot: &Snapshot) -> impl Iterator<Item = &StartRecord> {
    let closed = snapshot.untrusted.iter().filter(|untrusted| !untrusted.keeps_identity());
    snapshot.records.iter().chain(closed.map(|untrusted| &untrusted.record))
}

/// An instance of which there is no record, or whose interface is another's by now.
async fn clean_unknown(context: &Context, instance: &str) {
    if let Err(error) = context.runc.delete(instance).await {
        tracing::debug!(%instance, error = %error.chain(), "the runtime removed nothing");
    }
    if let Err(error) = network::remove_namespace(&context.places.namespace(instance)) {
        tracing::warn!(%instance, error = %error.chain(), "a network namespace was not removed");
    }
    instance::forget(context, instance).await;
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Watcher(tokio::task::JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer of `identityd` with all that it has in force.
#[derive(Debug)]
struct Seen {
    snapshot: Snapshot,
    /// The first answer since `identityd` was away: it may be another run of it.
    first: bool,
}

/// Follows `identityd` on a connection of its own, because an answer may take half a minute.
async fn watch(context: Arc<Context>, snapshots: mpsc::Sender<Seen>) {
    let identityd = Client::new(&context.layout);
    let mut seen = 0;
    // The first answer is news whatever its number is.
    let mut first = true;
    loop {
        match identityd.call(questions::Watch { seen }).await {
            Ok(snapshot) => {
                context.hear_time(snapshot.time);
                let news = first || snapshot.revision != seen;
                seen = snapshot.revision;
                let snapshot = Seen { snapshot: *snapshot, first };
                first = false;
                if news && snapshots.send(snapshot).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "identityd is away");
                // A daemon that starts again counts from the beginning.
                seen = 0;
                first = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
