//! Connections: accepted within limits, handshaken within a deadline, served with HTTP/1.1, drained at the end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::peer::{Client, Peer};

pub const CONNECTIONS_MAX: usize = 4096;
pub const CONNECTIONS_PER_SOURCE_MAX: usize = 512;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// From the start of a connection, or the end of a reply, to the end of the next request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Bounds what a peer that stops reading can hold. Longer than the longest held request.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(3600);
/// For requests that run when the server stops, or the connection's life ends.
const DRAIN: Duration = Duration::from_secs(75);
const DRAIN_AT_STOP: Duration = Duration::from_secs(5);

/// How connections are served.
#[derive(Clone)]
pub struct Service {
    pub router: Router,
    /// Absent for plain HTTP, which only a loopback address gets.
    pub tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// Serves until `stopping` is true, then lets running requests end for a while.
pub async fn run(listener: TcpListener, service: Service, mut stopping: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let sources = Arc::new(Sources::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Some(place) = sources.enter(address.ip()) {
                    connections.spawn(connection(
                        stream,
                        address,
                        service.clone(),
                        stopping.clone(),
                        (permit, place),
                    ));
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: waiting is what helps.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
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

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    service: Service,
    stopping: watch::Receiver<bool>,
    _held: (OwnedSemaphorePermit, Place),
) {
    drop(stream.set_nodelay(true));
    let source = address.ip();
    let Some(tls) = service.tls else {
        return serve(stream, Peer { source, client: None }, service.router, stopping).await;
    };
    let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%source, %error, "no handshake"),
        Err(_) => return tracing::debug!(%source, "no handshake in time"),
    };
    let client = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => match Client::read(chain) {
            Ok(client) => Some(client),
            Err(refusal) => return tracing::warn!(%source, %refusal, "connection refused"),
        },
    };
    serve(stream, Peer { source, client }, service.router, stopping).await;
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let source = peer.source;
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
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

/// How many connections each source address has.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= CONNECTIONS_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        Some(Place { sources: self.clone(), source })
    }
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}
