//! The small files: one for each persistent session. Sealed with the storage key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgewarden_mqtt::broker::durable::{Document, SavedRetained, SetAside};
use edgewarden_mqtt::packet::Qos;
use edgewarden_mqtt::{TopicFilter, TopicName};
use edgewarden_names::{ErrorChain, LeafName, ModuleName, Principal, Reason, Refusal, UnixTime};
use edgewarden_platform::durable;
use edgewarden_protocol::Bytes;
use edgewarden_queue::QueueError;
use edgewarden_queue::sealed::Sealer;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::record;
use crate::event::Event;

/// Upper bound of a session's file: above what the broker's limits let a session grow to.
const BYTES_MAX: usize = 1024 * 1024;
/// Name of the document that held the retained messages before they went into the journal.
const RETAINED: &str = "retained";
/// Documents written between two looks at what else is to be written.
const BATCH_MAX: usize = 64;

/// A session's document for the disk; without one the session is gone. Bounded: the broker has one of each under way.
#[derive(Debug)]
pub(crate) struct ToWrite {
    pub(crate) client: Principal,
    pub(crate) version: u64,
    pub(crate) document: Option<Document<Principal>>,
}

/// An error of the sessions' folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("cannot {what} `{}`", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot seal a document: the system gives no randomness")]
    Seal,
    #[error("a document cannot be written in its form")]
    Form,
}

/// Content of a session's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    client: Principal,
    since: u64,
    lost: bool,
    #[serde(default)]
    away_seconds: u64,
    subscriptions: Vec<Subscription>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<Aside>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscription {
    filter: String,
    qos: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Aside {
    number: u64,
    from: Principal,
    topic: String,
    payload: Bytes,
    retain: bool,
    at: UnixTime,
    connections: u8,
}

const VERSION: u32 = 1;

/// All documents that could be read, and what is to be said of the others.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sessions: Vec<(Principal, Document<Principal>)>,
    /// From before they were in the journal.
    pub(crate) retained: Vec<SavedRetained<Principal>>,
    pub(crate) damaged: Vec<Refusal>,
}

/// The sessions' folder, with the key that its files are sealed under.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    folder: PathBuf,
    sealer: Arc<Sealer>,
}

impl Documents {
    pub(crate) fn new(folder: &Path, sealer: Sealer) -> Self {
        Self { folder: folder.to_owned(), sealer: Arc::new(sealer) }
    }

    /// Blocks. A damaged document is put aside and told of; its session goes on without its subscriptions, and the
    /// client is told to subscribe again.
    pub(crate) fn load(&self) -> Result<Found, DocumentError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| DocumentError::Io { what, path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(io("make", &self.folder))?;
        durable::sweep(&self.folder).map_err(io("clean", &self.folder))?;
        let mut found = Found::default();
        for entry in std::fs::read_dir(&self.folder).map_err(io("list", &self.folder))? {
            let entry = entry.map_err(io("list", &self.folder))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = entry.path();
            if let Some(client) = client_of(name) {
                match self.read(name, &path).map(|bytes| parse(&client, &bytes)) {
                    Ok(Some(document)) => found.sessions.push((client, document)),
                    read => {
                        let document = Document { lost: true, ..Document::default() };
                        let next = format!("`{client}` must subscribe again; what waits for it is kept");
                        found.damaged.push(self.put_aside(name, read.err(), &next)?);
                        self.write(&client, Some(&document))?;
                        found.sessions.push((client, document));
                    }
                }
            } else if name == RETAINED {
                match self.read(name, &path).map(|bytes| record::decode_retained(&bytes)) {
                    Ok(Some(messages)) => found.retained = messages,
                    read => {
                        let next = "retained messages must be published again";
                        found.damaged.push(self.put_aside(name, read.err(), next)?);
                        self.retained_moved()?;
                    }
                }
            }
        }
        Ok(found)
    }

    fn read(&self, name: &str, path: &Path) -> Result<Vec<u8>, QueueError> {
        let failed =
            |source| QueueError::Io { what: "read", path: path.to_owned(), source: Arc::new(source) };
        let bytes = durable::read(path, BYTES_MAX).map_err(failed)?;
        let bytes = bytes.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        self.sealer.open(name, path, &bytes)
    }

    /// The file stays for whoever wants to look at it, under a name that nobody reads.
    fn put_aside(&self, name: &str, why: Option<QueueError>, next: &str) -> Result<Refusal, DocumentError> {
        let path = self.folder.join(name);
        let aside = self.folder.join(format!("{name}.damaged"));
        let kept = durable::remove(&aside).and_then(|()| std::fs::hard_link(&path, &aside));
        kept.map_err(|source| DocumentError::Io { what: "put aside", path: path.clone(), source })?;
        let why = why.map_or_else(
            || "it was written by another version of this program".to_owned(),
            |error| ErrorChain(&error).to_string(),
        );
        let rule = format!("{why}; it was put aside as `{}`: {next}", aside.display());
        Ok(Refusal::new(Reason::Internal, format_args!("session document `{}`", path.display()), rule))
    }

