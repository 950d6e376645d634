//! Keeps in force what stands outside of this process: rule sets, walls, interfaces, routes, limits, mounts.
//!
//! One task owns them. Who wants something in force asks it ([`Guard`]); what somebody else changes it hears of by event,
//! puts back, and tells: on the board, to `identityd` for the audit log, and so to the fleet. Whatever no event tells of is
//! looked at every few seconds.
//!
//! The time until something is back is not open to the modules. Each module's own network namespace has a wall
//! ([`edgewarden_policy::nftables::walls`]) that names what it may reach and who may reach it, and no flush of the
//! gateway's rule sets touches that. Routes and interfaces that are gone let nothing through. An instance whose mounts or
//! cgroup were changed is ended at once and started anew.
//!
//! Trusts the kernel. Takes every change that it did not make itself for somebody else's, whoever that says to be.

mod report;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{ModuleName, Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_platform::mounts::MountTable;
use edgewarden_platform::process::Process;
use edgewarden_platform::readiness::Readiness;
use edgewarden_policy::nftables;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::report::Reports;
use crate::context::Context;
use crate::instance::Place;
use crate::kernel::Listed;
use crate::limits::{Held, Limits};
use crate::{RunError, network, nft};

/// How often everything is looked at of which no event may have told.
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// How often something is tried again that could not be put back.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// What the machine's own services do to a new interface, such as systemd's settings of the kernel, is undone quietly.
const NEW_FOR: Duration = Duration::from_secs(10);
/// Changes that come together are mended together.
const SETTLE: Duration = Duration::from_millis(20);
/// The same for what a module itself can bring about, such as reaching a limit again and again.
const SETTLE_LIMITS: Duration = Duration::from_millis(200);
/// Somebody else may change the rules at the same moment: this often ours are put in place once more at once.
const TRIES_MAX: usize = 8;
/// A limit that a module reached is shown for so long after the last time.
const SAID_FOR: Duration = Duration::from_secs(600);
const ORDERS_MAX: usize = 64;
/// A rule set of the largest deployment is a few megabytes.
const SCRIPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is to be in force.
#[derive(Debug, Clone)]
pub struct Rules {
    /// In the gateway's namespace.
    pub gateway: String,
    /// In each module's own.
    pub walls: BTreeMap<ModuleName, String>,
}

/// An instance as the guard knows it, from before its first process.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub instance: String,
    pub module: ModuleName,
    pub place: Place,
    pub namespace: PathBuf,
}

/// Told once when an instance is no longer confined as it was started: it is to end at once.
pub type Altered = oneshot::Receiver<Refusal>;

type Answer<T> = oneshot::Sender<Result<T, RunError>>;

#[derive(Debug)]
enum Order {
    Rules(Rules, Answer<()>),
    Admit(Admitted, Answer<()>),
    Watch {
        instance: String,
        process: Process,
        limits: Limits,
        mounts: Option<String>,
        answer: Answer<(String, Altered)>,
    },
    Release(String, oneshot::Sender<()>),
    Listed(oneshot::Sender<Listed>),
    Retire(Answer<()>),
    /// Something happened in these cgroups.
    Limits(Vec<WatchDescriptor>),
    /// Something was mounted or unmounted: by an instance's name, or in our own namespace.
    Mounts(Option<String>),
}

/// Asks the guard. Cloning asks the same one.
#[derive(Debug, Clone)]
pub struct Guard {
    orders: mpsc::Sender<Order>,
}

impl Guard {
    /// Starts guarding: with the rules that were in force last, and without such with none that let anything through.
    /// Comes back when they are in force. Dropping all handles ends the guard, and leaves everything in force.
    pub async fn start(context: &Arc<Context>, gateway: Ipv4Addr) -> Result<Self, RunError> {
        let (orders, told) = mpsc::channel(ORDERS_MAX);
        let mut keeper = Keeper::new(Arc::clone(context), gateway, orders.downgrade())?;
        keeper.take_up().await?;
        tokio::spawn(keeper.run(told));
        Ok(Self { orders })
    }

