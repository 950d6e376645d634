//! The module that raises the alarm: TCP port 9443, TLS, from `analytics` of its own gateway and from nobody else.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use glucose_monitor::mtls::{Workload, neighbour, peer, server_config};
use glucose_monitor::reading::{ACKNOWLEDGED, Alarm, now_us};
use spiffe::X509Source;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const LISTEN: &str = "0.0.0.0:9443";
const CONNECTIONS_MAX: usize = 16;
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
const LINE_BYTES_MAX: u64 = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let source = X509Source::new().await?;
    let own = source.svid()?.spiffe_id().clone();
    let analytics = neighbour(&own, "analytics").ok_or("our own ID is not a module's")?;
    println!("I am {own}; only {analytics} may speak");
    let allow = Box::new(move |id: &spiffe::SpiffeId| *id == analytics);
    let config = server_config(Arc::new(Workload(source)), allow)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| LISTEN.into());
    let listener = TcpListener::bind(&listen).await?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    println!("listening on {}", listener.local_addr()?);
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await?;
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a peer that was gone at once: neither is the end.
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(&acceptor, stream).await {
                eprintln!("{from}: {error}");
            }
            drop(permit);
        });
    }
}

async fn serve(acceptor: &TlsAcceptor, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await??;
    let id = peer(stream.get_ref().1.peer_certificates()).ok_or("the peer has no SPIFFE ID")?;
    println!("{id} is connected");
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let alarm: Alarm = serde_json::from_str(&line)?;
        raise(&alarm)?;
        stream.get_mut().write_all(ACKNOWLEDGED.as_bytes()).await?;
        stream.get_mut().flush().await?;
    }
}

/// The alarm itself. A real one would ring.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a latency")]
fn raise(alarm: &Alarm) -> std::io::Result<()> {
    let latency = now_us().saturating_sub(alarm.published_us) as f64 / 1000.0;
    let Alarm { patient, glucose_mg_dl, level, trend, sampled, .. } = alarm;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ALARM patient={} glucose={glucose_mg_dl} level={} trend={} sampled={} latency_ms={latency:.1}",
        patient.escape_debug(),
        level.escape_debug(),
        trend.escape_debug(),
        sampled.escape_debug()
    )?;
    out.flush()
}
