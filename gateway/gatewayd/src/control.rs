//! `gatewayd` asks `identityd`: a connection for each request, every answer with a deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_exchange::client::{Client, ClientError};
use edgewarden_names::{Backoff, ErrorChain, GatewayName, Refusal};
use edgewarden_protocol::ask::Ask;
use edgewarden_protocol::control::{Enforcer, Reply, Request, Standing, questions};
use edgewarden_transport::Clock;
use edgewarden_transport::jitter::jittered;
use tokio::sync::{Semaphore, watch};

use crate::view::View;

const DEADLINE: Duration = Duration::from_secs(15);
/// `identityd` answers a [`Request::Watch`] after 30 seconds at the latest.
const WATCH_DEADLINE: Duration = Duration::from_secs(45);

/// Requests for leaf devices' certificates at a time.
const FOR_STRANGERS_MAX: usize = 4;

/// An error of a question to `identityd`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("identityd has not answered in time")]
    Deadline,
    #[error("the storage key has not 32 bytes")]
    KeyLength,
}

impl ControlError {
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Client(ClientError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }
}

/// Questions to `identityd`, each on a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    socket: PathBuf,
    /// `identityd` gives one process few connections: what strangers ask for must leave some to our own.
    for_strangers: Arc<Semaphore>,
}

impl Control {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, for_strangers: Arc::new(Semaphore::new(FOR_STRANGERS_MAX)) }
    }

    pub(crate) async fn ask<Q>(&self, question: Q) -> Result<Q::Answer, ControlError>
    where
        Q: Ask<Request = Request, Reply = Reply>,
    {
        self.ask_within(question, DEADLINE).await
    }

    async fn ask_within<Q>(&self, question: Q, deadline: Duration) -> Result<Q::Answer, ControlError>
    where
        Q: Ask<Request = Request, Reply = Reply>,
    {
        let request = question.into_request();
        let exchange = async {
            let _place = match request {
                Request::LeafIssue { .. } | Request::LeafRenew { .. } => {
                    self.for_strangers.acquire().await.ok()
                }
                _ => None,
            };
            Client::connect(&self.socket).await?.answer_to::<Q>(&request).await
        };
        Ok(tokio::time::timeout(deadline, exchange).await.map_err(|_| ControlError::Deadline)??)
    }
}

/// Follows what is in force. While `identityd` is away, what was in force last stays so.
pub(crate) async fn follow(
    control: Control,
    gateway: GatewayName,
    views: watch::Sender<View>,
    standing: watch::Sender<Option<Vec<Standing>>>,
    clock: Clock,
) {
    let mut seen = 0;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        match control.ask_within(questions::Watch { seen }, WATCH_DEADLINE).await {
            Ok(snapshot) => {
                backoff.reset();
                clock.tell(snapshot.time.offset_millis);
                standing.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&snapshot.standing);
                    if changed {
                        *known = Some(snapshot.standing.clone());
                    }
                    changed
                });
                if snapshot.revision == seen {
                    // It has waited already; this keeps one that does not from being asked in a tight loop.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                seen = snapshot.revision;
                match View::of(&snapshot, &gateway) {
                    Ok(view) => drop(views.send_replace(view)),
                    // The last good epoch stays in force, and this one is never reported as enforced.
                    Err(error) => {
                        tracing::error!(error = %ErrorChain(&error), "a policy epoch was not put in force");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "identityd does not say what is in force");
                // A new run of identityd counts its revisions anew.
                seen = 0;
                tokio::time::sleep(jittered(backoff.step())).await;
            }
        }
    }
}

/// Tells `identityd` which epoch is in force here, each time after something has been put in force: a new run of it has
/// forgotten what it was told, and begins with a view of its own.
pub(crate) async fn report(control: Control, mut applied: watch::Receiver<View>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let epoch = applied.borrow_and_update().epoch();
        if let Some(epoch) = epoch {
            let enforced = questions::EpochEnforced { enforcer: Enforcer::Gatewayd, epoch };
            match control.ask(enforced).await {
                Ok(()) => {}
                // It says so when the epoch is no longer the newest; the newest comes by the watch.
                Err(error) if error.refusal().is_some() => {}
                Err(error) => {
                    tracing::warn!(error = %ErrorChain(&error), "identityd was not told of the epoch");
                    tokio::time::sleep(jittered(backoff.step())).await;
                    continue;
                }
            }
            backoff.reset();
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}
