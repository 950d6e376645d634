//! Keeps in force what stands outside of this process: rule sets, walls, interfaces, routes, limits, mounts.
//!
//! * `following`: events, as orders · `hearing`: what they mean · `auditing`: a look at everything · `mending`: putting back
//! * `confining`: what holds an instance's processes · `report`: who is told
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

mod auditing;
mod confining;
mod following;
mod hearing;
mod mending;
mod report;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::Refusal;
use edgewarden_platform::durable;
use edgewarden_platform::mounts::MountTable;
use edgewarden_platform::process::Process;
use edgewarden_platform::readiness::Readiness;
use edgewarden_policy::nftables;
use nix::sys::inotify::{InitFlags, Inotify, WatchDescriptor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::following::{follow_limits, follow_mounts};
use self::report::Reports;
use crate::context::Context;
use crate::error::RunError;
use crate::kernel::Rules;
use crate::limits::{LimitHits, Limits};
use crate::orders::{Admitted, Guard, Order};
use crate::{network, nft};

/// Time between two looks at everything of which no event may have told.
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// Time between two tries to put something back.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A rule set of the largest deployment is a few megabytes.
const SCRIPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Starts guarding: with the rules that were in force last, and without such with none that let anything through.
/// Comes back when they are in force. Dropping all handles ends the guard, and leaves everything in force.
pub async fn start(context: &Arc<Context>, gateway: Ipv4Addr) -> Result<Guard, RunError> {
    let (guard, told) = Guard::new();
    let mut keeper = Keeper::new(Arc::clone(context), gateway, guard.downgrade())?;
    keeper.take_up().await?;
    tokio::spawn(keeper.run(told));
    Ok(guard)
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An instance under guard.
#[derive(Debug)]
struct Guarded {
    admitted: Admitted,
    since: Instant,
    slot: u64,
    rules: nft::Changes,
    routes: network::Changes,
    /// The script that is to stand there. `None`: nothing is known yet.
    wall: Option<String>,
    /// It stands, as far as events tell.
    whole: bool,
    confined: Option<Confined>,
}

/// Limits, mounts and cgroup of an instance's processes.
#[derive(Debug)]
struct Confined {
    process: Process,
    limits: Limits,
    cgroup: Option<String>,
    folders: Vec<WatchDescriptor>,
    table: Arc<MountTable>,
    mounts: String,
    told: Option<oneshot::Sender<Refusal>>,
    /// The note that is on the board.
    said: Option<Refusal>,
    said_at: Instant,
    before: LimitHits,
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
    /// `true` when something could not be put back.
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
                drop(answer.send(Ok(self.list())));
            }
            Order::Retire(answer) => {
                let done = self.retire().await;
                drop(answer.send(done));
            }
            Order::Limits(folders) => return self.hear_limits(folders.as_deref()),
            Order::Mounts(Some(instance)) => self.look_at_mounts(&instance),
            Order::Mounts(None) => return self.look_at_namespaces().await,
        }
        Ok(())
    }
}
