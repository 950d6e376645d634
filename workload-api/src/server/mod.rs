//! Serves the Workload API on one socket, for one instance of one module.
//!
//! Who calls is asked of the kernel when the connection is accepted; whether that may be answered is asked of the
//! [`IdentitySource`] at each call and before each message of a stream. Everything a caller can make us hold is
//! counted per socket: connections, streams, header and message bytes.

mod connection;
mod service;
mod stream;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::source::IdentitySource;
use crate::workloadapi::spiffe_workload_api_server::SpiffeWorkloadApiServer;

/// Most connections at a time on one socket. One more is closed at once.
pub const CONNECTIONS_MAX: usize = 32;
/// Most calls at a time on one connection.
pub const CALLS_MAX: u32 = 32;
/// Most streams open at a time on one socket.
pub const STREAMS_MAX: usize = 64;
/// Largest request message: requests of the X.509 profile are empty, a JWT to validate is the largest there is.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// How long to wait when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready, then closes every connection. The listener's file is the caller's to remove.
///
/// Dropping the future closes every connection too. It does not fail: a connection that cannot be accepted is tried
/// again later.
pub async fn serve(
    listener: UnixListener,
    source: Arc<dyn IdentitySource>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    // Streams end when `running` is dropped.
    let (running, stopped) = watch::channel(());
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let service = SpiffeWorkloadApiServer::new(service::Service { source, streams, stopped })
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(connection::serve(stream, service.clone()));
                }
                Ok(_) => tracing::debug!("connection closed: more than {CONNECTIONS_MAX} on this socket"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the Workload API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(running);
    connections.shutdown().await;
    Ok(())
}
