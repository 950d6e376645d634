//! The control socket: who may ask what, and the way of each request through the parts.
//!
//! Peers are told apart by the user that the kernel names. Root may ask anything; `ew-gateway` only what
//! [`Request::for_gateway`] says; anyone else is told so and shown out. `identityd`'s own user has no rights here: code
//! that runs as it by accident must not be able to ask itself. Nor has a module, whatever user it runs as.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgewarden_exchange::frame;
use edgewarden_exchange::frame::{FRAME_BYTES_MAX, FrameError};
use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::kept_socket::{Event, Kept};
use edgewarden_platform::peer::{self, PeerEvidence};
use edgewarden_protocol::control::{Enforcer, Reply, Request};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::requests;
use crate::service::Service;
use crate::workload::file_changed;

/// Connections at a time, those of one process among them, and requests in work; a held `Watch` takes a connection
/// only. Each kind of peer has its own, so that a `gatewayd` that somebody took over cannot shut root out; and one
/// process cannot take all of its kind's, so that a `gatewayd` that hangs does not shut its successor out.
const ROOT_MAX: Limits = Limits { connections: 48, of_process: 32, in_flight: 8 };
const GATEWAY_MAX: Limits = Limits { connections: 16, of_process: 10, in_flight: 4 };
const STRANGERS_MAX: Limits = Limits { connections: 4, of_process: 2, in_flight: 1 };
/// Interval at which the process's log says of a peer that it has no place.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Largest request of `ew-gateway`: a leaf's request for a certificate, and room. Its connections together then hold a
/// megabyte, and not a quarter of a gigabyte.
const GATEWAY_FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Longest time for the rest of a request, once begun, or for the taking of a reply.
const PEER_PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for a peer without rights to hear so.
const STRANGER_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of its request that are taken in, so that it finds the connection open when it looks for the reply.
const STRANGER_BYTES_MAX: u64 = 64 * 1024;
/// Name of the socket in refusals.
const CONTROL: &str = "control socket";

/// Rights of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Everything,
    Gateway,
    Nothing,
}

impl Rights {
    /// `gateway_uid` is `ew-gateway`'s, if there is such a user.
    pub fn of(uid: u32, gateway_uid: Option<u32>) -> Self {
        if uid == 0 {
            Self::Everything
        } else if gateway_uid == Some(uid) {
            Self::Gateway
        } else {
            Self::Nothing
        }
    }

    /// Fails with `peer.unauthorized` for a request that these rights do not cover.
    pub fn allow(self, request: &Request) -> Result<(), Refusal> {
        let allowed = match self {
            Self::Everything => true,
            Self::Gateway => request.for_gateway(),
            Self::Nothing => false,
        };
        if allowed { Ok(()) } else { Err(unauthorized()) }
    }
}

fn unauthorized() -> Refusal {
    Refusal::new(Reason::PeerUnauthorized, CONTROL, "this user may not ask this")
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    of_process: usize,
    in_flight: usize,
}

/// Places and bytes that one kind of peer may use up.
#[derive(Debug, Clone)]
struct Places {
    connections: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    of_process: usize,
    /// Connections by the process that made them.
    processes: Arc<Mutex<HashMap<i32, usize>>>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
struct Place {
    _connection: OwnedSemaphorePermit,
    process: i32,
    processes: Arc<Mutex<HashMap<i32, usize>>>,
}

impl Places {
    fn new(limits: Limits) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits.connections)),
            in_flight: Arc::new(Semaphore::new(limits.in_flight)),
            of_process: limits.of_process,
            processes: Arc::default(),
        }
    }

    fn take(&self, process: i32) -> Option<Place> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let held = processes.entry(process).or_default();
        if *held >= self.of_process {
            return None;
        }
        *held = held.saturating_add(1);
        Some(Place { _connection: connection, process, processes: Arc::clone(&self.processes) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = processes.get_mut(&self.process) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                processes.remove(&self.process);
            }
        }
    }
}