    /// The retained messages are in the journal. Blocks.
    pub(crate) fn retained_moved(&self) -> Result<(), DocumentError> {
        let path = self.folder.join(RETAINED);
        durable::remove(&path).map_err(|source| DocumentError::Io { what: "remove", path, source })
    }

    pub(crate) fn write(
        &self,
        client: &Principal,
        document: Option<&Document<Principal>>,
    ) -> Result<(), DocumentError> {
        let name = name_of(client);
        let path = self.folder.join(&name);
        let (what, written) = match document {
            Some(document) => {
                let document = stored(client, document)?;
                let sealed = self.sealer.seal(&name, &document).ok_or(DocumentError::Seal)?;
                ("write", durable::write(&path, &sealed, 0o600))
            }
            None => ("remove", durable::remove(&path)),
        };
        written.map_err(|source| DocumentError::Io { what, path, source })
    }
}

/// Writes what the hub hands over and tells the hub. Ends with the hub.
pub(crate) async fn serve(
    documents: Documents,
    mut requests: mpsc::UnboundedReceiver<ToWrite>,
    events: mpsc::Sender<Event>,
) {
    loop {
        let mut batch = Vec::new();
        if requests.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let documents = documents.clone();
        let written = tokio::task::spawn_blocking(move || {
            let write = |ToWrite { client, version, document }| {
                let outcome = documents.write(&client, document.as_ref()).map_err(|error| {
                    tracing::error!(error = %ErrorChain(&error), "a session is not on disk");
                    Refusal::new(Reason::Internal, "session document", ErrorChain(&error))
                });
                Event::Documented { client, version, outcome }
            };
            batch.into_iter().map(write).collect::<Vec<_>>()
        });
        // Only a runtime that ends lets it fail.
        let Ok(outcomes) = written.await else { return };
        for outcome in outcomes {
            if events.send(outcome).await.is_err() {
                return;
            }
        }
    }
}

fn name_of(client: &Principal) -> String {
    match client {
        Principal::Module(name) => format!("module.{name}"),
        Principal::Leaf(name) => format!("leaf.{name}"),
    }
}

fn client_of(name: &str) -> Option<Principal> {
    match name.split_once('.')? {
        ("module", name) => ModuleName::parse(name).ok().map(Principal::Module),
        ("leaf", name) => LeafName::parse(name).ok().map(Principal::Leaf),
        _ => None,
    }
}

fn stored(client: &Principal, document: &Document<Principal>) -> Result<Vec<u8>, DocumentError> {
    let subscriptions = document.subscriptions.iter().map(|(filter, qos)| Subscription {
        filter: filter.as_str().to_owned(),
        qos: u8::from(*qos != Qos::AtMostOnce),
    });
    let set_aside = document.set_aside.iter().map(|message| Aside {
        number: message.number,
        from: message.from.clone(),
        topic: message.topic.as_str().to_owned(),
        payload: Bytes(message.payload.to_vec()),
        retain: message.retain,
        at: message.at,
        connections: message.connections,
    });
    let stored = Stored {
        version: VERSION,
        client: client.clone(),
        since: document.since,
        lost: document.lost,
        away_seconds: document.away_seconds,
        subscriptions: subscriptions.collect(),
        set_aside: set_aside.collect(),
    };
    serde_json::to_vec(&stored).map_err(|_| DocumentError::Form)
}

fn parse(client: &Principal, bytes: &[u8]) -> Option<Document<Principal>> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    if stored.version != VERSION || stored.client != *client {
        return None;
    }
    let subscription = |Subscription { filter, qos }| {
        let qos = match qos {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => return None,
        };
        Some((TopicFilter::parse(&filter).ok()?, qos))
    };
    let subscriptions = stored.subscriptions.into_iter().map(subscription).collect::<Option<Vec<_>>>()?;
    let aside = |aside: Aside| {
        Some(SetAside {
            number: aside.number,
            from: aside.from,
            topic: TopicName::parse(&aside.topic).ok()?,
            payload: Arc::from(aside.payload.as_slice()),
            retain: aside.retain,
            at: aside.at,
            connections: aside.connections,
        })
    };
    let set_aside = stored.set_aside.into_iter().map(aside).collect::<Option<Vec<_>>>()?;
    let Stored { since, lost, away_seconds, .. } = stored;
    Some(Document { since, lost, away_seconds, subscriptions, set_aside })
}
