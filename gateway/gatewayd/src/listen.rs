//! Listening sockets, and how many connections they may bring.
//!
//! Anybody on the network may connect; only who proves to be somebody stays. Strangers have places of their own, and
//! when those are taken the stranger that has been there longest makes room: who says nothing keeps nobody out.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgewarden_platform::accepting::Accepting;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Connections of all kinds of one listener.
const CONNECTIONS_MAX: usize = 2048;
/// Connections of strangers among them.
const STRANGERS_MAX: usize = 512;
/// Connections from one address: a site behind one router still fits, one device cannot take all.
const CONNECTIONS_PER_SOURCE_MAX: usize = 256;
const LISTENERS: usize = 3;
/// Descriptors for everything but clients: without them nothing could be put on disk or be asked of `identityd`.
const DESCRIPTORS_KEPT: usize = 512;

/// Sees to it that clients cannot take the last descriptor. Returns how many connections a listener may have.
pub(crate) fn connections_max() -> usize {
    let wanted = u64::try_from(LISTENERS * CONNECTIONS_MAX + DESCRIPTORS_KEPT).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        let raised = wanted.clamp(soft, hard.max(soft));
        if raised == soft || setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() { raised } else { soft }
    });
    share(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn share(descriptors: usize) -> usize {
    let kept = DESCRIPTORS_KEPT.min(descriptors / 2);
    (descriptors.saturating_sub(kept) / LISTENERS).clamp(1, CONNECTIONS_MAX)
}

/// The address by which clients are told apart: an IPv4 address, or the /64 network that IPv6 gives to one line.
pub(crate) fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The IPv4 network that alone is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: u32,
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else { return false };
        address.to_bits() & self.mask == self.address.to_bits() & self.mask
    }
}

/// Binds and listens. The address need not exist yet (`IP_FREEBIND`): the modules' network comes up after us. Linux takes
/// packets for any of its addresses on any interface, so who is not in `only` is dropped by the socket itself. A hardened
/// kernel lets only privileged processes say so; then [`accept`] closes what comes from elsewhere, before a byte is said.
pub(crate) fn open(address: SocketAddr, only: Option<Network>) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    if let Some(Network { address, mask }) = only {
        match edgewarden_platform::sources::only_from(&socket, address, mask) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::info!(%error, "the kernel does not drop other networks' packets for us");
            }
            attached => attached?,
        }
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(socket.into())
}

/// A listener's connections.
#[derive(Debug, Default)]
struct Places {
    sources: HashMap<IpAddr, usize>,
    /// Oldest first.
    strangers: BTreeMap<u64, AbortHandle>,
}

/// A place among the connections; given back when dropped.
pub(crate) struct Slot {
    number: u64,
    from: IpAddr,
    places: Arc<Mutex<Places>>,
    _permit: OwnedSemaphorePermit,
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// The peer is no stranger any more: it keeps its place.
    pub(crate) fn known(&self) {
        lock(&self.places).strangers.remove(&self.number);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut places = lock(&self.places);
        places.strangers.remove(&self.number);
        if let Some(count) = places.sources.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                places.sources.remove(&self.from);
            }
        }
    }
}

/// Takes connections and gives each to a task of `serve`, for as long as the future lives. Whoever is not in `only` is
/// sent away.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    only: Option<Network>,
    connections_max: usize,
    serve: impl Fn(TcpStream, SocketAddr, Slot) -> F,
) {
    let slots = Arc::new(Semaphore::new(connections_max));
    let strangers_max = STRANGERS_MAX.min(connections_max.div_ceil(2));
    let places = Arc::new(Mutex::new(Places::default()));
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0u64;
    let mut accepting = Accepting::new("of a client");
    loop {
        // Ended tasks are collected as we go; those that live end with us.
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&slots).acquire_owned().await else { return };
        let (stream, from) = accepting.next(|| listener.accept()).await;
        if only.is_some_and(|network| !network.holds(from.ip())) {
            continue;
        }
        number = number.wrapping_add(1);
        let source = source(from.ip());
        // Held until the task is among the strangers, so that it cannot have become known before.
        let mut held = lock(&places);
        let count = held.sources.entry(source).or_default();
        if *count >= CONNECTIONS_PER_SOURCE_MAX {
            continue;
        }
        *count += 1;
        let slot = Slot { number, from: source, places: Arc::clone(&places), _permit: permit };
        let task = tasks.spawn(serve(stream, from, slot));
        held.strangers.insert(number, task);
        let oldest = if held.strangers.len() > strangers_max { held.strangers.pop_first() } else { None };
        drop(held);
        if let Some((_, oldest)) = oldest {
            oldest.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clients_never_take_the_last_descriptors() {
        for (descriptors, expected) in [(1 << 20, 2048), (8192, 2048), (4096, 1194), (1024, 170), (3, 1)] {
            assert_eq!(share(descriptors), expected, "{descriptors}");
        }
    }

    /// Nobody ever ends by itself here: only who makes room lets the last one in.
    #[tokio::test]
    async fn the_oldest_stranger_makes_room_and_the_known_stay() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (served, mut serving) = tokio::sync::mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept(listener, None, 8, move |stream, from, slot| {
            let served = served.clone();
            async move {
                if from.ip() == IpAddr::from([127, 7, 0, 1]) {
                    slot.known();
                }
                served.send(from).ok();
                std::future::pending::<()>().await;
                drop((stream, slot));
            }
        }));
        let mut streams = Vec::new();
        for n in 1..=20 {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(([127, 7, 0, n], 0).into())?;
            streams.push(socket.connect(address).await?);
            let from = tokio::time::timeout(Duration::from_secs(30), serving.recv()).await?;
            assert_eq!(from.map(|from| from.ip()), Some(IpAddr::from([127, 7, 0, n])));
        }
        for (n, stream) in (1..).zip(&mut streams) {
            let kept = n == 1 || n > 16;
            if !kept {
                let mut end = [0];
                let read = tokio::io::AsyncReadExt::read(stream, &mut end).await;
                assert!(matches!(read, Ok(0) | Err(_)), "{n}");
            }
        }
        let mut nothing = [0];
        for n in [0, 16, 19] {
            let read = streams.get(n).map(|stream| stream.try_read(&mut nothing));
            let open = matches!(read, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock);
            assert!(open, "{n}");
        }
        accepting.abort();
        Ok(())
    }

    #[tokio::test]
    async fn who_is_not_of_the_network_is_sent_away() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let only = Network { address: Ipv4Addr::new(127, 9, 0, 0), mask: 0xffff_0000 };
        let (served, mut serving) = tokio::sync::mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept(listener, Some(only), 8, move |stream, from, slot| {
            let served = served.clone();
            async move {
                served.send(from.ip()).ok();
                std::future::pending::<()>().await;
                drop((stream, slot));
            }
        }));
        let mut streams = Vec::new();
        for from in [[127, 0, 0, 1], [127, 10, 0, 1], [127, 9, 3, 1]] {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            streams.push(socket.connect(address).await?);
        }
        let first = tokio::time::timeout(Duration::from_secs(30), serving.recv()).await?;
        assert_eq!(first, Some(IpAddr::from([127, 9, 3, 1])));
        for stream in streams.iter_mut().take(2) {
            let mut end = [0];
            assert!(matches!(tokio::io::AsyncReadExt::read(stream, &mut end).await, Ok(0) | Err(_)));
        }
        accepting.abort();
        Ok(())
    }

    #[test]
    fn a_line_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))).to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:2:ffff::1"), source("2001:db8:1:2::"));
        assert_ne!(source("2001:db8:1:3::1"), source("2001:db8:1:2::1"));
    }
}