    async fn ask<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, RunError> {
        let ended = || RunError::Runtime("the guard of rules and limits has ended".into());
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Puts rules and walls in force, and keeps them so.
    pub async fn rules(&self, rules: Rules) -> Result<(), RunError> {
        self.ask(|answer| Order::Rules(rules, answer)).await
    }

    /// Puts the wall of an instance up, in a namespace in which nothing runs yet or which it had already.
    pub async fn admit(&self, admitted: Admitted) -> Result<(), RunError> {
        self.ask(|answer| Order::Admit(admitted, answer)).await
    }

    /// Watches the limits and mounts of an admitted instance. `mounts`: as an earlier daemon found them; without them what
    /// is mounted now is right, and is what comes back.
    pub async fn watch(
        &self,
        instance: &str,
        process: Process,
        limits: Limits,
        mounts: Option<String>,
    ) -> Result<(String, Altered), RunError> {
        let instance = instance.to_owned();
        self.ask(|answer| Order::Watch { instance, process, limits, mounts, answer }).await
    }

    /// The instance ends: what becomes of it is nobody's doing.
    pub async fn release(&self, instance: &str) {
        let (done, released) = oneshot::channel();
        if self.orders.send(Order::Release(instance.to_owned(), done)).await.is_ok() {
            // An error means that the guard has ended.
            drop(released.await);
        }
    }

    /// What was refused, of the gateway's table and every wall.
    pub async fn listed(&self) -> Listed {
        let (answer, listed) = oneshot::channel();
        drop(self.orders.send(Order::Listed(answer)).await);
        listed.await.unwrap_or_default()
    }

    /// Removes the gateway's table and guards it no longer.
    pub async fn retire(&self) -> Result<(), RunError> {
        self.ask(Order::Retire).await
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One instance.
#[derive(Debug)]
struct Guarded {
    admitted: Admitted,
    since: Instant,
    slot: u64,
    rules: nft::Changes,
    routes: network::Changes,
    wall: Option<String>,
    confined: Option<Confined>,
}

/// What holds an instance's processes.
#[derive(Debug)]
struct Confined {
    process: Process,
    limits: Limits,
    cgroup: Option<String>,
    folders: Vec<WatchDescriptor>,
    table: Arc<MountTable>,
    mounts: String,
    told: Option<oneshot::Sender<Refusal>>,
    /// What is on the board.
    said: Option<Refusal>,
    said_at: Instant,
    before: Held,
    _watch: Task,
}

struct Keeper {
    context: Arc<Context>,
    gateway: Ipv4Addr,
    readiness: Readiness,
    rules: nft::Changes,
    routes: network::Changes,
    wanted: Option<Rules>,
    /// The script in the gateway's namespace. `None`: not ours, or not whole.
    in_force: Option<String>,
    guarded: BTreeMap<String, Guarded>,
    slots: u64,
    inotify: Arc<Inotify>,
    orders: mpsc::WeakSender<Order>,
    reports: Reports,
    tasks: Vec<Task>,
    /// Something could not be put back.
    open: bool,
    /// Everything was removed, because it was told so.
    retired: bool,
}

/// Numbers of sockets in [`Readiness`]: of the gateway's namespace, and of each instance's slot.
const RULES: u64 = 0;
const ROUTES: u64 = 1;
const KINDS: u64 = 2;

impl Keeper {
    fn new(
        context: Arc<Context>,
        gateway: Ipv4Addr,
        orders: mpsc::WeakSender<Order>,
    ) -> Result<Self, RunError> {
        let readiness = Readiness::new().map_err(RunError::io("watch several sockets"))?;
        let (rules, routes) = (nft::Changes::open()?, network::Changes::open()?);
        let add = |socket, number| readiness.add(socket, number).map_err(RunError::io("watch a socket"));
        add(rules.socket(), RULES)?;
        add(routes.socket(), ROUTES)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|error| RunError::io("watch cgroups (inotify)")(error.into()))?;
        let inotify = Arc::new(inotify);
        let own = MountTable::own().map_err(RunError::io("watch our mounts"))?;
        let cgroups = Readiness::new().map_err(RunError::io("watch cgroups"))?;
        cgroups.add(&*inotify, 0).map_err(RunError::io("watch cgroups"))?;
        let tasks = vec![
            Task(tokio::spawn(follow_mounts(Arc::new(own), None, orders.clone()))),
            Task(tokio::spawn(follow_limits(cgroups, Arc::clone(&inotify), orders.clone()))),
        ];
        Ok(Self {
            reports: Reports::start(Arc::clone(&context)),
            context,
            gateway,
            readiness,
            rules,
            routes,
            wanted: None,
            in_force: None,
            guarded: BTreeMap::new(),
            slots: 1,
            inotify,
            orders,
            tasks,
            open: false,
            retired: false,
        })
    }

    /// Rules come before forwarding: at no moment does the gateway forward without them.
    async fn take_up(&mut self) -> Result<(), RunError> {
        let path = self.context.places.rules();
        let kept = durable::read(&path, SCRIPT_BYTES_MAX).map_err(RunError::io("read the rules in force"))?;
        let script = kept.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(nftables::closed);
        self.put_rules(&script).await?;
        let own = self.gateway;
        self.context.blocking(move || network::prepare_gateway(own)).await?;
        self.routes.take()
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut audit = tokio::time::interval(AUDIT_EVERY);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry = tokio::time::interval(RETRY_EVERY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                ready = self.readiness.ready(), if !self.retired => match ready {
                    Ok(numbers) => self.hear(&numbers).await,
                    Err(error) => Err(RunError::io("wait for changes")(error)),
                },
                _ = audit.tick(), if !self.retired => self.audit().await,
                _ = retry.tick(), if self.open && !self.retired => self.audit().await,
            };
            match outcome {
                Ok(()) => {}
                Err(error) => {
                    self.open = true;
                    self.reports.lost(&error);
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), RunError> {
        match order {
            Order::Rules(rules, answer) => {
                let done = self.enforce(rules).await;
                // Whoever asked may be gone.
                drop(answer.send(done));
            }
            Order::Admit(admitted, answer) => {
                let done = self.admit(admitted).await;
                drop(answer.send(done));
            }
            Order::Watch { instance, process, limits, mounts, answer } => {
                let done = self.watch(&instance, process, limits, mounts);
                drop(answer.send(done));
            }
            Order::Release(instance, done) => {
                self.release(&instance);
                let _gone = done.send(());
            }
            Order::Listed(answer) => {
                drop(answer.send(self.list()));
            }
            Order::Retire(answer) => {
                let done = self.retire().await;
                drop(answer.send(done));
            }
            Order::Limits(folders) => {
                let of = |guarded: &Guarded| {
                    let confined = guarded.confined.as_ref();
                    confined.is_some_and(|confined| confined.folders.iter().any(|own| folders.contains(own)))
                };
                let touched: Vec<String> = self
                    .guarded
                    .iter()
                    .filter(|(_, guarded)| of(guarded))
                    .map(|(name, _)| name.clone())
                    .collect();
                for instance in touched {
                    self.look_at_limits(&instance)?;
                }
            }
            Order::Mounts(Some(instance)) => self.look_at_mounts(&instance),
            Order::Mounts(None) => return self.look_at_namespaces().await,
        }
        Ok(())
    }

    async fn enforce(&mut self, rules: Rules) -> Result<(), RunError> {
        let text = rules.gateway.clone();
        // First on disk: a daemon that starts again must not take up older rules than those that were in force.
        durable::write(&self.context.places.rules(), text.as_bytes(), 0o600)
            .map_err(RunError::io("keep the rules in force"))?;
        let before = self.wanted.replace(rules);
        if self.in_force.as_ref() != Some(&text)
            && let Err(error) = self.put_rules(&text).await
        {
            self.wanted = before;
            return Err(error);
        }
        let instances: Vec<String> = self.guarded.keys().cloned().collect();
        for instance in instances {
            self.put_wall(&instance, false).await?;
        }
        Ok(())
    }

    /// Puts the gateway's rules in force, until no other change came between.
    async fn put_rules(&mut self, script: &str) -> Result<(), RunError> {
        self.in_force = None;
        self.rules.take()?;
        for _ in 0..TRIES_MAX {
            let script = script.to_owned();
            let applied = script.clone();
            self.context.blocking(move || nft::apply(&script)).await?;
            let news = self.rules.take()?;
            // Ours is one of them. When the kernel kept too little to count, the next audit asks it.
            if news.changes <= 1 {
                self.in_force = Some(applied);
                return Ok(());
            }
            self.reports.altered("rules", &format!("{} changed the rules", news.by()), Duration::ZERO);
        }
        Err(RunError::Network("somebody else changes the table `edgewarden` without pause".into()))
    }

    /// Puts the wall of an instance in force, if it is not.
    async fn put_wall(&mut self, instance: &str, anew: bool) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let own = &guarded.admitted;
        let script = match self.wanted.as_ref() {
            // Nothing is known yet: what stands there is the work of an earlier daemon.
            None if guarded.wall.is_none() && !anew => return Ok(()),
            None => guarded.wall.clone(),
            Some(rules) => rules.walls.get(&own.module).cloned(),
        };
        let script = script.unwrap_or_else(|| nftables::closed_wall(own.place.address));
        if guarded.wall.as_ref() == Some(&script) && !anew {
            return Ok(());
        }
        guarded.rules.take()?;
        for _ in 0..TRIES_MAX {
            let (namespace, applied) = (own.namespace.clone(), script.clone());
            self.context.blocking(move || network::inside(&namespace, || nft::apply(&applied))).await?;
            if guarded.rules.take()?.changes <= 1 {
                guarded.wall = Some(script);
                return Ok(());
            }
        }
        Err(RunError::Network(format!("somebody else changes the wall of {instance} without pause")))
    }

    async fn admit(&mut self, admitted: Admitted) -> Result<(), RunError> {
        let (namespace, slot) = (admitted.namespace.clone(), self.slots);
        self.slots = self.slots.saturating_add(1);
        let opened = self.context.blocking(move || {
            network::inside(&namespace, || Ok((nft::Changes::open()?, network::Changes::open()?)))
        });
        let (rules, routes) = opened.await?;
        let number = |kind| slot.saturating_mul(KINDS).saturating_add(kind);
        let watch =
            |socket, kind| self.readiness.add(socket, number(kind)).map_err(RunError::io("watch a socket"));
        watch(rules.socket(), RULES)?;
        watch(routes.socket(), ROUTES)?;
        let instance = admitted.instance.clone();
        let since = Instant::now();
        let guarded = Guarded { admitted, since, slot, rules, routes, wall: None, confined: None };
        self.guarded.insert(instance.clone(), guarded);
        let up = self.put_wall(&instance, false).await;
        if up.is_err() {
            self.guarded.remove(&instance);
        }
        up
    }

    fn watch(
        &mut self,
        instance: &str,
        process: Process,
        limits: Limits,
        mounts: Option<String>,
    ) -> Result<(String, Altered), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else {
            return Err(RunError::Runtime(format!("{instance} was never admitted")));
        };
        let table = Arc::new(MountTable::of(&process).map_err(RunError::io("watch the module's mounts"))?);
        let mounts = match mounts {
            Some(mounts) => mounts,
            None => table.read().map_err(RunError::io("read the module's mounts"))?,
        };
        let mut folders = Vec::new();
        for folder in limits.folders() {
            match self.inotify.add_watch(&folder, AddWatchFlags::IN_MODIFY) {
                Ok(watch) => folders.push(watch),
                // The audit looks there all the same.
                Err(error) => tracing::debug!(folder = %folder.display(), %error, "a cgroup is not watched"),
            }
        }
        let (told, altered) = oneshot::channel();
        let follow = follow_mounts(Arc::clone(&table), Some(instance.to_owned()), self.orders.clone());
        guarded.confined = Some(Confined {
            cgroup: process.cgroup().ok(),
            process,
            folders,
            table,
            mounts: mounts.clone(),
            told: Some(told),
            said: None,
            said_at: Instant::now(),
            before: Held::default(),
            limits,
            _watch: Task(tokio::spawn(follow)),
        });
        self.look_at_mounts(instance);
        self.look_at_limits(instance)?;
        Ok((mounts, altered))
    }

    fn release(&mut self, instance: &str) {
        let Some(guarded) = self.guarded.remove(instance) else { return };
        for folder in guarded.confined.into_iter().flat_map(|confined| confined.folders) {
            // The kernel may have removed it with its folder.
            let _gone = self.inotify.rm_watch(folder);
        }
    }

    /// Sockets have news.
    async fn hear(&mut self, numbers: &[u64]) -> Result<(), RunError> {
        let since = Instant::now();
        if numbers.contains(&RULES) {
            let news = self.rules.take()?;
            if !news.is_empty() {
                self.rules_altered(&news, since).await?;
            }
        }
        let slots = |kind: u64| {
            numbers.iter().filter(move |number| *number % KINDS == kind).map(|number| number / KINDS)
        };
        for slot in slots(RULES) {
            if let Some(instance) = self.of_slot(slot) {
                self.wall_may_be_altered(&instance, since).await?;
            }
        }
        let routes: Vec<u64> = slots(ROUTES).collect();
        if routes.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        self.routes.take()?;
        if routes.contains(&0) {
            return self.look_at_network(since).await;
        }
        for slot in routes {
            if let Some(instance) = self.of_slot(slot) {
                self.look_inside(&instance, since).await?;
            }
        }
        Ok(())
    }

    fn of_slot(&self, slot: u64) -> Option<String> {
        self.guarded.iter().find(|(_, guarded)| guarded.slot == slot).map(|(instance, _)| instance.clone())
    }

    async fn rules_altered(&mut self, news: &nft::News, since: Instant) -> Result<(), RunError> {
        let Some(script) =
            self.in_force.take().or_else(|| self.wanted.as_ref().map(|rules| rules.gateway.clone()))
        else {
            return Ok(());
        };
        // Kept for another attempt, should this one fail.
        let put = self.put_rules(&script).await;
        if put.is_err() && self.wanted.is_none() {
            self.wanted = Some(Rules { gateway: script, walls: BTreeMap::new() });
        }
        put?;
        self.reports.altered(
            "rules",
            &format!("{} changed the rules of the packet filter", news.by()),
            since.elapsed(),
        );
        Ok(())
    }

    async fn wall_may_be_altered(&mut self, instance: &str, since: Instant) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let news = guarded.rules.take()?;
        if news.is_empty() {
            return Ok(());
        }
        let subject = guarded.admitted.module.to_string();
        self.put_wall(instance, true).await?;
        let what = format!("{} changed the rules in the module's network namespace", news.by());
        self.reports.altered(&subject, &what, since.elapsed());
        Ok(())
    }

    /// The gateway's ends of all modules' networks, and what all share.
    async fn look_at_network(&mut self, since: Instant) -> Result<(), RunError> {
        let own = self.gateway;
        let new = |guarded: &Guarded| guarded.since.elapsed() < NEW_FOR;
        let places: Vec<(bool, Admitted)> =
            self.guarded.values().map(|guarded| (new(guarded), guarded.admitted.clone())).collect();
        let looked = self.context.blocking(move || {
            let mut mended = Vec::new();
            let faults = network::gateway_faults(own)?;
            if !faults.is_empty() {
                network::prepare_gateway(own)?;
                mended.push(("network".to_owned(), faults));
            }
            let mut failed = Ok(());
            for (new, admitted) in places {
                match mend_place(&admitted, new) {
                    Ok(told) if told.is_empty() => {}
                    Ok(told) => mended.push((admitted.module.to_string(), told)),
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            Ok((mended, failed))
        });
        let (mended, failed) = looked.await?;
        self.forget_own_news()?;
        for (subject, faults) in mended {
            self.reports.altered(&subject, &faults.join("; "), since.elapsed());
        }
        failed
    }

    async fn look_inside(&mut self, instance: &str, since: Instant) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        guarded.routes.take()?;
        let admitted = guarded.admitted.clone();
        let looked = self.context.blocking(move || {
            let place = admitted.place;
            let faults = network::faults_inside(&admitted.namespace, place.address)?;
            if !faults.is_empty() {
                network::mend(&admitted.namespace, place.number, place.address)?;
            }
            Ok((admitted.module.to_string(), faults))
        });
        let (subject, faults) = looked.await?;
        self.forget_own_news()?;
        if !faults.is_empty() {
            self.reports.altered(&subject, &faults.join("; "), since.elapsed());
        }
        Ok(())
    }

    /// What was mended makes news itself.
    fn forget_own_news(&mut self) -> Result<(), RunError> {
        self.routes.take()?;
        for guarded in self.guarded.values_mut() {
            guarded.routes.take()?;
        }
        Ok(())
    }

    async fn look_at_namespaces(&mut self) -> Result<(), RunError> {
        let held: Vec<(Admitted, Process)> = self
            .guarded
            .values()
            .filter_map(|guarded| {
                Some((guarded.admitted.clone(), guarded.confined.as_ref()?.process.clone()))
            })
            .collect();
        let since = Instant::now();
        let looked = self.context.blocking(move || {
            let mut mended = Vec::new();
            let mut failed = Ok(());
            for (admitted, process) in held {
                match network::hold_namespace(&admitted.namespace, &process) {
                    Ok(true) => mended.push(admitted.module.to_string()),
                    Ok(false) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            Ok((mended, failed))
        });
        let (mended, failed) = looked.await?;
        for subject in mended {
            self.reports.altered(
                &subject,
                "the mount of the module's network namespace was removed",
                since.elapsed(),
            );
        }
        failed
    }

    fn look_at_limits(&mut self, instance: &str) -> Result<(), RunError> {
        let since = Instant::now();
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let Some(confined) = &mut guarded.confined else { return Ok(()) };
        let mended = confined.limits.mend()?;
        if !mended.is_empty() {
            let subject = guarded.admitted.module.to_string();
            self.reports.altered(&subject, &mended.join("; "), since.elapsed());
        }
        let said = confined.limits.said(confined.before);
        if said != confined.said {
            confined.said.clone_from(&said);
            confined.said_at = Instant::now();
        } else if said.is_some() && confined.said_at.elapsed() >= SAID_FOR {
            confined.before = confined.limits.held();
            confined.said = None;
        }
        self.context.board.set_note(&guarded.admitted.module, confined.said.clone());
        Ok(())
    }

    fn look_at_mounts(&mut self, instance: &str) {
        let Some(guarded) = self.guarded.get_mut(instance) else { return };
        let Some(confined) = &mut guarded.confined else { return };
        let what = match confined.table.read() {
            Ok(now) if now == confined.mounts => return,
            Ok(now) => difference(&confined.mounts, &now),
            Err(error) => format!("the module's mounts cannot be read: {error}"),
        };
        if confined.process.is_alive() {
            self.end(instance, &what);
        }
    }

    /// Ends an instance that is not confined as it was started.
    fn end(&mut self, instance: &str, what: &str) {
        let Some(guarded) = self.guarded.get_mut(instance) else { return };
        let Some(told) = guarded.confined.as_mut().and_then(|confined| confined.told.take()) else { return };
        let module = &guarded.admitted.module;
        let refusal = Refusal::new(Reason::ModuleAltered, module, format!("{what}; the instance was ended"));
        self.reports.tell(&refusal);
        // Whoever watches it may have seen its end already.
        drop(told.send(refusal));
    }

    fn list(&mut self) -> Listed {
        let mut listed = Listed::default();
        let mut read = |set: &str| {
            self.rules.counted(set).unwrap_or_else(|error| {
                tracing::warn!(error = %error.chain(), set, "the refused packets cannot be read");
                Vec::new()
            })
        };
        listed.gateway(&read("denied"), &read("spoofed"), &read("flooded"));
        for guarded in self.guarded.values_mut() {
            match guarded.rules.counted("denied") {
                Ok(denied) => {
                    listed.wall(guarded.admitted.place.number, guarded.admitted.place.address, &denied);
                }
                Err(error) => tracing::warn!(error = %error.chain(), "a wall's refusals cannot be read"),
            }
        }
        listed
    }

    /// Looks at everything, whatever events said.
    async fn audit(&mut self) -> Result<(), RunError> {
        let since = Instant::now();
        let news = self.rules.take()?;
        let lost = !self.rules.is_complete()?;
        if self.in_force.is_none() || lost || !news.is_empty() {
            self.rules_altered(&nft::News { lost, ..news }, since).await?;
        }
        // One module's fault hides no other from the audit.
        let mut fault = self.look_at_namespaces().await;
        fault = fault.and(self.look_at_network(since).await);
        let instances: Vec<String> = self.guarded.keys().cloned().collect();
        for instance in &instances {
            fault = fault.and(self.audit_wall(instance).await);
            fault = fault.and(self.look_inside(instance, since).await);
            fault = fault.and(self.look_at_limits(instance));
            self.look_at_mounts(instance);
            self.look_at_cgroup(instance);
        }
        self.reports.flush();
        fault?;
        self.open = false;
        self.reports.whole();
        Ok(())
    }

    async fn audit_wall(&mut self, instance: &str) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        if guarded.rules.is_complete()? && (guarded.wall.is_some() || self.wanted.is_none()) {
            return Ok(());
        }
        self.put_wall(instance, true).await
    }

    fn look_at_cgroup(&mut self, instance: &str) {
        let Some(confined) = self.guarded.get(instance).and_then(|guarded| guarded.confined.as_ref()) else {
            return;
        };
        if let (Some(own), Ok(now)) = (&confined.cgroup, confined.process.cgroup())
            && *own != now
        {
            let what = format!("the module's first process was moved to the cgroup {now}");
            self.end(instance, &what);
        }
    }

    async fn retire(&mut self) -> Result<(), RunError> {
        self.retired = true;
        self.wanted = None;
        self.in_force = None;
        self.tasks.clear();
        let (own, path) = (self.gateway, self.context.places.rules());
        let removed = self.context.blocking(move || {
            durable::remove(&path).map_err(RunError::io("forget the rules in force"))?;
            let table = nftables::TABLE;
            nft::apply(&format!("add table inet {table}\ndelete table inet {table}\n"))?;
            network::forget_gateway(own)
        });
        removed.await
    }
}

/// Puts the gateway's end of a module's network back. Says what of it is worth telling: the settings of a `new` one are
/// still being made.
fn mend_place(admitted: &Admitted, new: bool) -> Result<Vec<String>, RunError> {
    let place = admitted.place;
    let faults = network::faults(place.number, place.address)?;
    let settings = network::setting_faults(place.number);
    if !faults.is_empty() || !settings.is_empty() {
        network::mend(&admitted.namespace, place.number, place.address)?;
    }
    Ok([faults, if new { Vec::new() } else { settings }].concat())
}

/// What is in one list of mounts and not in the other, in plain words.
fn difference(before: &str, now: &str) -> String {
    let missing = |these: &str, those: &str| -> Vec<String> {
        let those: Vec<&str> = those.lines().collect();
        let places = these.lines().filter(|line| !those.contains(line));
        places.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).take(4).collect()
    };
    let (gone, new) = (missing(before, now), missing(now, before));
    if gone == new {
        return format!("a mount of the module was changed: {}", gone.join(", "));
    }
    let said = [("unmounted", gone), ("mounted", new)].into_iter().filter(|(_, places)| !places.is_empty());
    let said: Vec<String> =
        said.map(|(what, places)| format!("{} was {what} in the module", places.join(", "))).collect();
    said.join("; ")
}

async fn follow_mounts(table: Arc<MountTable>, instance: Option<String>, orders: mpsc::WeakSender<Order>) {
    while table.changed().await.is_ok() {
        let Some(orders) = orders.upgrade() else { return };
        if orders.send(Order::Mounts(instance.clone())).await.is_err() {
            return;
        }
        drop(orders);
        tokio::time::sleep(SETTLE).await;
    }
}

async fn follow_limits(readiness: Readiness, inotify: Arc<Inotify>, orders: mpsc::WeakSender<Order>) {
    while readiness.ready().await.is_ok() {
        let Ok(events) = inotify.read_events() else { continue };
        let mut folders: Vec<WatchDescriptor> = events.into_iter().map(|event| event.wd).collect();
        folders.sort_unstable();
        folders.dedup();
        let Some(orders) = orders.upgrade() else { return };
        if orders.send(Order::Limits(folders)).await.is_err() {
            return;
        }
        drop(orders);
        tokio::time::sleep(SETTLE_LIMITS).await;
    }
}
