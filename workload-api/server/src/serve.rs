//! The socket: who connects, and what all connections share.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_workload_wire::secrets_v1::secrets_server::SecretsServer;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

use crate::caller::Caller;
use crate::connections::Connections;
use crate::encoded::Sent;
use crate::limits::{CONNECTIONS_MAX, EXCHANGES_MAX, STRANGER_LIFETIME, STRANGERS_MAX, STREAMS_MAX};
use crate::source::IdentitySource;
use crate::{connection, dispatch, sds, secrets, service, turns};

/// Time that a connection has at the end to tell its streams that it is one. Nothing new is given meanwhile; what
/// waited for a client to read goes out before.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until `shutdown` is ready, then ends every call with a status and closes every connection. The listener's file
/// is the caller's to remove.
///
/// Dropping the future closes every connection too, without a word. It does not fail: a connection that cannot be
/// accepted is tried again later.
pub async fn serve(
    listener: UnixListener,
    source: Arc<dyn IdentitySource>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    // Streams end when `running` is dropped.
    let (running, stopped) = watch::channel(());
    let socket = Socket {
        source: Arc::clone(&source),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        exchanges: Arc::new(Semaphore::new(EXCHANGES_MAX)),
        opening: Arc::new(Semaphore::new(1)),
        sent: Arc::default(),
        stopped: stopped.clone(),
    };
    let (services, strangers_services) = (socket.services(), socket.services());
    let mut connections = Connections::new("to the Workload API", CONNECTIONS_MAX, STRANGERS_MAX);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            stream = connections.next(&listener) => stream,
        };
        let caller = Caller::of(&stream);
        let expected = caller.0.as_ref().is_some_and(|caller| source.is_expected(caller));
        let services = if expected { &services } else { &strangers_services };
        let serving = connection::serve(stream, caller.clone(), services.clone(), stopped.clone());
        if expected {
            connections.caller(serving);
        } else {
            connections.stranger(stranger(caller, Arc::clone(&source), serving));
        }
    }
    // Who connects from here on is refused by the kernel.
    drop(listener);
    drop(running);
    connections.close(LAST_WORDS).await;
    Ok(())
}

/// The parts of a socket that all its connections share.
struct Socket {
    source: Arc<dyn IdentitySource>,
    streams: Arc<Semaphore>,
    exchanges: Arc<Semaphore>,
    opening: Arc<Semaphore>,
    sent: Arc<Sent>,
    stopped: watch::Receiver<()>,
}

impl Socket {
    /// The services that are offered, with turns and places for requests of their own: the module's callers do not wait
    /// for strangers.
    fn services(&self) -> dispatch::Services {
        let (source, stopped, turns) = (&self.source, &self.stopped, turns::Turns::new());
        let (streams, exchanges) = (&self.streams, &self.exchanges);
        let secrets =
            sds::Secrets::new(Arc::clone(source), Arc::clone(exchanges), stopped.clone(), turns.clone());
        let deployment_secrets = SecretsServer::new(secrets::Service {
            source: Arc::clone(source),
            streams: Arc::clone(streams),
            opening: Arc::clone(&self.opening),
            stopped: stopped.clone(),
            turns: turns.clone(),
        });
        let service = service::Service {
            source: Arc::clone(source),
            streams: Arc::clone(streams),
            exchanges: Arc::clone(exchanges),
            stopped: stopped.clone(),
            sent: Arc::clone(&self.sent),
            turns,
        };
        dispatch::Services::new(Arc::new(service), secrets, deployment_secrets)
    }
}

/// A connection that may take its time only if its maker turns out to be a caller after all: one that came in the moment
/// between its start and our word of it.
async fn stranger(caller: Caller, source: Arc<dyn IdentitySource>, serving: impl Future<Output = ()>) {
    let mut serving = std::pin::pin!(serving);
    let is_over = tokio::time::timeout(STRANGER_LIFETIME, &mut serving).await.is_ok();
    if !is_over && caller.0.is_some_and(|caller| source.is_expected(&caller)) {
        serving.await;
    }
}
