//! The connection from `analytics` to `alerts`: one, long-lived, TLS between their SPIFFE IDs. Before the certificate
//! that it was made with ends, it is replaced by one with the current certificate.
//!
//! An alarm is done when `alerts` has acknowledged it; until then it is sent again over a new connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use spiffe::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::mtls::Workload;
use crate::reading::ACKNOWLEDGED;

const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);

/// One alarm on its way.
#[derive(Debug)]
pub struct Line {
    pub text: String,
    /// Names the reading that raised it, to say that the alarm is done.
    pub reading: u64,
}

/// Settings and counters of the link; `peer` is the SPIFFE ID of `alerts`.
pub struct Link {
    /// Source of the certificate that connections are made with.
    pub certificates: Arc<Workload>,
    pub connector: TlsConnector,
    /// `host:port`
    pub address: String,
    pub peer: SpiffeId,
    /// Connections that broke by themselves.
    pub broken: Arc<AtomicU64>,
    /// Readings whose alarms `alerts` has.
    pub done: mpsc::UnboundedSender<u64>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

struct Open {
    stream: TlsStream<TcpStream>,
    replace_at: Instant,
}

impl Link {
    /// Sends every line that comes, for as long as somebody may send one.
    pub async fn run(self, mut lines: mpsc::Receiver<Line>) {
        let mut open = self.connect().await;
        loop {
            let mut unasked = [0; 1];
            tokio::select! {
                line = lines.recv() => {
                    let Some(line) = line else { return };
                    open = self.deliver(open, &line.text).await;
                    if self.done.send(line.reading).is_err() {
                        return;
                    }
                }
                () = sleep_until(open.replace_at) => open = self.connect().await,
                // Nothing comes unasked but the end.
                _ = open.stream.read(&mut unasked) => {
                    self.broke("it was closed");
                    open = self.connect().await;
                }
            }
        }
    }

    /// Sends one line until it is acknowledged. Gives the connection on which it was.
    async fn deliver(&self, mut open: Open, line: &str) -> Open {
        loop {
            match timeout(PATIENCE, exchange(&mut open.stream, line)).await {
                Ok(Ok(())) => return open,
                Ok(Err(error)) => self.broke(&error.to_string()),
                Err(_) => self.broke("no acknowledgement came"),
            }
            open = self.connect().await;
        }
    }

    fn broke(&self, why: &str) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        eprintln!("the connection to {} broke: {why}", self.peer);
    }

    /// Tries until it succeeds.
    async fn connect(&self) -> Open {
        loop {
            let replace_at = Instant::now() + self.certificates.use_for();
            match self.try_connect().await {
                Ok(stream) => {
                    println!("connected to {} at {}", self.peer, self.address);
                    return Open { stream, replace_at };
                }
                Err(error) => eprintln!("cannot reach {} at {}: {error}", self.peer, self.address),
            }
            sleep(RETRY).await;
        }
    }

    async fn try_connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let address: SocketAddr = crate::mtls::resolve(&self.address)?;
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.connector.connect(ServerName::from(address.ip()), stream).await
        };
        match timeout(PATIENCE, connecting).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("no answer".into()),
        }
    }
}

async fn exchange(stream: &mut TlsStream<TcpStream>, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(b"\n").await?;
    stream.flush().await?;
    let mut answer = [0; ACKNOWLEDGED.len()];
    stream.read_exact(&mut answer).await?;
    if answer == *ACKNOWLEDGED.as_bytes() { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
