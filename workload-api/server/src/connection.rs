//! One connection: the caller's evidence, and HTTP/2 with every buffer bounded.

use std::convert::Infallible;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http;

use crate::authority::Mended;
use crate::caller::Caller;
use crate::dispatch::Services;
use crate::limits::CALLS_MAX;
use crate::status::ended;

const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Replies that a caller does not read wait here, for each stream.
const SEND_BUFFER_BYTES_MAX: usize = 16 * 1024;
const RESET_STREAMS_MAX: usize = 16;
/// Bytes that a caller may send before they are read, for each stream and for all. Requests are tiny.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// A connection whose other end does not answer pings is closed.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Ends by itself soon after `stopped`: what has not been answered yet is told so then.
pub(super) async fn serve(
    stream: UnixStream,
    caller: Caller,
    services: Services,
    mut stopped: watch::Receiver<()>,
) {
    let stopping = stopped.clone();
    let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let (services, mut stopping) = (services.clone(), stopping.clone());
        request.extensions_mut().insert(caller.clone());
        async move {
            // Boxed: what the call takes is given back when the answer begins, and not when a stream ends.
            let mut answering = Box::pin(services.call(request.map(Body::new)));
            let response = tokio::select! {
                biased;
                _ = stopping.changed() => ended("the service is stopping").into_http(),
                response = &mut answering => response,
            };
            Ok::<_, Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(CALLS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .serve_connection(TokioIo::new(Mended::new(stream)), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let over = tokio::select! {
        over = &mut serving => over,
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = over {
        tracing::debug!(%error, "a connection to the Workload API broke");
    }
}
