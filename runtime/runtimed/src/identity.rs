//! A client of `identityd`'s control socket.

use std::os::fd::AsFd;
use std::path::PathBuf;

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::frame::{self, FrameError};
use edgewarden_protocol::layout::Layout;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// An answer. Asking again changes nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// `identityd` is away: try again later.
    #[error("identityd does not answer")]
    Away(#[from] FrameError),
    #[error("identityd answered something else than was asked")]
    Unexpected,
}

impl CallError {
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            other => Refusal::new(Reason::IdentityUnavailable, "identityd", other),
        }
    }
}

/// One connection, made when it is needed and again after it broke. Calls wait for each other.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: Mutex<Option<UnixStream>>,
}

impl Client {
    pub fn new(layout: &Layout) -> Self {
        Self { socket: layout.control_socket(), stream: Mutex::new(None) }
    }

    /// One request. A refusal comes as [`CallError::Refused`].
    ///
    /// Dropping the future drops the connection: the next call makes a new one.
    pub async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        let mut held = self.stream.lock().await;
        // `identityd` may have started again since. A request is never sent twice, so this is looked at before.
        let mut stream = match held.take().filter(is_silent) {
            Some(stream) => stream,
            None => UnixStream::connect(&self.socket).await.map_err(FrameError::Io)?,
        };
        frame::write(&mut stream, request).await?;
        let reply = frame::read(&mut stream).await?;
        *held = Some(stream);
        match reply {
            Reply::Refused(refusal) => Err(CallError::Refused(refusal)),
            reply => Ok(reply),
        }
    }
}

/// Between two requests the other side says nothing: a stream that has something to read, or its end, is of no use.
fn is_silent(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO) == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_daemon_that_started_again_is_asked_anew() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir_all(layout.identity_run()).unwrap();
        let client = Client::new(&layout);
        let serve = async |listener: &UnixListener, requests: usize| {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..requests {
                let _: Request = frame::read(&mut stream).await.unwrap();
                frame::write(&mut stream, &Reply::Done).await.unwrap();
            }
        };
        for _ in 0..3 {
            drop(std::fs::remove_file(layout.control_socket()));
            let listener = UnixListener::bind(layout.control_socket()).unwrap();
            let asked = async {
                for _ in 0..2 {
                    assert_eq!(client.call(&Request::Status).await.unwrap(), Reply::Done);
                }
            };
            // Two requests on one connection, which the daemon's end then closes.
            tokio::join!(serve(&listener, 2), asked);
        }
        std::fs::remove_file(layout.control_socket()).unwrap();
        assert!(matches!(client.call(&Request::Status).await, Err(CallError::Away(_))));
    }
}
