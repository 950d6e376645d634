//! Many descriptors watched through one (epoll(7)): whoever waits learns which of them have something.

use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Taken at a time; the rest comes with the next look.
const READY_MAX: usize = 64;

/// Descriptors with a number of the caller's for each.
#[derive(Debug)]
pub struct Readiness {
    watched: AsyncFd<std::os::fd::OwnedFd>,
    epoll: Epoll,
}

impl Readiness {
    /// Must be called in a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watched = epoll.0.try_clone()?;
        // SAFETY: the registration owns the descriptor, which stays open and the same until it is dropped.
        #[expect(unsafe_code, reason = "tokio has no other way to watch a descriptor that is not a socket")]
        let watched = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?;
        Ok(Self { watched, epoll })
    }

    /// Dropping all copies of the descriptor ends the watch.
    pub fn add(&self, descriptor: impl AsFd, number: u64) -> io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, number))?)
    }

    /// The numbers of those that have something, at least one. What is not read is told again. Cancel-safe.
    pub async fn ready(&self) -> io::Result<Vec<u64>> {
        loop {
            let mut guard = self.watched.readable().await?;
            let mut events = [EpollEvent::empty(); READY_MAX];
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            if count > 0 {
                return Ok(events.iter().take(count).map(EpollEvent::data).collect());
            }
            guard.clear_ready();
        }
    }
}
