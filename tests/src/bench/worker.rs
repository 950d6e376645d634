//! Work of processes inside a module's cgroup for a measurement: this program, run again.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgewarden_tests::Failure;
use edgewarden_transport::{Identity, tls};
use edgewarden_workload_client::fetch_once;
use futures_util::StreamExt as _;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use spiffe::WorkloadApiClient;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::common::failed;

#[derive(Debug, Serialize, Deserialize)]
pub enum Work {
    /// Holds so many streams. Prints a line with the time for each identity that the first of them brings.
    Hold { socket: PathBuf, streams: usize },
    /// Asks for tokens without pause, as much as it may at a time. Says `loud` when it does.
    Noise { socket: PathBuf },
    /// Gets an identity over a connection of its own, so many times, and says how many milliseconds each took.
    Fetch { socket: PathBuf, times: usize },
    /// Accepts connections by mutual TLS.
    Serve { socket: PathBuf, address: SocketAddr },
    /// Opens connections by mutual TLS, so many a second, and says how that went.
    Connect { socket: PathBuf, address: SocketAddr, rate: u32, seconds: u64 },
    /// Asks for an identity that is not its own, one call after the other.
    Churn { socket: PathBuf, seconds: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Handshakes {
    pub good: u64,
    pub failed: u64,
    pub seconds: f64,
    /// Error of the first that failed.
    pub why: Option<String>,
}

const NOISY_CONNECTIONS: usize = 8;
const NOISY_CALLS: usize = 1000;

pub const WORK: &str = "EW_BENCH_WORK";

pub fn now_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Prints at once: who reads it waits for it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

pub fn work(text: &str) -> Result<(), Failure> {
    let work: Work = serde_json::from_str(text).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match work {
            Work::Hold { socket, streams } => hold(socket, streams).await,
            Work::Noise { socket } => noise(socket).await,
            Work::Fetch { socket, times } => fetch(socket, times).await,
            Work::Serve { socket, address } => serve(socket, address).await,
            Work::Connect { socket, address, rate, seconds } => connect(socket, address, rate, seconds).await,
            Work::Churn { socket, seconds } => churn(socket, seconds).await,
        }
    })
}

/// As a program with the stock client does: one connection, and the streams of its sources on it.
async fn hold(socket: PathBuf, streams: usize) -> Result<(), Failure> {
    // A container's process does not run before its start is known; this one waits for the word.
    std::io::stdin().read_exact(&mut [0])?;
    // Ends with its parent: reading then finds the end.
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    let client = WorkloadApiClient::connect_to(format!("unix:{}", socket.display())).await.map_err(failed)?;
    let mut held = Vec::new();
    for _ in 0..streams {
        let mut stream = client.stream_x509_contexts().await.map_err(failed)?;
        stream.next().await.ok_or_else(|| Failure::new("a stream ended"))?.map_err(failed)?;
        held.push(stream);
    }
    let mut others = held.split_off(1);
    for mut other in others.drain(..) {
        tokio::spawn(async move { while let Some(Ok(_)) = other.next().await {} });
    }
    let Some(mut first) = held.pop() else { return Err(Failure::new("no stream to hold")) };
    loop {
        say(&now_nanos().to_string());
        first.next().await.ok_or_else(|| Failure::new("a stream ended"))?.map_err(failed)?;
    }
}

async fn noise(socket: PathBuf) -> Result<(), Failure> {
    let mut connections = Vec::new();
    for _ in 0..NOISY_CONNECTIONS {
        let client =
            WorkloadApiClient::connect_to(format!("unix:{}", socket.display())).await.map_err(failed)?;
        connections.push(Arc::new(client));
    }
    for (number, client) in connections.iter().cycle().take(NOISY_CALLS).enumerate() {
        let client = Arc::clone(client);
        tokio::spawn(async move {
            let audience = format!("audience-{}", number % 8);
            // What is over a budget is refused, and asked for again.
            loop {
                drop(client.fetch_jwt_svid([&audience], None).await);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    say("loud");
    std::future::pending().await
}

async fn fetch(socket: PathBuf, times: usize) -> Result<(), Failure> {
    let mut took = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        fetch_once(&socket).await.map_err(failed)?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    say(&serde_json::to_string(&took).map_err(failed)?);
    Ok(())
}

async fn serve(socket: PathBuf, address: SocketAddr) -> Result<(), Failure> {
    let identity = Identity::new(edgewarden_workload_client::follow(socket));
    identity.ready().await.map_err(failed)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity, tls::anyone()).map_err(failed)?));
    let listener = TcpListener::bind(address).await?;
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    say("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // One byte says that the client's certificate was accepted.
                drop(tokio::io::AsyncWriteExt::write_all(&mut stream, b"y").await);
                drop(tokio::io::AsyncWriteExt::shutdown(&mut stream).await);
            }
        });
    }
}

async fn connect(socket: PathBuf, address: SocketAddr, rate: u32, seconds: u64) -> Result<(), Failure> {
    let identity = Identity::new(edgewarden_workload_client::follow(socket));
    identity.ready().await.map_err(failed)?;
    let connector =
        TlsConnector::from(Arc::new(tls::client_config(&identity, tls::anyone()).map_err(failed)?));
    let (good, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let why = Arc::new(std::sync::Mutex::new(None));
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let room = Arc::new(tokio::sync::Semaphore::new(64));
    while begun.elapsed() < Duration::from_secs(seconds) {
        pace.tick().await;
        let permit = Arc::clone(&room).acquire_owned().await.map_err(failed)?;
        let (connector, good, bad, why) =
            (connector.clone(), Arc::clone(&good), Arc::clone(&bad), Arc::clone(&why));
        tokio::spawn(async move {
            let _permit = permit;
            match shake(&connector, address).await {
                Ok(()) => good.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    why.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .get_or_insert(error.to_string());
                    bad.fetch_add(1, Ordering::Relaxed)
                }
            };
        });
    }
    let all = room.acquire_many(64).await.map_err(failed)?;
    let took = begun.elapsed();
    drop(all);
    let why = why.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let (good, bad) = (good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed));
    let told = Handshakes { good, failed: bad, seconds: took.as_secs_f64(), why };
    say(&serde_json::to_string(&told).map_err(failed)?);
    Ok(())
}

async fn shake(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<()> {
    let name = ServerName::try_from("module.example").map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(name, stream).await?;
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0]).await.map(drop)
}

async fn churn(socket: PathBuf, seconds: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut refused = 0_u64;
    while begun.elapsed() < Duration::from_secs(seconds) {
        if fetch_once(&socket).await.is_ok() {
            return Err(Failure::new("an identity was given to a stranger"));
        }
        refused += 1;
    }
    say(&refused.to_string());
    Ok(())
}
