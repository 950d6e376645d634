//! The door of each daemon's numbers, by whoever knocks.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edgewarden_metrics::door::{self, SOCKET, Source};
use edgewarden_metrics::page::{Format, render};
use edgewarden_names::Reason;
use edgewarden_platform::kept_socket::Change;
use edgewarden_testkit::samples;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Counts what it is asked, and has much to tell.
#[derive(Default)]
struct Counting(AtomicU64, AtomicU64);

impl Source for Counting {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        render(format, "edgewarden_test", move |page| {
            page.counter("asked", "Times that it was asked.", asked)?;
            let many = (0..20_000).map(|n| ([("n", format!("{n:0>40}"))], n));
            page.gauges("many", "More than a socket's buffers hold.", many)
        })
    }

    async fn health(&self) -> Result<(), Reason> {
        if self.1.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(Reason::EnforcementLost) }
    }
}

struct Door {
    source: Arc<Counting>,
    path: PathBuf,
    _folder: tempfile::TempDir,
    _task: tokio::task::JoinHandle<()>,
}

fn door() -> Door {
    let folder = tempfile::tempdir().unwrap();
    let listener = door::open(folder.path()).unwrap();
    let source = Arc::new(Counting::default());
    let task = tokio::spawn(door::serve(listener, Arc::clone(&source), |_, _| {}));
    Door { source, path: folder.path().join(SOCKET), _folder: folder, _task: task }
}

async fn knock(door: &Door, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(&door.path).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_two_questions_are_answered() {
    let door = door();
    assert_eq!(std::fs::metadata(&door.path).unwrap().permissions().mode() & 0o777, 0o660);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for (request, expected) in [
        (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], "200"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", "200"),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", "200"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", "200"),
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "405"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\nsome body", "405"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics HTTP/9\r\n\r\n", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"nonsense\r\n\r\n", "400"),
        (b"\0\r\n\r\n", "400"),
        (b"\xff\xfe\r\n\r\n", "400"),
        (long.as_bytes(), "431"),
    ] {
        let answer = knock(&door, request).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(status, expected, "{:?}: {:.200}", String::from_utf8_lossy(request), answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_one_word_or_the_reasons_code() {
    let door = door();
    assert_eq!(samples::health(&door.path).await, (200, "ok".into()));
    door.source.1.store(1, Ordering::Relaxed);
    assert_eq!(samples::health(&door.path).await, (503, "enforcement.lost".into()));
}

/// More callers than places, who ask for everything and read nothing, or say nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_nobody() {
    let door = door();
    let mut stuck = Vec::new();
    for n in 0..20 {
        let mut stream = UnixStream::connect(&door.path).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        }
        stuck.push(stream);
    }
    let scraped = tokio::time::timeout(Duration::from_secs(120), samples::scrape(&door.path)).await.unwrap();
    assert!(scraped.get("test_asked_total", &[]) >= Some(1.0));
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_socket_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let listener = door::open(folder.path()).unwrap();
    let path = folder.path().join(SOCKET);
    let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(door::serve(listener, Arc::new(Counting::default()), move |path, change| {
        told.send((path.to_owned(), change)).unwrap();
    }));
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.unwrap().unwrap();
    samples::scrape(&path).await;
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(next().await, (found, Change::PutBack) if found == path));
    samples::scrape(&path).await;

    // Whoever removes the folder too is told of once, and what is lost comes back with the folder.
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert!(matches!(next().await, (found, Change::Lost(_)) if found == path));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    std::fs::create_dir(folder.path()).unwrap();
    assert!(matches!(next().await, (found, Change::PutBack) if found == path));
    samples::scrape(&path).await;
    task.abort();
}
