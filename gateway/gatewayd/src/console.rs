//! Answers the command line on `gatewayd`'s own control socket. Root only.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_exchange::frame;
use edgewarden_mqtt::broker::durable::SetAside;
use edgewarden_names::{Principal, Reason, Refusal};
use edgewarden_platform::peer;
use edgewarden_platform::socket_file::SocketFile;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::gateway_console::{
    QueueStatus, Reply, Request, SetAsideStatus, Status, UpstreamStatus,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::audit::Audit;
use crate::event::Event;
use crate::store::Opening;
use crate::view::View;

const CALLERS_MAX: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks whether the socket's file is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sources of the status.
#[derive(Clone)]
pub(crate) struct Console {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) applied: watch::Receiver<View>,
    pub(crate) opening: watch::Receiver<Opening>,
    pub(crate) journal: watch::Receiver<Opening>,
    pub(crate) upstream: watch::Receiver<UpstreamStatus>,
}

/// Listens in the place of a socket that an earlier run left.
pub(crate) fn open(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // Root passes whatever the mode; the peer's user is checked as well.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((listener, SocketFile::bound(path)?))
}

/// `path`: of the listener's file, which is put back when somebody removes it.
pub(crate) async fn serve(
    mut listener: UnixListener,
    mut file: SocketFile,
    path: PathBuf,
    audit: Audit,
    console: Console,
) {
    let slots = Arc::new(Semaphore::new(CALLERS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = false;
    loop {
        while tasks.try_join_next().is_some() {}
        let (slot, stream) = tokio::select! {
            accepted = accept(&listener, &slots) => match accepted {
                Some(accepted) => accepted,
                None => continue,
            },
            _ = look.tick() => {
                if !file.is_there() {
                    match open(&path).and_then(|(anew, file)| Ok((UnixListener::from_std(anew)?, file))) {
                        Ok(anew) => {
                            (listener, file) = anew;
                            let rule = "the socket's file was removed or replaced; put back";
                            audit.failed(Refusal::new(Reason::EnforcementAltered, path.display(), rule));
                            refused = false;
                        }
                        Err(error) if !refused => {
                            let rule = format!("the socket's file is gone and cannot be put back: {error}");
                            audit.failed(Refusal::new(Reason::EnforcementLost, path.display(), rule));
                            refused = true;
                        }
                        Err(_) => {}
                    }
                }
                continue;
            }
        };
        let console = console.clone();
        tasks.spawn(async move {
            drop(tokio::time::timeout(PATIENCE, converse(stream, console)).await);
            drop(slot);
        });
    }
}

/// A connection with its place; `None` when there was none to be had. Cancel-safe.
async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> Option<(OwnedSemaphorePermit, UnixStream)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((slot, stream)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection of the command line");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
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
