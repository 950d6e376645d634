//! Persistent sessions on disk: who has one, to what it is subscribed and what was set aside in it ([`documents`]), the
//! messages that wait in it, and retained messages ([`journal`]).
//!
//! ```text
//! sessions/documents/module.<name>, leaf.<name>     sealed
//! sessions/home                                     where they were written
//! sessions/journal/                                 an encrypted queue
//! ```
//!
//! Nobody is let in before all of it is loaded, for a message that came earlier would miss the sessions it is for.

pub(crate) mod documents;
mod home;
mod index;
pub(crate) mod journal;
mod record;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_mqtt::broker::durable::Restored;
use edgewarden_names::{ErrorChain, Principal, Reason, Refusal};
use edgewarden_queue::sealed::Sealer;
use edgewarden_queue::{Queue, QueueError};
use tokio::sync::{mpsc, watch};

use crate::audit::Audit;
use crate::control::{Control, ControlError};
use crate::event::Event;
use crate::store::{Opening, storage_key};
use documents::{DocumentError, Documents, Found, ToWrite};
use home::Home;
use index::Index;
use journal::ToJournal;

/// Cleaning keeps it below an eighth of this and twice what the broker holds, for all sessions together and retained:
/// 36 MiB.
const JOURNAL_BYTES_MAX: u64 = 192 * 1024 * 1024;
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("identityd gives no storage key")]
    Key(#[from] ControlError),
    #[error("cannot open the journal of messages; move its folder away to go on without what waits in it")]
    Journal(#[from] QueueError),
    #[error("cannot read the sessions")]
    Documents(#[from] DocumentError),
    #[error("the journal's record {0} was written by another version of this program")]
    Record(u64),
    #[error("the process is ending")]
    Ending,
}

struct Loaded {
    restored: Restored<Principal>,
    damaged: Vec<Refusal>,
    queue: Queue,
    index: Index,
    documents: Documents,
}

/// The hub's requests.
pub(crate) struct Requests {
    pub(crate) journal: mpsc::UnboundedReceiver<ToJournal>,
    pub(crate) documents: mpsc::UnboundedReceiver<ToWrite>,
}

/// Loads the sessions, trying until it succeeds, then serves the hub.
pub(crate) async fn serve(
    folder: PathBuf,
    control: Control,
    audit: Audit,
    requests: Requests,
    opening: watch::Sender<Opening>,
    events: mpsc::Sender<Event>,
) {
    let loaded = loop {
        match load(&folder, &control).await {
            Ok(loaded) => break loaded,
            Err(LoadError::Key(error)) => {
                tracing::warn!(error = %ErrorChain(&error), "no storage key yet");
                tokio::time::sleep(RETRY / 20).await;
            }
            Err(error) => {
                tracing::error!(error = %ErrorChain(&error), "no client is let in");
                let refusal = Refusal::new(Reason::Internal, "sessions", ErrorChain(&error));
                audit.failed(refusal.clone());
                if events.send(Event::Restored(Err(refusal.clone()))).await.is_err() {
                    return;
                }
                drop(opening.send_replace(Some(Err(refusal))));
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let Loaded { restored, damaged, queue, index, documents } = loaded;
    for refusal in damaged {
        tracing::error!(%refusal, "sessions are not as they were");
        audit.failed(refusal);
    }
    tracing::info!(sessions = restored.sessions.len(), messages = index.len(), "sessions are loaded");
    if events.send(Event::Restored(Ok(Box::new(restored)))).await.is_err() {
        return;
    }
    // After the event: who comes in by this comes behind it.
    drop(opening.send_replace(Some(Ok(queue.clone()))));
    tokio::join!(
        journal::serve(queue, index, requests.journal, events.clone()),
        documents::serve(documents, requests.documents, events),
    );
}

async fn load(folder: &Path, control: &Control) -> Result<Loaded, LoadError> {
    let key = storage_key(control).await?;
    // A wrong key ends it here, before it makes documents look damaged.
    let queue = Queue::open(&folder.join("journal"), key.clone(), JOURNAL_BYTES_MAX).await?;
    let loaded = load_with(folder, &queue, Sealer::new(key)).await;
    match loaded {
        Ok((restored, damaged, index, documents)) => {
            Ok(Loaded { restored, damaged, queue, index, documents })
        }
        Err(error) => {
            queue.close().await;
            Err(error)
        }
    }
}

/// All documents. Where they are an older copy, each says so before the folder says that it is the original. Blocks.
fn load_documents(documents: &Documents, folder: &Path) -> Result<Found, DocumentError> {
    let io = |what| {
        let path = folder.to_owned();
        move |source| DocumentError::Io { what, path, source }
    };
    let mut found = documents.load()?;
    let home = Home::of(folder).map_err(io("look at"))?;
    if home == Home::Copy {
        for (client, document) in &mut found.sessions {
            document.lost = true;
            documents.write(client, Some(document))?;
        }
        let rule = format!(
            "`{}` is not where it was written: it was restored from a backup, and the clients of {} sessions are told to \
             subscribe again",
            folder.display(),
            found.sessions.len(),
        );
        found.damaged.push(Refusal::new(Reason::SessionsRestored, "sessions", rule));
    }
    if home != Home::Original {
        home::settle(folder).map_err(io("mark"))?;
    }
    Ok(found)
}

async fn load_with(
    folder: &Path,
    queue: &Queue,
    sealer: Sealer,
) -> Result<(Restored<Principal>, Vec<Refusal>, Index, Documents), LoadError> {
    let documents = Documents::new(&folder.join("documents"), sealer);
    let (reader, home) = (documents.clone(), folder.to_owned());
    let load = move || load_documents(&reader, &home);
    let found = tokio::task::spawn_blocking(load).await.map_err(|_| LoadError::Ending)??;
    let mut records = Vec::new();
    let mut next_number = 0;
    for stored in queue.read(usize::MAX, usize::MAX).await? {
        let record = record::decode(&stored.body).ok_or(LoadError::Record(stored.sequence))?;
        match &record {
            record::Record::Message(message) => next_number = next_number.max(message.number),
            record::Record::Retained(message) => next_number = next_number.max(message.number),
            record::Record::Settled(_) => {}
        }
        records.push((stored.sequence, record, stored.body.len()));
    }
    let sessions: HashMap<_, _> = found.sessions.iter().cloned().collect();
    let aside =
        sessions.values().flat_map(|document| document.set_aside.iter().map(|message| message.number));
    let newest = sessions.values().map(|document| document.since).chain(aside).max().unwrap_or(0);
    next_number = next_number.max(newest).saturating_add(1);
    for mut message in found.retained {
        // An earlier version of this program kept them in a document.
        message.number = next_number;
        next_number = next_number.saturating_add(1);
        if let Some(body) = record::encode_retained(&message) {
            let bytes = body.len();
            let sequence = queue.append(body).await?;
            records.push((sequence, record::Record::Retained(message), bytes));
        }
    }
    let remover = documents.clone();
    tokio::task::spawn_blocking(move || remover.retained_moved()).await.map_err(|_| LoadError::Ending)??;
    let (index, messages, retained) = Index::rebuild(records, &sessions);
    let restored = Restored { sessions: found.sessions, messages, retained, next_number };
    Ok((restored, found.damaged, index, documents))
}
