//! Asks one of the local daemons over its control socket.

use std::path::{Path, PathBuf};

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::ask::{self, Ask, NoAnswer, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::frame::{self, FrameError};

/// Error of an exchange with a daemon.
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
    /// Connects to the daemon's socket.
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

    /// Asks, and has the answer of that question. A refusal is an error, so that no caller mistakes it for an answer.
    pub async fn ask<Q>(&mut self, question: Q) -> Result<Q::Answer, ClientError>
    where
        Q: Ask<Reply: Reply<Refused = Refusal>>,
    {
        self.answer_to::<Q>(&question.into_request()).await
    }

    /// The same, for a question that is a request already.
    pub async fn answer_to<Q>(&mut self, request: &Q::Request) -> Result<Q::Answer, ClientError>
    where
        Q: Ask<Reply: Reply<Refused = Refusal>>,
    {
        ask::answer::<Q>(self.exchange(request).await?).map_err(|none| match none {
            NoAnswer::Refused(refusal) => ClientError::Refused(refusal),
            NoAnswer::Other(kind) => ClientError::Refused(unexpected(<Q::Reply as Reply>::DAEMON, kind)),
        })
    }
}

/// Refusal for a daemon that answers a request with the reply to another.
fn unexpected(daemon: &str, kind: &str) -> Refusal {
    let rule = format!("it answered with `{kind}`, which was not asked; are all programs of one version?");
    Refusal::new(Reason::Internal, daemon, rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_protocol::control::{Reply as Said, Request, questions};

    #[tokio::test]
    async fn an_answer_to_something_else_is_refused_by_name() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client { stream: ours };
        let busy = Refusal::new(Reason::Busy, "identityd", "it is stopping");
        let serve = async {
            for reply in [Said::Secrets(Vec::new()), Said::Refused(busy.clone()), Said::Done] {
                assert_eq!(frame::read::<Request>(&mut theirs).await.unwrap(), Request::Deployment);
                frame::write(&mut theirs, &reply).await.unwrap();
            }
        };
        let ask = async {
            let other = client.ask(questions::Deployment).await.unwrap_err();
            let ClientError::Refused(refusal) = other else { panic!("{other:?}") };
            assert_eq!((refusal.reason, refusal.subject.as_str()), (Reason::Internal, "identityd"));
            assert!(refusal.rule.contains("`Secrets`"), "{refusal}");
            let refused = client.ask(questions::Deployment).await;
            assert!(matches!(refused, Err(ClientError::Refused(why)) if why == busy));
            assert_eq!(client.ask(questions::Deployment).await.unwrap(), None);
        };
        tokio::join!(serve, ask);
    }
}
