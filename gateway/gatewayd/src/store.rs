//! Between the hub and the upstream queue.

use std::path::PathBuf;
use std::time::Duration;

use edgewarden_mqtt::broker::Ticket;
use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_platform::reserve::is_behind;
use edgewarden_protocol::control::questions;
use edgewarden_queue::{Appending, Queue, QueueError};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::audit::Audit;
use crate::control::{Control, ControlError};
use crate::event::{Event, ToStore};
use crate::record;

/// Wait before a queue that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The queue: not known yet, open, or why not.
pub(crate) type Opening = Option<Result<Queue, Refusal>>;

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("identityd gives no storage key")]
    Key(#[from] ControlError),
    #[error("cannot open the upstream queue")]
    Queue(#[from] QueueError),
}

/// Opens the queue with the key that `identityd` releases; tries until it is open.
pub(crate) async fn open(
    folder: PathBuf,
    bytes_max: u64,
    control: Control,
    audit: Audit,
    opening: watch::Sender<Opening>,
) {
    loop {
        match try_open(&folder, bytes_max, &control).await {
            Ok(queue) => {
                tracing::info!(
                    queue = queue.id(),
                    messages = queue.status().messages,
                    "the upstream queue is open"
                );
                drop(opening.send_replace(Some(Ok(queue))));
                return;
            }
            // identityd is not there yet, or has no key yet: publications for upstream wait.
            Err(OpenError::Key(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "no storage key yet");
                tokio::time::sleep(RETRY / 20).await;
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "publications for upstream are refused");
                let refusal = Refusal::new(Reason::Internal, "upstream queue", ErrorChain(&error));
                audit.failed(refusal.clone());
                drop(opening.send_replace(Some(Err(refusal))));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn try_open(folder: &std::path::Path, bytes_max: u64, control: &Control) -> Result<Queue, OpenError> {
    let key = storage_key(control).await?;
    Ok(Queue::open_shared(folder, key, bytes_max, record::sender_of).await?)
}

/// The key for all that this process keeps on disk.
pub(crate) async fn storage_key(control: &Control) -> Result<Zeroizing<[u8; 32]>, ControlError> {
    let key = control.ask(questions::StorageKey).await?;
    <[u8; 32]>::try_from(key.expose()).map(Zeroizing::new).map_err(|_| ControlError::KeyLength)
}

/// Puts what the hub hands over on disk, in order, and tells the hub in that order. Ends with the hub.
pub(crate) async fn serve(
    mut requests: mpsc::UnboundedReceiver<ToStore>,
    mut opening: watch::Receiver<Opening>,
    events: mpsc::Sender<Event>,
) {
    // Bounded as the requests are. Waiting apart lets the queue commit many together.
    let (submitted, mut pending) = mpsc::unbounded_channel::<(Ticket, Result<Appending, Refusal>)>();
    let completing = async move {
        while let Some((ticket, appending)) = pending.recv().await {
            let outcome = match appending {
                Ok(appending) => appending.done().await.map(drop).map_err(|error| refusal(&error)),
                Err(refusal) => Err(refusal),
            };
            // A hub that is gone has acknowledged nothing more.
            drop(events.send(Event::Stored { ticket, outcome }).await);
        }
    };
    let submitting = async move {
        while let Some(ToStore { ticket, body }) = requests.recv().await {
            let Ok(queue) = opening.wait_for(Option::is_some).await.map(|opening| opening.clone()) else {
                return;
            };
            let appending = match queue {
                Some(Ok(queue)) => queue.submit(body).await.map_err(|error| refusal(&error)),
                Some(Err(refusal)) => Err(refusal),
                None => Err(Refusal::new(Reason::Busy, "upstream queue", "it is not open yet")),
            };
            // The other end lives as long as this one.
            submitted.send((ticket, appending)).ok();
        }
    };
    tokio::join!(completing, submitting);
}

fn refusal(error: &QueueError) -> Refusal {
    let reason = match error {
        QueueError::Full { .. } | QueueError::Share { .. } => Reason::QueueFull,
        QueueError::TooLarge(_) => Reason::RequestTooLarge,
        error if is_behind(error) => Reason::Storage,
        _ => Reason::Internal,
    };
    Refusal::new(reason, "upstream queue", ErrorChain(error))
}
