//! The socket: who connects, and what all connections share.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_platform::harden::is_reserved;
use edgewarden_workload_wire::secrets_v1::secrets_server::SecretsServer;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::caller::Caller;
use crate::encoded::Sent;
use crate::limits::{CONNECTIONS_MAX, EXCHANGES_MAX, STRANGER_LIFETIME, STRANGERS_MAX, STREAMS_MAX};
use crate::source::IdentitySource;
use crate::{connection, dispatch, sds, secrets, service, turns};

/// Time that a connection has at the end to tell its streams that it is one. Nothing new is given meanwhile; what
/// waited for a client to read goes out before.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Wait before the next accept when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let mut connections = JoinSet::new();
    let mut strangers = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            Some(_) = strangers.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if is_reserved(&stream) => {
                    tracing::warn!("connection closed: this process has too many files open");
                }
                Ok((stream, _)) => {
                    let caller = Caller::of(&stream);
                    let expected = caller.0.as_ref().is_some_and(|caller| source.is_expected(caller));
                    let services = if expected { &services } else { &strangers_services };
                    let serving = connection::serve(stream, caller.clone(), services.clone(), stopped.clone());
                    if expected && connections.len() < CONNECTIONS_MAX {
                        connections.spawn(serving);
                    } else if !expected && strangers.len() < STRANGERS_MAX {
                        strangers.spawn(stranger(caller, Arc::clone(&source), serving));
                    } else {
                        tracing::debug!(expected, "connection closed: too many on this socket");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the Workload API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Who connects from here on is refused by the kernel.
    drop(listener);
    drop(running);
    let told = async { while connections.join_next().await.is_some() {} };
    // A caller that does not read cannot be told. Strangers are not waited for: they could hold up every end.
    drop(tokio::time::timeout(LAST_WORDS, told).await);
    connections.shutdown().await;
    strangers.shutdown().await;
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
