//! Sends what the queue holds to the fleet, oldest first, and forgets it when the fleet has stored it.

use std::time::Duration;

use edgewarden_names::{Backoff, ErrorChain, Reason, Refusal};
use edgewarden_protocol::gateway_console::UpstreamStatus;
use edgewarden_protocol::uplink::{MESSAGES_BYTES_MAX, MESSAGES_MAX, Messages, MessagesReply};
use edgewarden_queue::Queue;
use edgewarden_transport::Clock;
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::jitter::jittered;
use tokio::sync::{mpsc, watch};

use crate::audit::Audit;
use crate::event::Event;
use crate::record;
use crate::store::Opening;

const PATH: &str = "/v1/gateway/messages";
const DEADLINE: Duration = Duration::from_secs(30);
const REPLY_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the fleet has not taken the messages")]
    Http(#[from] HttpError),
    #[error("the fleet has stored nothing of what was sent")]
    NoProgress,
    #[error("the fleet has another message under number {sequence}; ours go out again as epoch {epoch}")]
    Conflict { sequence: u64, epoch: edgewarden_queue::Epoch },
    #[error("cannot read or acknowledge the queue")]
    Queue(#[from] edgewarden_queue::QueueError),
    /// The queue authenticated it, so another version of this program wrote it.
    #[error("record {0} of the queue is of an unknown form")]
    Record(u64),
}

/// Runs for ever; without a link it waits, and the queue grows to its cap.
pub(crate) async fn serve(
    client: Client,
    mut opening: watch::Receiver<Opening>,
    status: watch::Sender<UpstreamStatus>,
    audit: Audit,
    clock: Clock,
    events: mpsc::Sender<Event>,
) {
    let Ok(queue) =
        opening.wait_for(|opening| matches!(opening, Some(Ok(_)))).await.map(|opening| opening.clone())
    else {
        return;
    };
    let Some(Ok(queue)) = queue else { return };
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut messages_max = MESSAGES_MAX;
    let mut changes = queue.watch();
    loop {
        if changes.wait_for(|status| status.messages > 0).await.is_err() {
            return;
        }
        match send_batch(&client, &queue, messages_max).await {
            Ok(()) => {
                backoff.reset();
                messages_max = messages_max.saturating_mul(2).min(MESSAGES_MAX);
                let new = UpstreamStatus::Connected { since: clock.now() };
                status.send_if_modified(|old| {
                    replace_if(old, new, |old| matches!(old, UpstreamStatus::Connected { .. }))
                });
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "messages wait for the fleet");
                if let UploadError::Conflict { .. } = &error {
                    audit.failed(Refusal::new(Reason::QueueConflict, "upstream queue", ErrorChain(&error)));
                    // The sessions are of the same disk.
                    if events.send(Event::OlderCopy).await.is_err() {
                        return;
                    }
                }
                if let UploadError::Http(HttpError::Refused(refusal)) = &error
                    && refusal.reason == Reason::RequestTooLarge
                {
                    messages_max = (messages_max / 2).max(1);
                }
                let new =
                    UpstreamStatus::Unreachable { since: clock.now(), error: ErrorChain(&error).to_string() };
                status.send_if_modified(|old| {
                    replace_if(old, new, |old| matches!(old, UpstreamStatus::Unreachable { .. }))
                });
                tokio::time::sleep(jittered(backoff.step())).await;
            }
        }
    }
}

/// `since` stays while the state does.
fn replace_if(old: &mut UpstreamStatus, new: UpstreamStatus, same: impl Fn(&UpstreamStatus) -> bool) -> bool {
    let change = !same(old);
    if change {
        *old = new;
    }
    change
}

async fn send_batch(client: &Client, queue: &Queue, messages_max: usize) -> Result<(), UploadError> {
    let records = queue.read(messages_max, MESSAGES_BYTES_MAX).await?;
    let Some(first) = records.first() else { return Ok(()) };
    let name = first.epoch.to_string();
    let of_one_epoch: Vec<_> = records.iter().take_while(|record| record.epoch == first.epoch).collect();
    let messages = of_one_epoch
        .iter()
        .map(|r| record::decode(&name, r.sequence, &r.body).ok_or(UploadError::Record(r.sequence)))
        .collect::<Result<Vec<_>, _>>()?;
    let last = of_one_epoch.last().map_or(first.sequence, |record| record.sequence);
    let reply: MessagesReply =
        client.post_json(PATH, &Messages { messages }, REPLY_BYTES_MAX, DEADLINE).await?;
    if let Some(sequence) = reply.conflict.filter(|sequence| (first.sequence..=last).contains(sequence)) {
        // What came before it is stored. Were it acknowledged after the epoch, a crash between would send it twice.
        if sequence > first.sequence {
            queue.acknowledge(sequence.saturating_sub(1)).await?;
        }
        let epoch = queue.begin_epoch().await?;
        return Err(UploadError::Conflict { sequence, epoch });
    }
    if reply.stored < first.sequence {
        return Err(UploadError::NoProgress);
    }
    // A fleet may not acknowledge what it has not been sent.
    queue.acknowledge(reply.stored.min(last)).await?;
    Ok(())
}
