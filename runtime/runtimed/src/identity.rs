//! A client of `identityd`'s control socket.

use std::path::PathBuf;

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::frame::{self, FrameError};
use edgewarden_protocol::layout::Layout;
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
        let mut stream = match held.take() {
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
