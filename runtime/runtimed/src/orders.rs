//! Orders to the guard: rules in force, an instance admitted, watched, let go.
//!
//! [`Guard`] is the handle; [`crate::guard`] carries the orders out.

use std::path::PathBuf;

use edgewarden_names::{ModuleName, Refusal};
use edgewarden_platform::process::Process;
use nix::sys::inotify::WatchDescriptor;
use tokio::sync::{mpsc, oneshot};

use crate::addresses::Place;
use crate::error::RunError;
use crate::kernel::{Listed, Rules};
use crate::limits::Limits;

/// Orders that wait for the guard at a time.
const ORDERS_MAX: usize = 64;

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

/// Channel for the one answer to an order.
type Answer<T> = oneshot::Sender<Result<T, RunError>>;

/// An order to the guard, or an event of the kernel's that reached it.
#[derive(Debug)]
pub enum Order {
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
    Listed(Answer<Listed>),
    Retire(Answer<()>),
    /// Something happened in these cgroups; without a list, in any.
    Limits(Option<Vec<WatchDescriptor>>),
    /// Something was mounted or unmounted: by an instance's name, or in our own namespace.
    Mounts(Option<String>),
}

/// Asks the guard. Cloning asks the same one.
#[derive(Debug, Clone)]
pub struct Guard {
    orders: mpsc::Sender<Order>,
}

impl Guard {
    /// A handle, and the end at which its orders arrive. Once every handle is dropped, that end is told so.
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, told) = mpsc::channel(ORDERS_MAX);
        (Self { orders }, told)
    }

    /// Orders for those that listen to the kernel: they keep no guard alive.
    pub fn downgrade(&self) -> mpsc::WeakSender<Order> {
        self.orders.downgrade()
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

    /// Refused flows and packets of the gateway's table and every wall.
    pub async fn listed(&self) -> Result<Listed, RunError> {
        self.ask(Order::Listed).await
    }

    /// Removes the gateway's table and guards it no longer.
    pub async fn retire(&self) -> Result<(), RunError> {
        self.ask(Order::Retire).await
    }
}
