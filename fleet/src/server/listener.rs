//! Connections: a place each, handshaken within a deadline, served with HTTP/1.1, drained at the end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use edgewarden_names::{IdKind, Reason, Refusal, SpiffeId};
use edgewarden_platform::accepting::Accepting;
use edgewarden_transport::log_limit::{Line, LogLimit};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::http;
use super::peer::{Client, Peer};
use super::places::{Full, Limits, Places};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// From the start of a connection, or the end of a reply, to the end of the next request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Bounds what a peer that stops reading can hold. Longer than the longest held request.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);
/// For requests that run when the server stops, or the connection's life ends.
const DRAIN: Duration = Duration::from_secs(75);
const DRAIN_AT_STOP: Duration = Duration::from_secs(5);

/// The service of a listener's connections: its routes, its TLS and its places.
#[derive(Clone)]
pub struct Service {
    pub router: Router,
    /// Absent for plain HTTP, which only a loopback address gets.
    pub tls: Option<TlsAcceptor>,
    /// The places of its connections.
    pub seats: Seats,
}

/// The shared table of a listener's places. A place's [`Notify`] ends its connection.
pub type Seats = Arc<Mutex<Places<Arc<Notify>>>>;

/// An empty table with these limits.
pub fn seats(limits: Limits) -> Seats {
    Arc::new(Mutex::new(Places::new(limits)))
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// A source of connections: TCP, or the operators' Unix socket.
pub trait Listener: Send + Sync + 'static {
    /// One accepted connection of this source.
    type Stream: Stream;
    /// The next connection, and whom it is counted to.
    fn next(&self) -> impl Future<Output = std::io::Result<(Self::Stream, IpAddr)>> + Send;
}

/// One accepted connection, before TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {
    /// Completes when the peer has sent something, or has gone.
    fn speaks(&self) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> std::io::Result<(TcpStream, IpAddr)> {
        let (stream, address) = self.accept().await?;
        drop(stream.set_nodelay(true));
        Ok((stream, address.ip()))
    }
}

/// Only this machine's processes reach it, and of them only those of the folder's owner.
impl Listener for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> std::io::Result<(UnixStream, IpAddr)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, Ipv4Addr::LOCALHOST.into()))
    }
}

impl Stream for TcpStream {
    async fn speaks(&self) -> std::io::Result<()> {
        self.readable().await
    }
}

impl Stream for UnixStream {
    async fn speaks(&self) -> std::io::Result<()> {
        self.readable().await
    }
}

/// A connection's place; given back when dropped. Requests find it among their extensions.
#[derive(Debug)]
pub struct Place {
    number: u64,
    places: Seats,
}

impl Place {
    fn places(&self) -> MutexGuard<'_, Places<Arc<Notify>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the peer has shown an operator's token: no stranger takes its place any more.
    pub fn is_operator(&self) {
        let gone = self.places().operator(self.number);
        end(gone);
    }

    fn is_gateway(&self, id: &SpiffeId) -> Result<(), Full> {
        let gone = self.places().gateway(self.number, id)?;
        end(gone);
        Ok(())
    }

    fn speaks(&self) {
        self.places().spoke(self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.places().leave(self.number));
    }
}

fn end(gone: Option<Arc<Notify>>) {
    if let Some(gone) = gone {
        gone.notify_one();
    }
}

/// State that the connections of one listener share.
struct Shared {
    service: Service,
    stopping: watch::Receiver<bool>,
    /// For what strangers can cause.
    strangers_logged: LogLimit,
    /// For what gateways can cause. Strangers use up none of its lines.
    gateways_logged: LogLimit,
}

impl Shared {
    fn log(&self, source: IpAddr, what: &str, why: &dyn std::fmt::Display) {
        log(&self.strangers_logged, source, what, why);
    }
}

fn log(logged: &LogLimit, source: IpAddr, what: &str, why: &dyn std::fmt::Display) {
    if let Line::Write { left_out } = logged.line(Instant::now()) {
        tracing::warn!(%source, %why, left_out, "{what}");
    }
}

