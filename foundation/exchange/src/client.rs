//! Asks one of the local daemons over its control socket.

use std::path::{Path, PathBuf};

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::{Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::frame::{self, FrameError};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon does not run, or this user may not reach its socket.
    #[error("cannot reach `{}`", socket.display())]
    Unreachable { socket: PathBuf, source: std::io::Error },
    /// The daemon went away during the exchange. Connect again.
    #[error("the exchange with the daemon broke off")]
    Broken(#[from] FrameError),
    #[error(transparent)]
    Refused(Refusal),
}

/// A connection to a control socket: one request, one reply, any number of times.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Self { stream }),
            Err(source) => Err(ClientError::Unreachable { socket: socket.into(), source }),
        }
    }

    /// Sends a request and reads its reply. After an error, or when the future was dropped, the connection is
    /// out of step: connect again.
    pub async fn exchange<Q: Serialize + Sync, A: DeserializeOwned>(
        &mut self,
        request: &Q,
    ) -> Result<A, ClientError> {
        let broken = match frame::write(&mut self.stream, request).await {
            Ok(()) => None,
            // A daemon that refuses before it has read everything closes early: its reason counts, not the broken pipe.
            Err(FrameError::Io(error)) => Some(FrameError::Io(error)),
            Err(error) => return Err(error.into()),
        };
        match frame::read(&mut self.stream).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(broken.unwrap_or(error).into()),
        }
    }

    /// Asks `identityd`. A refusal is an error, so that no caller mistakes it for an answer.
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        match self.exchange(request).await? {
            Reply::Refused(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok(reply),
        }
    }
}

/// What to say when a daemon answers a request with the reply to another.
pub fn unexpected(reply: &Reply) -> ClientError {
    let kind = format!("{reply:?}");
    let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
    ClientError::Refused(Refusal::new(Reason::Internal, "identityd", format!("it answered with `{kind}`")))
}
