//! Serves one socket, for one instance of one module.
//!
//! Who calls is asked of the kernel when the connection is accepted. Whether that may be answered is asked of the
//! [`IdentitySource`] at each request and again before the answer goes out. Everything that a caller can make us hold or
//! wait for is bounded; those who are none of the socket's callers have connections of their own to fill, few and short.

mod call;
mod connection;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_workload_server::Connections;
use edgewarden_workload_server::IdentitySource;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::ModuleApi;

/// Most connections at a time on one socket. One more is closed at once.
pub const CONNECTIONS_MAX: usize = 8;
/// The same for those who are none of the socket's callers.
pub const STRANGERS_MAX: usize = 4;
/// Time in which a stranger is told so.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(5);
/// Most calls at a time that wait for keys, a chip or the disk.
pub const CALLS_MAX: usize = 4;
/// Time that a request's line and headers may take, also the next one's of a connection that is kept.
pub const HEADERS_TIME: Duration = Duration::from_secs(10);
/// Time that its body may take.
pub const BODY_TIME: Duration = Duration::from_secs(5);
/// Time that a call waits for a thread while others have them.
pub const THREAD_TIME: Duration = Duration::from_secs(10);
/// A connection is then closed, after the answer to what it asked before.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);

/// The sources behind the socket: who its callers are, and what they may ask.
#[derive(Clone)]
pub struct Door {
    pub callers: Arc<dyn IdentitySource>,
    pub api: Arc<dyn ModuleApi>,
    /// Shared by all sockets: a call that blocks has a thread, and all modules together must not have all threads. Calls
    /// wait for one in the order they came; of each socket at most [`CALLS_MAX`] do.
    pub threads: Arc<Semaphore>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door(..)")
    }
}

/// Serves until `shutdown` is ready, then closes every connection. The listener's file is the caller's to remove.
///
/// Dropping the future closes every connection too. It does not fail: a connection that cannot be accepted is tried
/// again later.
pub async fn serve(listener: UnixListener, door: Door, shutdown: impl Future<Output = ()> + Send) {
    let service = call::Service { door, places: Arc::new(Semaphore::new(CALLS_MAX)) };
    let mut connections = Connections::new("to the IoT Edge API", CONNECTIONS_MAX, STRANGERS_MAX);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            stream = connections.next(&listener) => stream,
        };
        let caller = connection::peer(&stream);
        let expected = caller.as_ref().is_some_and(|caller| service.door.callers.is_expected(caller));
        let serving = connection::serve(stream, caller, service.clone());
        if expected {
            connections.caller(serving);
        } else {
            connections.stranger(async {
                // Ended by its time or by itself: it is over either way.
                let _over = tokio::time::timeout(STRANGER_LIFETIME, serving).await;
            });
        }
    }
    connections.close(Duration::ZERO).await;
}