/// Serves until the future is dropped. Requests in work then run to their end.
pub async fn serve(service: Arc<Service>, mut listener: Kept, gateway_uid: Option<u32>) {
    let (root, gateway) = (Places::new(ROOT_MAX), Places::new(GATEWAY_MAX));
    let strangers = Places::new(STRANGERS_MAX);
    let mut said: Option<Instant> = None;
    loop {
        let stream = match listener.next().await {
            Event::Stream(stream) => stream,
            Event::File(change) => {
                file_changed(&service, listener.path(), &change);
                continue;
            }
        };
        let (rights, process) = match rights_of(&service, &stream, gateway_uid) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "a control peer could not be identified");
                continue;
            }
        };
        let places = match rights {
            Rights::Everything => &root,
            Rights::Gateway => &gateway,
            Rights::Nothing => &strangers,
        };
        let Some(place) = places.take(process) else {
            if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
                tracing::warn!(?rights, process, "too many control connections");
                said = Some(Instant::now());
            }
            no_place(&stream).await;
            continue;
        };
        let (service, in_flight) = (Arc::clone(&service), Arc::clone(&places.in_flight));
        tokio::spawn(async move {
            let _place = place;
            let end = match rights {
                Rights::Nothing => turn_away(&service, stream).await,
                _ => converse(&service, stream, rights, &in_flight).await,
            };
            if let Err(error) = end {
                tracing::debug!(%error, "a control connection broke off");
            }
        });
    }
}

/// The user at connect(2), which the peer cannot change later; a process of a module has no rights as root neither.
fn rights_of(service: &Service, stream: &UnixStream, gateway_uid: Option<u32>) -> io::Result<(Rights, i32)> {
    let peer = PeerEvidence::of(stream)?;
    let cgroup = peer.cgroup()?;
    if service.ledger.current().documents().records.instance_of(&cgroup).is_some() {
        return Ok((Rights::Nothing, peer.pid()));
    }
    Ok((Rights::of(peer.uid(), gateway_uid), peer.pid()))
}

/// Says so, as far as the socket takes it without waiting.
async fn no_place(stream: &UnixStream) {
    let rule = "there are too many connections of this process, or of its kind";
    let refusal = Refusal::new(Reason::Busy, CONTROL, rule);
    let mut bytes = Vec::new();
    if frame::write(&mut bytes, &Reply::Refused(refusal)).await.is_ok() {
        // Who does not take it sees the connection closed.
        drop(stream.try_write(&bytes));
    }
}

/// Takes one request's bytes in, looks at none of them, says why and closes.
async fn turn_away(service: &Arc<Service>, mut stream: UnixStream) -> Result<(), FrameError> {
    note(service, unauthorized()).await;
    let told = timeout(STRANGER_PATIENCE, async {
        let length = u64::from(stream.read_u32().await?).min(STRANGER_BYTES_MAX);
        tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
        frame::write(&mut stream, &Reply::Refused(unauthorized())).await
    });
    told.await.unwrap_or(Ok(()))
}

async fn note(service: &Arc<Service>, refusal: Refusal) {
    let service = Arc::clone(service);
    let noted = tokio::task::spawn_blocking(move || service.ledger.note_caller(CONTROL, &refusal));
    if let Err(error) = noted.await {
        tracing::error!(%error, "a refusal was not written down");
    }
}

