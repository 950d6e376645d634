//! Listening sockets, and how many connections they may bring.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of all kinds of one listener.
pub(crate) const CONNECTIONS_MAX: usize = 2048;
/// Connections from one address: a site behind one router still fits, one device cannot take all.
const CONNECTIONS_PER_SOURCE_MAX: usize = 256;

/// Binds and listens. The address need not exist yet (`IP_FREEBIND`): the modules' network comes up after us.
pub(crate) fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(socket.into())
}

/// A place among the connections; given back when dropped.
pub(crate) struct Slot {
    from: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sources.remove(&self.from);
            }
        }
    }
}

/// Takes connections and gives each to a task of `serve`, for as long as the future lives.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let sources = Arc::new(Mutex::new(HashMap::<IpAddr, usize>::new()));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        // Ended tasks are collected as we go; those that live end with us.
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&slots).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: others must end first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        {
            let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
            let count = sources.entry(from.ip()).or_default();
            if *count >= CONNECTIONS_PER_SOURCE_MAX {
                continue;
            }
            *count += 1;
        }
        let slot = Slot { from: from.ip(), sources: Arc::clone(&sources), _permit: permit };
        let serving = serve(stream, from);
        tasks.spawn(async move {
            serving.await;
            drop(slot);
        });
    }
}
