//! Answers the command line on `gatewayd`'s own control socket. Root only.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_exchange::frame;
use edgewarden_mqtt::broker::durable::SetAside;
use edgewarden_names::{Principal, Reason, Refusal};
use edgewarden_platform::kept_socket::{Change, Kept};
use edgewarden_platform::peer;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::gateway_console::{
    QueueStatus, Reply, Request, SetAsideStatus, Status, UpstreamStatus,
};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::audit::Audit;
use crate::event::Event;
use crate::store::Opening;
use crate::view::View;

const CALLERS_MAX: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// Sources of the status.
#[derive(Clone)]
pub(crate) struct Console {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) applied: watch::Receiver<View>,
    pub(crate) opening: watch::Receiver<Opening>,
    pub(crate) journal: watch::Receiver<Opening>,
    pub(crate) upstream: watch::Receiver<UpstreamStatus>,
}

/// Listens in the place of a socket that an earlier run left. Root passes whatever the mode; the peer's user is checked as
/// well.
pub(crate) fn open(path: PathBuf) -> io::Result<Kept> {
    Kept::bind(path, 0o600, "of the command line")
}

/// Serves until the future is dropped.
pub(crate) async fn serve(listener: Kept, audit: Audit, console: Console) {
    let serve = |stream| {
        let console = console.clone();
        async move { drop(tokio::time::timeout(PATIENCE, converse(stream, console)).await) }
    };
    listener.serve(CALLERS_MAX, |path, change| socket_changed(&audit, path, &change), serve).await;
}

/// Says what became of the file of one of our own sockets.
pub(crate) fn socket_changed(audit: &Audit, path: &Path, change: &Change) {
    let (reason, rule) = match change {
        Change::PutBack => {
            (Reason::EnforcementAltered, "the socket's file was removed or replaced; put back".to_owned())
        }
        Change::Lost(error) => {
            (Reason::EnforcementLost, format!("the socket's file is gone and cannot be put back: {error}"))
        }
    };
    audit.failed(Refusal::new(reason, path.display(), rule));
}

async fn converse(mut stream: UnixStream, console: Console) {
    let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    while let Ok(request) = frame::read::<Request>(&mut stream).await {
        let reply = match request {
            _ if !root => {
                Reply::Refused(Refusal::new(Reason::PeerUnauthorized, "gatewayd", "only root may ask"))
            }
            Request::Status => tokio::select! {
                status = console.status() => status.map_or_else(Reply::Refused, |s| Reply::Status(Box::new(s))),
                () = peer::gone(&stream) => return,
            },
            Request::SetAside => console.set_aside().await.map_or_else(Reply::Refused, |all| {
                Reply::SetAside(
                    all.into_iter().map(|(client, message)| described(client, &message)).collect(),
                )
            }),
            Request::SetAsideShow { client, number } => {
                console.show(&client, number).await.map_or_else(Reply::Refused, Reply::Message)
            }
            Request::SetAsideDrop { client, number } => {
                console.drop_one(client, number).await.map_or_else(Reply::Refused, |()| Reply::Done)
            }
        };
        if frame::write(&mut stream, &reply).await.is_err() {
            return;
        }
    }
}

fn described(client: Principal, message: &SetAside<Principal>) -> SetAsideStatus {
    SetAsideStatus {
        client,
        number: message.number,
        from: message.from.clone(),
        topic: message.topic.to_string(),
        bytes: message.payload.len() as u64,
        at: message.at,
        connections: message.connections,
    }
}

fn no_such_message(client: &Principal, number: u64) -> Refusal {
    let rule = "no message of this number is set aside for this client";
    Refusal::new(Reason::RequestInvalid, format_args!("{client}, message {number}"), rule)
}

impl Console {
    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Refusal> {
        let gone = || Refusal::new(Reason::Busy, "gatewayd", "it is ending");
        let (answer, answered) = oneshot::channel();
        self.events.send(event(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    async fn set_aside(&self) -> Result<Vec<(Principal, SetAside<Principal>)>, Refusal> {
        self.ask(|answer| Event::SetAside { answer }).await
    }

    async fn show(&self, client: &Principal, number: u64) -> Result<Bytes, Refusal> {
        let all = self.set_aside().await?;
        let found = all.into_iter().find(|(owner, message)| owner == client && message.number == number);
        let (_, message) = found.ok_or_else(|| no_such_message(client, number))?;
        Ok(Bytes(message.payload.to_vec()))
    }

    async fn drop_one(&self, client: Principal, number: u64) -> Result<(), Refusal> {
        let missing = no_such_message(&client, number);
        let dropped = self.ask(|answer| Event::DropSetAside { client, number, answer }).await??;
        if dropped { Ok(()) } else { Err(missing) }
    }

    async fn status(&self) -> Result<Status, Refusal> {
        let hub = self.ask(|answer| Event::Status { answer }).await?;
        let view = self.applied.borrow().clone();
        let count = |n: usize| n as u64;
        Ok(Status {
            epoch: view.epoch(),
            trusted: view.trusted(),
            connections: hub.connections,
            sessions: count(hub.counts.sessions),
            waiting_messages: count(hub.counts.waiting_messages),
            retained_messages: count(hub.counts.retained_messages),
            queue: queue_status(&self.opening),
            journal: queue_status(&self.journal),
            upstream: self.upstream.borrow().clone(),
            dropped_qos0: hub.counts.dropped_qos0,
            lost: hub.counts.lost,
            set_aside: count(hub.counts.set_aside),
            receivers: hub.receivers,
            refused: hub.counts.refused,
        })
    }
}

fn queue_status(opening: &watch::Receiver<Opening>) -> Option<QueueStatus> {
    let opening = opening.borrow();
    let Some(Ok(queue)) = &*opening else { return None };
    let status = queue.status();
    Some(QueueStatus {
        id: queue.id().to_owned(),
        messages: status.messages,
        bytes: status.bytes,
        bytes_max: status.bytes_max,
    })
}