/// Serves until `stopping` is true, then lets running requests end for a while.
pub async fn run(listener: impl Listener, service: Service, mut stopping: watch::Receiver<bool>) {
    let places = Arc::clone(&service.seats);
    let shared = Arc::new(Shared {
        service,
        stopping: stopping.clone(),
        strangers_logged: LogLimit::default(),
        gateways_logged: LogLimit::default(),
    });
    let mut connections = JoinSet::new();
    let mut accepting = Accepting::new("of a gateway or an operator");
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, source) = tokio::select! {
            accepted = accepting.next(|| listener.next()) => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let ended = Arc::new(Notify::new());
        let entered = {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places.enter(source, Arc::clone(&ended), Instant::now())
        };
        match entered {
            Ok((number, gone)) => {
                if gone.is_some() {
                    shared.log(
                        source,
                        "a connection that proved nothing made room for another",
                        &"places are taken",
                    );
                }
                end(gone);
                let place = Arc::new(Place { number, places: Arc::clone(&places) });
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, source, &shared, place) => {}
                        () = ended.notified() => {}
                    }
                });
            }
            Err(Full(most)) => {
                let why = format!("{most} connections from there have proven nothing yet");
                shared.log(source, "a connection was turned away", &why);
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_AT_STOP, drained).await.is_err() {
        tracing::warn!("requests were cut off at the end");
    }
    connections.shutdown().await;
}

async fn connection(stream: impl Stream, source: IpAddr, shared: &Shared, place: Arc<Place>) {
    let Service { router, tls, .. } = &shared.service;
    let Some(tls) = tls else {
        let heard = tokio::time::timeout(HEADER_DEADLINE, stream.speaks()).await;
        if heard.is_ok_and(|heard| heard.is_ok()) {
            place.speaks();
            let peer = Peer { source, client: None };
            serve(stream, peer, place, router.clone(), shared.stopping.clone()).await;
        }
        return;
    };
    let handshake = async {
        stream.speaks().await?;
        place.speaks();
        tls.accept(stream).await
    };
    let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%source, %error, "no handshake"),
        Err(_) => return tracing::debug!(%source, "no handshake in time"),
    };
    let client = match stream.get_ref().1.peer_certificates().map(Client::read) {
        None => None,
        Some(Ok(client)) => Some(client),
        Some(Err(refusal)) => return shared.log(source, "a connection was refused", &refusal),
    };
    let mut router = router.clone();
    if let Some(client) = &client
        && is_gateways(&client.id)
        && let Err(Full(most)) = place.is_gateway(&client.id)
    {
        let why = format!("the server is full: {most} connections");
        log(&shared.gateways_logged, source, "a gateway was turned away", &why);
        router = full(most);
    }
    serve(stream, Peer { source, client }, place, router, shared.stopping.clone()).await;
}

/// True for the two processes of a gateway that may ask something here. Its modules are strangers: they must not take
/// the places of their own gateway.
fn is_gateways(id: &SpiffeId) -> bool {
    matches!(id.kind(), IdKind::Module(_, name) if ["runtimed", "gatewayd"].contains(&name.as_str()))
}

/// Routes of a connection of a gateway that has no place: each request is refused with `Busy`, and the connection
/// closes.
fn full(most: usize) -> Router {
    Router::new().fallback(move || async move {
        let rule =
            format!("the server is full: it has {most} connections of gateways, as many as it may have");
        let mut reply = http::refuse(&Refusal::new(Reason::Busy, "fleet", rule));
        let close = axum::http::HeaderValue::from_static("close");
        reply.headers_mut().insert(axum::http::header::CONNECTION, close);
        reply
    })
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    place: Arc<Place>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let source = peer.source;
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(Arc::clone(&place));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(CONNECTION_LIFETIME) => None,
        _ = stopping.wait_for(|stop| *stop) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        match tokio::time::timeout(DRAIN, connection).await {
            Ok(ended) => ended,
            Err(_) => return tracing::debug!(%source, "connection cut off"),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%source, %error, "connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_no_place_of_its_gateway() {
        for (path, expected) in [
            ("/gateway/gw-1/module/runtimed", true),
            ("/gateway/gw-1/module/gatewayd", true),
            ("/gateway/gw-1/module/analytics", false),
            ("/gateway/gw-1/leaf/runtimed", false),
            ("/gateway/gw-1", false),
            ("/fleet", false),
        ] {
            let id = SpiffeId::parse(&format!("spiffe://plant.example{path}")).unwrap();
            assert_eq!(is_gateways(&id), expected, "{path}");
        }
    }
}
