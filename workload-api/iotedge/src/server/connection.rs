//! One connection: the caller's evidence, and HTTP/1.1 (RFC 9112) with every buffer and wait bounded.

use std::convert::Infallible;

use edgewarden_platform::peer::PeerEvidence;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;

use super::call::Service;
use super::{CONNECTION_LIFETIME, HEADERS_TIME, STRANGER_LIFETIME};

const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 8 * 1024;
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// The process that made the connection. `None` when the kernel could not tell: then every call is refused.
pub(super) fn peer(stream: &UnixStream) -> Option<PeerEvidence> {
    PeerEvidence::of(stream)
        .inspect_err(|error| tracing::debug!(%error, "the caller of the IoT Edge API cannot be identified"))
        .ok()
}

pub(super) async fn serve(stream: UnixStream, caller: Option<PeerEvidence>, service: Service) {
    let answering = service_fn(move |request: hyper::Request<Incoming>| {
        let (service, caller) = (service.clone(), caller.clone());
        async move { Ok::<_, Infallible>(service.answer(caller.as_ref(), request).await) }
    });
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIME)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), answering)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tokio::time::sleep(CONNECTION_LIFETIME) => {
            connection.as_mut().graceful_shutdown();
            // Who does not read the last answer is not waited for.
            tokio::time::timeout(STRANGER_LIFETIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the IoT Edge API broke");
    }
}
