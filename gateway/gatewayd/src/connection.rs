//! One MQTT connection: TLS, who it is, then a reader and a writer between the socket and the hub.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edgewarden_mqtt::broker::ConnectionId;
use edgewarden_mqtt::decode::decode;
use edgewarden_mqtt::packet::{PACKET_BYTES_MAX, Packet};
use edgewarden_names::{ErrorChain, GatewayName, Principal, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_svid::{peer_expiry, peer_id};
use edgewarden_transport::Clock;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::audit::{self, Audit};
use crate::event::{Accepted, Event, WRITES_MAX, Write};
use crate::listen::Slot;
use crate::view::{Door, View};

/// Bytes read from one connection and not yet done with: two packets of the largest size.
const CREDIT_BYTES: usize = 2 * PACKET_BYTES_MAX;
/// Bytes that the smallest packet, and each filter to be judged, counts for: they take memory and time beyond their
/// own.
const PACKET_COST_MIN: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A module may connect before the word of its start has come here.
const PLACE_PATIENCE: Duration = Duration::from_secs(2);
/// Time for what is still to be written when a connection ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Values that connections share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) gateway: GatewayName,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) views: watch::Receiver<View>,
    pub(crate) audit: Audit,
    pub(crate) next: Arc<AtomicU64>,
    pub(crate) clock: Clock,
}

/// Serves the connection to its end.
pub(crate) async fn serve(stream: TcpStream, from: SocketAddr, door: Door, slot: Slot, mut shared: Shared) {
    if prepare(&stream).is_err() {
        return;
    }
    let stream = match tokio::time::timeout(HANDSHAKE, shared.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            if let Some(refusal) = edgewarden_transport::tls::refusal(&error) {
                shared.audit.refused(audit::stranger(from), refusal.clone());
            } else {
                tracing::debug!(%from, error = %ErrorChain(&error), "no TLS connection");
            }
            return;
        }
        Err(_) => return,
    };
    let (id, who, expires) = match peer(&stream, &shared.gateway) {
        Ok(peer) => peer,
        Err(refusal) => return shared.audit.refused(audit::stranger(from), refusal),
    };
    slot.known();
    // The hub decides; this only gives a module's place time to become known.
    if matches!((&who, door), (Principal::Module(_), Door::Modules)) {
        let known = shared.views.wait_for(|view| view.place(&who, door, from.ip()).is_ok());
        drop(tokio::time::timeout(PLACE_PATIENCE, known).await);
    }

    let connection = ConnectionId(shared.next.fetch_add(1, Ordering::Relaxed));
    let credit = Arc::new(Semaphore::new(CREDIT_BYTES));
    let (writer, to_write) = mpsc::channel(WRITES_MAX);
    let (stop, stopped) = watch::channel(());
    let accepted =
        Accepted { connection, who, id, door, from, expires, credit: Arc::clone(&credit), writer, stop };
    let events = shared.events;
    if events.send(Event::Accept(Box::new(accepted))).await.is_err() {
        return;
    }
    let (reader, out) = tokio::io::split(stream);
    let writing = write(out, to_write, connection, &events, stopped.clone());
    let reading = async {
        let end = tokio::select! {
            biased;
            () = until_dropped(stopped) => return,
            () = until(expires, &shared.clock) => Event::Expired { connection },
            end = read(reader, connection, &events, &credit) => end,
        };
        // When the hub is gone, so is everything.
        drop(events.send(end).await);
    };
    tokio::join!(reading, writing);
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    // Without it small packets wait for the peer's delayed acknowledgements.
    stream.set_nodelay(true)?;
    // A client may have no MQTT keep alive, and a module's namespace can vanish without a word: let the kernel ask.
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &6)?;
    Ok(())
}

/// The module or leaf of this gateway at the other end, and the time until which its certificate is valid.
fn peer(
    stream: &TlsStream<TcpStream>,
    gateway: &GatewayName,
) -> Result<(SpiffeId, Principal, UnixTime), Refusal> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let id = peer_id(chain)?;
    let who = Principal::from_id(&id, gateway);
    let who = who.ok_or_else(|| {
        Refusal::new(
            Reason::PeerUnauthorized,
            &id,
            "only modules and leaf devices of this gateway may connect",
        )
    })?;
    Ok((id, who, peer_expiry(chain)?))
}

/// Reads packets until the connection ends; returns how it did.
async fn read(
    mut stream: impl AsyncRead + Unpin,
    connection: ConnectionId,
    events: &mpsc::Sender<Event>,
    credit: &Semaphore,
) -> Event {
    let mut buffer = Vec::new();
    loop {
        let mut taken = 0;
        loop {
            let Some(rest) = buffer.get(taken..) else { return Event::Lost { connection } };
            match decode(rest, PACKET_BYTES_MAX) {
                Ok(Some((packet, cost))) => {
                    taken += cost;
                    let cost = cost.max(work(&packet).saturating_mul(PACKET_COST_MIN));
                    let Ok(permits) = u32::try_from(cost) else { return Event::Lost { connection } };
                    let Ok(permit) = credit.acquire_many(permits).await else {
                        return Event::Lost { connection };
                    };
                    // It comes back as the hub's credit.
                    permit.forget();
                    if events.send(Event::Packet { connection, packet, cost }).await.is_err() {
                        return Event::Lost { connection };
                    }
                }
                Ok(None) => break,
                Err(error) => return Event::Malformed { connection, error },
            }
        }
        buffer.drain(..taken);
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Event::Lost { connection },
            Ok(_) => {}
        }
    }
}

/// Questions to the policy that a packet causes.
fn work(packet: &Packet) -> usize {
    match packet {
        Packet::Subscribe(subscribe) => subscribe.filters.len(),
        _ => 1,
    }
}

async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut writes: mpsc::Receiver<Write>,
    connection: ConnectionId,
    events: &mpsc::Sender<Event>,
    stopped: watch::Receiver<()>,
) {
    let writing = async {
        while let Some(write) = writes.recv().await {
            let (bytes, last) = match write {
                Write::More(bytes) => (bytes, false),
                Write::Last(bytes) => (bytes, true),
            };
            let written = async { stream.write_all(&bytes).await.and(stream.flush().await) }.await;
            if last || written.is_err() {
                break;
            }
            if events.send(Event::Written { connection }).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = async { until_dropped(stopped).await; tokio::time::sleep(FAREWELL).await; } => {}
    }
    // Also ends the reader, when it was the writing that failed.
    drop(tokio::time::timeout(FAREWELL, stream.shutdown()).await);
    drop(events.send(Event::Lost { connection }).await);
}

async fn until_dropped(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

/// Returns at the given time. Another time may be believed while we wait.
async fn until(time: UnixTime, clock: &Clock) {
    loop {
        let left = time.after(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(30))).await;
    }
}
