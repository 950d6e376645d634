//! The life of one module: started, watched, started again after its backoff, stopped when told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_protocol::deployment::{Module, Restart};
use edgewarden_protocol::uplink::ModuleState;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::control::ModuleStatus;
use crate::images;
use crate::instance::{self, Exit, Instance, Place};
use crate::secrets;

const ENDED_BYTES_MAX: usize = 1024 * 1024;
/// A start that was refused for what the image or the gateway is, is tried again this late, or when something changed.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// What a worker is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Orders {
    stop: bool,
    /// Rises when what refused a start may have changed.
    attempt: u64,
    /// The count of changes of secrets that is in force.
    secrets: u64,
}

/// A module that is to run. Dropping it leaves the module running and unwatched.
#[derive(Debug)]
pub struct Worker {
    pub module: Module,
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Worker {
    /// `adopted` runs already.
    pub fn spawn(context: Arc<Context>, module: Module, place: Place, adopted: Option<Instance>) -> Self {
        let (orders, told) = watch::channel(Orders::default());
        let life = Life {
            status: ModuleStatus {
                name: module.name.clone(),
                image: module.image.to_string(),
                state: ModuleState::Starting,
                generation: None,
                instance: None,
                pid: None,
                address: Some(place.address),
                restarts: 0,
                reason: None,
            },
            context,
            module: module.clone(),
            place,
            told,
            backoff: Backoff::default(),
            delivered: None,
        };
        Self { module, orders, task: tokio::spawn(life.run(adopted)) }
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

    /// Stops the module and cleans up. Returns when that is done.
    pub async fn stop(self) {
        self.orders.send_modify(|orders| orders.stop = true);
        if let Err(error) = self.task.await {
            tracing::error!(module = %self.module.name, %error, "a worker ended early");
        }
    }
}

struct Life {
    context: Arc<Context>,
    module: Module,
    place: Place,
    told: watch::Receiver<Orders>,
    status: ModuleStatus,
    backoff: Backoff,
    /// The count of changes of secrets that the running instance has seen.
    delivered: Option<u64>,
}

impl Life {
    async fn run(mut self, mut adopted: Option<Instance>) {
        if adopted.is_none()
            && let Some(reason) = self.ended_before()
        {
            self.show(ModuleState::Stopped, Some(reason));
            self.wait_for_stop().await;
        }
        while !self.told.borrow().stop {
            let instance = match adopted.take() {
                Some(instance) => instance,
                None => match self.start().await {
                    Ok(Some(instance)) => instance,
                    Ok(None) => break,
                    Err(refusal) => {
                        self.refused(refusal).await;
                        continue;
                    }
                },
            };
            if let Some(reason) = self.watch(instance).await {
                self.keep_ended(&reason);
                self.show(ModuleState::Stopped, Some(reason));
                self.wait_for_stop().await;
            }
        }
        if let Err(error) = durable::remove(&self.context.places.ended(&self.module.name)) {
            tracing::warn!(module = %self.module.name, %error, "the note of a module's end was not removed");
        }
        self.context.board.remove_module(&self.module.name);
    }

    /// `None` when the order to stop came first.
    async fn start(&mut self) -> Result<Option<Instance>, Refusal> {
        self.show(ModuleState::Pulling, None);
        let ready = tokio::select! {
            ready = images::ready(&self.context.store, &self.context.identityd, &self.context.config.runtime, &self.module) => ready?,
            () = stopped(&mut self.told) => return Ok(None),
        };
        self.show(ModuleState::Starting, None);
        let secrets = self.told.borrow().secrets;
        // Carried to its end even when the order to stop comes meanwhile: half a start is cleaned by nobody.
        let instance = instance::start(&self.context, &self.module, self.place, &ready).await?;
        self.delivered = Some(secrets);
        Ok(Some(instance))
    }

    async fn refused(&mut self, refusal: Refusal) {
        tracing::warn!(module = %self.module.name, reason = refusal.reason.code(), %refusal, "the module does not start");
        // Trouble that passes by itself is tried sooner than a refusal that somebody must remove.
        let passing = matches!(
            refusal.reason,
            Reason::Internal
                | Reason::Busy
                | Reason::IdentityUnavailable
                | Reason::ImageUnavailable
                | Reason::StartPermit
        );
        let wait = if passing { self.backoff.after(Duration::ZERO) } else { REFUSED_WAIT };
        // Nothing is wrong with a module whose secret has not come yet; it starts when it does.
        let waits = passing || refusal.reason == Reason::SecretMissing;
        let state = if waits { ModuleState::Waiting } else { ModuleState::Refused };
        self.show(state, Some(refusal));
        self.rest(wait).await;
    }

    /// How the module ended, when it ended for good in the time of an earlier daemon and is still the same.
    fn ended_before(&self) -> Option<Refusal> {
        let path = self.context.places.ended(&self.module.name);
        let bytes = durable::read(&path, ENDED_BYTES_MAX).ok().flatten()?;
        let (module, reason): (Module, Refusal) = serde_json::from_slice(&bytes).ok()?;
        (module == self.module).then_some(reason)
    }

    fn keep_ended(&self, reason: &Refusal) {
        let path = self.context.places.ended(&self.module.name);
        let kept = serde_json::to_vec(&(&self.module, reason))
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::write(&path, &bytes, 0o600));
        if let Err(error) = kept {
            tracing::warn!(module = %self.module.name, %error, "the end of a module is not noted: a new daemon will start it again");
        }
    }

    /// Watches until the end or the order to stop. Says how it ended when it is not to run again.
    async fn watch(&mut self, instance: Instance) -> Option<Refusal> {
        self.status.generation = Some(instance.record.generation);
        self.status.instance = Some(instance.record.instance.clone());
        self.status.pid = Some(instance.process.pid());
        self.show(ModuleState::Running, None);
        tracing::info!(module = %self.module.name, instance = %instance.record.instance, pid = instance.process.pid(), "the module runs");
        let since = Instant::now();
        let mut secrets =
            Rotation::new(&self.context, &self.module, self.told.clone(), self.delivered.take());
        let exit = tokio::select! {
            exit = instance.exited() => Some(exit),
            () = stopped(&mut self.told) => None,
            () = secrets.follow(&instance) => None,
        };
        if exit.is_none() {
            instance.stop(&self.context).await;
        }
        instance::clean(&self.context, &instance.record).await;
        self.status.pid = None;
        self.status.instance = None;
        let exit = exit?;
        let again = match self.module.restart {
            Restart::Always => true,
            Restart::OnFailure => exit != Exit::Code(0),
            Restart::Never => false,
        };
        tracing::info!(module = %self.module.name, instance = %instance.record.instance, %exit, again, "the module ended");
        let reason = Refusal::new(Reason::ModuleExited, &self.module.name, exit);
        if !again {
            return Some(reason);
        }
        self.status.restarts = self.status.restarts.saturating_add(1);
        self.show(ModuleState::Waiting, Some(reason));
        let wait = self.backoff.after(since.elapsed());
        self.rest(wait).await;
        None
    }

    /// Waits for a time, for a reason to try again, or for the order to stop.
    async fn rest(&mut self, wait: Duration) {
        let before = *self.told.borrow_and_update();
        if before.stop {
            return;
        }
        let changed = self.told.wait_for(|orders| *orders != before);
        // A sender that is gone means that the daemon ends: the timeout is as good as any.
        drop(tokio::time::timeout(wait, changed).await);
    }

    async fn wait_for_stop(&mut self) {
        stopped(&mut self.told).await;
    }

    fn show(&mut self, state: ModuleState, reason: Option<Refusal>) {
        self.status.state = state;
        self.status.reason = reason;
        self.context.board.set_module(self.status.clone());
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
        let mut backoff = Backoff::default();
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

/// Returns at the order to stop; never when the daemon just ends.
async fn stopped(told: &mut watch::Receiver<Orders>) {
    if told.wait_for(|orders| orders.stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
