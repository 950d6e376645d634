//! `GET /metrics` and `GET /healthz` over a Unix socket (HTTP/1.1, one request for each connection).
//!
//! Who may connect is the file's business: its owner, its group, root. Whoever does gets numbers and nothing else; a
//! caller can make a daemon hold a few kilobytes for a few seconds, and one that does not read holds up nobody.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::Reason;
use edgewarden_platform::kept_socket::{Change, Kept};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::page::Format;

/// The socket's name in the folder of a daemon's sockets.
pub const SOCKET: &str = "metrics.sock";
/// Its owner and its group, for a monitoring agent.
const MODE: u32 = 0o660;
const CONNECTIONS_MAX: usize = 8;
/// hyper's least: a longer head is answered 431.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const REST_BYTES_MAX: u64 = 64 * 1024;
/// From connecting to the answer's last byte.
const PATIENCE: Duration = Duration::from_secs(5);
const WORDS: &str = "text/plain; charset=utf-8";

/// A daemon's numbers and its health.
pub trait Source: Send + Sync + 'static {
    /// Everything that is counted. An error is a fault of the daemon.
    fn metrics(&self, format: Format) -> impl Future<Output = Result<String, fmt::Error>> + Send;

    /// `Ok` while the daemon does what it is for, else the reason.
    fn health(&self) -> impl Future<Output = Result<(), Reason>> + Send;
}

/// Listens in a folder, in the place of a socket that a run before left there.
pub fn open(folder: &Path) -> io::Result<Kept> {
    Kept::bind(folder.join(SOCKET), MODE, "for metrics")
}

/// Serves until the future is dropped. `changed` is told when somebody had removed the socket's file.
pub async fn serve<S: Source>(listener: Kept, source: Arc<S>, changed: impl Fn(&Path, Change)) {
    let serve = |stream| {
        let source = Arc::clone(&source);
        async move {
            // Ended, broken off or too slow: it is over either way.
            drop(timeout(PATIENCE, exchange(stream, &*source)).await);
        }
    };
    listener.serve(CONNECTIONS_MAX, changed, serve).await;
}

async fn exchange<S: Source>(stream: UnixStream, source: &S) -> io::Result<()> {
    let answer =
        service_fn(|request| Box::pin(async move { Ok::<_, Infallible>(answer(source, &request).await) }));
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // An error was answered, if it could be.
    drop(poll_fn(|context| connection.poll_without_shutdown(context)).await);
    let mut stream = connection.into_parts().io.into_inner();
    stream.shutdown().await?;
    // Closing with bytes unread would tear the answer out of the caller's hands.
    tokio::io::copy(&mut stream.take(REST_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
}

async fn answer<S: Source>(source: &S, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut answer = words(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept);
            match source.metrics(format).await {
                Ok(text) => said(StatusCode::OK, format.content_type(), text),
                Err(fmt::Error) => words(StatusCode::INTERNAL_SERVER_ERROR, Reason::Internal.code()),
            }
        }
        "/healthz" => match source.health().await {
            Ok(()) => words(StatusCode::OK, "ok"),
            Err(reason) => words(StatusCode::SERVICE_UNAVAILABLE, reason.code()),
        },
        _ => words(StatusCode::NOT_FOUND, "there are /metrics and /healthz"),
    }
}

fn words(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    said(status, WORDS, format!("{line}\n"))
}

fn said(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
