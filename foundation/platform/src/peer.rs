//! The process at the other end of a Unix stream socket, as the kernel names it.
//!
//! The kernel notes process, user and group at `connect(2)`. A pidfd keeps the process from being mistaken for a later
//! one with its number. It says nothing about `exec` or about a socket handed to another process: what must hold
//! through those is the cgroup, which is why [`PeerEvidence::cgroup`] is read again at each use.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::process::Process;

/// Interval at which a peer that has sent more than was read is looked for: it may be gone.
const UNREAD: Duration = Duration::from_secs(1);

/// The process that connected, as the kernel tells it. Cloning shares the pidfd.
#[derive(Debug, Clone)]
pub struct PeerEvidence {
    uid: u32,
    gid: u32,
    process: Process,
}

/// Resolves when the peer has closed its side or its process has ended: nobody waits for what is being made for it. At
/// once for a peer that has sent nothing more, as one does that waits for an answer; else within a second.
pub async fn gone(stream: &UnixStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            _ => return,
        }
        // What was read to its last byte may still count as readable: only a look that finds nothing arms the wait anew.
        let look = || {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            Ok(recv(stream.as_raw_fd(), &mut [0], flags)?)
        };
        match stream.try_io(Interest::READABLE, look) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(UNREAD).await,
        }
    }
}

impl PeerEvidence {
    /// Looks at the peer of a connected Unix stream socket. Fails when the peer is gone or not visible from here.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let (pid, uid, gid) = (credentials.pid(), credentials.uid(), credentials.gid());
        let process = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Process::of_pidfd(pid, pidfd)?,
            // Before Linux 6.5 there is no SO_PEERPIDFD.
            Err(Errno::ENOPROTOOPT) => open_by_number(pid, uid, gid)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { uid, gid, process })
    }

    /// Number of the process at `connect(2)`.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The user at the time of `connect(2)`.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group at the time of `connect(2)`.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// See [`Process::started`].
    pub fn pid_started(&self) -> u64 {
        self.process.started()
    }

    /// See [`Process::is_alive`].
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// See [`Process::cgroup`].
    pub fn cgroup(&self) -> io::Result<String> {
        self.process.cgroup()
    }

    /// See [`Process::exited`].
    pub async fn exited(&self) -> io::Result<()> {
        self.process.exited().await
    }

    /// The process at `connect(2)`, by its pidfd.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The fallback. Between `connect(2)` and here the number may have passed to another process; one of another user is
/// caught here, one of the same user only by what the caller checks next (the cgroup).
fn open_by_number(pid: i32, uid: u32, gid: u32) -> io::Result<Process> {
    let process = Process::open(pid)?;
    let owner = std::fs::metadata(format!("/proc/{pid}"))?;
    // A process that is not dumpable is shown as owned by root.
    let same_user = (owner.uid() == uid && owner.gid() == gid) || owner.uid() == 0;
    if same_user && process.is_alive() {
        Ok(process)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is not the one that connected")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[tokio::test]
    async fn who_closes_is_gone_and_who_waits_is_not() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let soon = Duration::from_millis(100);
        let late = Duration::from_secs(30);
        for unread in [false, true] {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            // Read to its last byte, as a request is: the stream still counts as readable then.
            there.write_all(b"ask").await.unwrap();
            here.read_exact(&mut [0; 3]).await.unwrap();
            if unread {
                there.write_all(b"more").await.unwrap();
            }
            assert!(tokio::time::timeout(soon, gone(&here)).await.is_err(), "it waits ({unread})");
            drop(there);
            assert!(tokio::time::timeout(late, gone(&here)).await.is_ok(), "it is gone ({unread})");
        }
    }

    #[test]
    fn without_a_peer_pidfd_the_user_must_still_be_the_same() {
        let mut child = Command::new("sleep").arg("600").uid(65534).gid(65534).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let same = open_by_number(pid, 65534, 65534);
        let others = [(0, 0), (65534, 0), (0, 65534), (1, 1)].map(|(uid, gid)| open_by_number(pid, uid, gid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(same.is_ok());
        assert!(others.iter().all(Result::is_err));
        assert!(open_by_number(pid, 65534, 65534).is_err());
    }
}
