//! `GET /metrics` over a Unix socket: HTTP/1.1 (RFC 9112), one request per connection.
//!
//! Who may connect is the file's business: its owner, its group, root. Whoever does gets numbers and nothing else; a
//! caller can make us hold a few kilobytes for a few seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::service::Service;
use crate::workload::{Accepted, Kept, put_back};

const CONNECTIONS_MAX: usize = 8;
const HEAD_BYTES_MAX: usize = 4096;
const REST_BYTES_MAX: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until the future is dropped.
pub async fn serve(service: Arc<Service>, mut listener: Kept) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Held before accept: a caller too many waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(Accepted::PutBack) => put_back(&service, &listener.path().display().to_string()),
            Ok(Accepted::Stream(stream)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    let _place = place;
                    // Ended, broken off or too slow: it is over either way.
                    let _over = timeout(PATIENCE, exchange(&service, stream)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn exchange(service: &Arc<Service>, mut stream: UnixStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let status = loop {
        let mut piece = [0; 1024];
        let size = stream.read(&mut piece).await?;
        head.extend_from_slice(piece.get(..size).unwrap_or_default());
        if head.windows(4).any(|window| window == b"\r\n\r\n") {
            break judge(&head);
        }
        if size == 0 {
            return Ok(());
        }
        if head.len() > HEAD_BYTES_MAX {
            break Err("431 Request Header Fields Too Large");
        }
    };
    let (status, body) = match status {
        Ok(()) => {
            let service = Arc::clone(service);
            match tokio::task::spawn_blocking(move || super::text(&service)).await {
                Ok(text) => ("200 OK", text),
                Err(_) => ("500 Internal Server Error", "see the log of identityd\n".into()),
            }
        }
        Err(status) => (status, format!("{status}\n")),
    };
    let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TEXT}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with bytes unread would tear the answer out of the caller's hands.
    let mut rest = stream.take(REST_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

/// Is the request one that we answer?
fn judge(head: &[u8]) -> Result<(), &'static str> {
    const BAD: &str = "400 Bad Request";
    let end = head.windows(2).position(|window| window == b"\r\n").ok_or(BAD)?;
    let line = head.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(BAD)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("505 HTTP Version Not Supported");
    }
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }
    match target.split('?').next() {
        Some("/metrics") => Ok(()),
        _ => Err("404 Not Found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_request_is_answered() {
        for (request, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
            ("GET /metrics HTTP/1.0\r\n\r\n", "200"),
            ("GET /metrics?x=1 HTTP/1.1\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "404"),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1 \r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            ("\u{0}\r\n\r\n", "400"),
        ] {
            let status = judge(request.as_bytes()).map_or_else(|status| status, |()| "200");
            assert!(status.starts_with(expected), "{request:?}: {status}");
        }
        assert!(judge(b"\xff\xfe\r\n\r\n").is_err());
    }
}
