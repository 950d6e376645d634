//! The small files: one for each persistent session, and one with the retained messages. Sealed with the storage key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgewarden_mqtt::TopicFilter;
use edgewarden_mqtt::broker::durable::{Document, SavedRetained};
use edgewarden_mqtt::packet::Qos;
use edgewarden_names::{LeafName, ModuleName, Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_policy::Principal;
use edgewarden_queue::QueueError;
use edgewarden_queue::sealed::Sealer;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::record;
use crate::control::Chain;
use crate::hub::Event;

/// Above what the broker's limits let a session or the retained messages grow to.
const BYTES_MAX: usize = 1024 * 1024;
const RETAINED: &str = "retained";
/// Documents written between two looks at what else is to be written.
const BATCH_MAX: usize = 64;

/// What is to be put on disk. Bounded: the broker has one of each document under way.
#[derive(Debug)]
pub(crate) enum ToWrite {
    Session { client: Principal, version: u64, document: Option<Document> },
    Retained { version: u64, messages: Vec<SavedRetained<Principal>> },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("cannot {what} `{}`", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot seal a document: the system gives no randomness")]
    Seal,
    #[error("a document cannot be written in its form")]
    Form,
}

/// What is in a session's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    client: Principal,
    since: u64,
    lost: bool,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscription {
    filter: String,
    qos: u8,
}

const VERSION: u32 = 1;

/// All documents that could be read, and what is to be said of the others.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sessions: Vec<(Principal, Document)>,
    pub(crate) retained: Vec<SavedRetained<Principal>>,
    pub(crate) damaged: Vec<Refusal>,
}

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
                        let instead = ToWrite::Session {
                            client: client.clone(),
                            version: 0,
                            document: Some(document.clone()),
                        };
                        let next = format!("`{client}` must subscribe again; what waits for it is kept");
                        found.damaged.push(self.put_aside(name, &instead, read.err(), &next)?);
                        found.sessions.push((client, document));
                    }
                }
            } else if name == RETAINED {
                match self.read(name, &path).map(|bytes| record::decode_retained(&bytes)) {
                    Ok(Some(messages)) => found.retained = messages,
                    read => {
                        let instead = ToWrite::Retained { version: 0, messages: Vec::new() };
                        let next = "retained messages must be published again";
                        found.damaged.push(self.put_aside(name, &instead, read.err(), next)?);
                    }
                }
            }
        }
        Ok(found)
    }

    fn read(&self, name: &str, path: &Path) -> Result<Vec<u8>, QueueError> {
        let bytes = durable::read(path, BYTES_MAX).map_err(|source| QueueError::Io {
            what: "read",
            path: path.to_owned(),
            source: Arc::new(source),
        })?;
        self.sealer.open(name, path, &bytes.unwrap_or_default())
    }

    /// The file stays for whoever wants to look at it, under a name that nobody reads; `instead` takes its place.
    fn put_aside(
        &self,
        name: &str,
        instead: &ToWrite,
        why: Option<QueueError>,
        next: &str,
    ) -> Result<Refusal, DocumentError> {
        let path = self.folder.join(name);
        let aside = self.folder.join(format!("{name}.damaged"));
        let kept = durable::remove(&aside).and_then(|()| std::fs::hard_link(&path, &aside));
        kept.map_err(|source| DocumentError::Io { what: "put aside", path: path.clone(), source })?;
        self.write(instead)?;
        let why = why.map_or_else(
            || "it was written by another version of this program".to_owned(),
            |error| Chain(&error).to_string(),
        );
        let rule = format!("{why}; it was put aside as `{}`: {next}", aside.display());
        Ok(Refusal::new(Reason::Internal, format_args!("session document `{}`", path.display()), rule))
    }

    fn write(&self, request: &ToWrite) -> Result<(), DocumentError> {
        let (name, document) = match request {
            ToWrite::Session { client, document, .. } => {
                (name_of(client), document.as_ref().map(|document| stored(client, document)).transpose()?)
            }
            ToWrite::Retained { messages, .. } => {
                (RETAINED.to_owned(), Some(record::encode_retained(messages).ok_or(DocumentError::Form)?))
            }
        };
        let path = self.folder.join(&name);
        let (what, written) = match document {
            Some(document) => {
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
            let write = |request| {
                let outcome = documents.write(&request).map_err(|error| {
                    tracing::error!(error = %Chain(&error), "a session is not on disk");
                    Refusal::new(Reason::Internal, "session document", Chain(&error))
                });
                match request {
                    ToWrite::Session { client, version, .. } => {
                        Event::Documented { client, version, outcome }
                    }
                    ToWrite::Retained { version, .. } => Event::RetainedWritten { version, outcome },
                }
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

fn stored(client: &Principal, document: &Document) -> Result<Vec<u8>, DocumentError> {
    let subscriptions = document.subscriptions.iter().map(|(filter, qos)| Subscription {
        filter: filter.as_str().to_owned(),
        qos: u8::from(*qos != Qos::AtMostOnce),
    });
    let stored = Stored {
        version: VERSION,
        client: client.clone(),
        since: document.since,
        lost: document.lost,
        subscriptions: subscriptions.collect(),
    };
    serde_json::to_vec(&stored).map_err(|_| DocumentError::Form)
}

fn parse(client: &Principal, bytes: &[u8]) -> Option<Document> {
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
    Some(Document { since: stored.since, lost: stored.lost, subscriptions })
}