async fn converse(
    service: &Arc<Service>,
    mut stream: UnixStream,
    rights: Rights,
    in_flight: &Arc<Semaphore>,
) -> Result<(), FrameError> {
    let bytes_max = if rights == Rights::Everything { FRAME_BYTES_MAX } else { GATEWAY_FRAME_BYTES_MAX };
    loop {
        stream.readable().await?;
        let request = match timeout(PEER_PATIENCE, frame::read_at_most(&mut stream, bytes_max)).await {
            Ok(Ok(request)) => request,
            Ok(Err(FrameError::Closed)) => return Ok(()),
            Ok(Err(error)) => return refuse_frame(&mut stream, error).await,
            Err(_elapsed) => return Err(FrameError::Io(io::ErrorKind::TimedOut.into())),
        };
        let reply = tokio::select! {
            reply = answer(service, request, rights, in_flight) => reply.unwrap_or_else(Reply::Refused),
            // Its place is free at once; a decision that was begun goes on in a task of its own.
            () = peer::gone(&stream) => return Ok(()),
        };
        match timeout(PEER_PATIENCE, frame::write(&mut stream, &reply)).await {
            Ok(written) => written?,
            Err(_elapsed) => return Err(FrameError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// After a frame that cannot be read the stream is out of step: say so and close.
async fn refuse_frame(stream: &mut UnixStream, error: FrameError) -> Result<(), FrameError> {
    let reason = match &error {
        FrameError::TooLarge(_) => Reason::RequestTooLarge,
        FrameError::Json(_) => Reason::RequestInvalid,
        FrameError::Closed | FrameError::Io(_) => return Err(error),
    };
    let reply = Reply::Refused(Refusal::new(reason, "request", &error));
    match timeout(PEER_PATIENCE, frame::write(stream, &reply)).await {
        Ok(written) => written,
        Err(_elapsed) => Err(error),
    }
}

async fn answer(
    service: &Arc<Service>,
    request: Request,
    rights: Rights,
    in_flight: &Arc<Semaphore>,
) -> Result<Reply, Refusal> {
    if let Err(refusal) = rights.allow(&request) {
        note(service, refusal.clone()).await;
        return Err(refusal);
    }
    if let Request::Watch { seen } = request {
        return Ok(requests::watch(service, seen).await);
    }
    let peer = if rights == Rights::Gateway { Enforcer::Gatewayd } else { Enforcer::Runtimed };
    let gone = || Refusal::new(Reason::Busy, "identityd", "it is stopping");
    let place = Arc::clone(in_flight).acquire_owned().await.map_err(|_| gone())?;
    // A task of its own: a peer that closes its connection does not stop a decision half way.
    let service = Arc::clone(service);
    let work = tokio::spawn(async move {
        let _place = place;
        requests::answer(&service, peer, request).await
    });
    work.await.unwrap_or_else(|_| Err(gone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::Epoch;
    use edgewarden_protocol::control::Origin;
    use edgewarden_protocol::est::EstRequest;

    #[test]
    fn rights_follow_the_user() {
        for (uid, gateway, expected) in [
            (0, Some(990), Rights::Everything),
            (0, None, Rights::Everything),
            (990, Some(990), Rights::Gateway),
            (990, None, Rights::Nothing),
            (991, Some(990), Rights::Nothing),
            (1000, Some(990), Rights::Nothing),
            (u32::MAX, None, Rights::Nothing),
        ] {
            assert_eq!(Rights::of(uid, gateway), expected, "{uid}");
        }
    }

    #[test]
    fn the_gateway_may_ask_little() {
        let refusal = Refusal::new(Reason::PolicyDenied, "a", "b");
        let epoch = Epoch(1);
        for (request, gateway) in [
            (Request::Watch { seen: 0 }, true),
            (Request::EpochEnforced { enforcer: Enforcer::Gatewayd, epoch }, true),
            (Request::Refused { origin: Origin::Enforcer, refusal: refusal.clone() }, true),
            (Request::StorageKey, true),
            (
                Request::LeafRenew { chain: Vec::new(), csr: Vec::new().into(), proof: Vec::new().into() },
                true,
            ),
            (Request::TimeHeard { offset_millis: 0 }, false),
            (Request::TimeAccept, false),
            (Request::EpochEnforced { enforcer: Enforcer::Runtimed, epoch }, false),
            (Request::Status, false),
            (Request::EnrolKeys, false),
            (Request::EnrolRefused(refusal), false),
            (Request::Est(Box::new(EstRequest::State)), false),
            (Request::Est(Box::new(EstRequest::Handshake { transcript_hash: vec![0; 32].into() })), false),
            (Request::DeploymentAccept(Vec::new().into()), false),
            (Request::Deployment, false),
            (Request::StartPrepare { permit: String::new() }, false),
            (Request::Stopped { instance: String::new() }, false),
            (Request::Rotate { module: None }, false),
            (Request::AttestQuote { nonce: Vec::new().into() }, false),
            (Request::Audit { last: 1 }, false),
            (Request::AuditQuery { since: None, module: None, last: 1 }, false),
            (Request::AuditKey, false),
        ] {
            assert_eq!(Rights::Gateway.allow(&request).is_ok(), gateway, "{request:?}");
            assert!(Rights::Everything.allow(&request).is_ok());
            assert_eq!(Rights::Nothing.allow(&request).unwrap_err().reason, Reason::PeerUnauthorized);
        }
    }
}
