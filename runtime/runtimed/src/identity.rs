//! A client of `identityd`'s control socket.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use edgewarden_exchange::frame;
use edgewarden_exchange::frame::FrameError;
use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::ask::{self, Ask, NoAnswer};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::layout::Layout;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Error of a call to `identityd`, by whether another try can help.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// An answer. Asking again changes nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// `identityd` is away: try again later.
    #[error("identityd does not answer")]
    Away(#[from] FrameError),
    /// The kind of another answer, or an answer about something else.
    #[error("identityd answered something else than was asked")]
    Unexpected,
}

impl CallError {
    /// The refusal as it came, or `identity.unavailable` for any other error.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            other => Refusal::new(Reason::IdentityUnavailable, "identityd", other),
        }
    }
}

/// Time in which a call is answered, once it is its turn.
fn deadline(request: &Request) -> Duration {
    match request {
        // Answered after half a minute without news.
        Request::Watch { .. } => Duration::from_secs(45),
        // Long work of a TPM, or of a policy.
        Request::EnrolKeys
        | Request::EnrolProve(_)
        | Request::EnrolAccept(_)
        | Request::Est(_)
        | Request::AttestQuote { .. }
        | Request::DeploymentAccept(_) => Duration::from_secs(180),
        _ => Duration::from_secs(60),
    }
}

/// A client of `identityd`'s control socket: one connection, made when it is needed and again after it broke. Calls
/// wait for each other.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: Mutex<Option<UnixStream>>,
}

impl Client {
    /// A client that connects with its first call.
    pub fn new(layout: &Layout) -> Self {
        Self { socket: layout.control_socket(), stream: Mutex::new(None) }
    }

    /// One question. A refusal comes as [`CallError::Refused`]; a daemon that does not answer in time is away.
    ///
    /// Dropping the future drops the connection: the next call makes a new one.
    pub async fn call<Q>(&self, question: Q) -> Result<Q::Answer, CallError>
    where
        Q: Ask<Request = Request, Reply = Reply>,
    {
        let request = question.into_request();
        let reply = self.exchange_within(&request, deadline(&request)).await?;
        ask::answer::<Q>(reply).map_err(|none| match none {
            NoAnswer::Refused(refusal) => CallError::Refused(refusal),
            NoAnswer::Other(kind) => {
                tracing::error!(kind, "identityd answered something else than was asked");
                CallError::Unexpected
            }
        })
    }

    async fn exchange_within(&self, request: &Request, time: Duration) -> Result<Reply, CallError> {
        let mut held = self.stream.lock().await;
        // On a timeout the connection is gone with the exchange: a late answer is nobody's.
        tokio::time::timeout(time, self.exchange(&mut held, request)).await.unwrap_or_else(|_| {
            let late =
                std::io::Error::new(ErrorKind::TimedOut, format!("no answer within {} s", time.as_secs()));
            Err(CallError::Away(FrameError::Io(late)))
        })
    }

    async fn exchange(&self, held: &mut Option<UnixStream>, request: &Request) -> Result<Reply, CallError> {
        // `identityd` may have started again since. A request is never sent twice, so this is looked at before.
        let mut stream = match held.take().filter(is_silent) {
            Some(stream) => stream,
            None => UnixStream::connect(&self.socket).await.map_err(FrameError::Io)?,
        };
        frame::write(&mut stream, request).await?;
        let reply = frame::read(&mut stream).await?;
        *held = Some(stream);
        Ok(reply)
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
    use edgewarden_protocol::control::questions;
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
                    client.call(questions::TimeAccept).await.unwrap();
                }
            };
            // Two requests on one connection, which the daemon's end then closes.
            tokio::join!(serve(&listener, 2), asked);
        }
        std::fs::remove_file(layout.control_socket()).unwrap();
        assert!(matches!(client.call(questions::TimeAccept).await, Err(CallError::Away(_))));
    }

    #[tokio::test]
    async fn the_answer_to_something_else_is_none_and_the_connection_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir_all(layout.identity_run()).unwrap();
        let listener = UnixListener::bind(layout.control_socket()).unwrap();
        let client = Client::new(&layout);
        let refusal = Refusal::new(Reason::Busy, "identityd", "it is stopping");
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for reply in [Reply::Secrets(Vec::new()), Reply::Refused(refusal.clone()), Reply::Done] {
                let _: Request = frame::read(&mut stream).await.unwrap();
                frame::write(&mut stream, &reply).await.unwrap();
            }
        };
        let asked = async {
            assert!(matches!(client.call(questions::Deployment).await, Err(CallError::Unexpected)));
            let refused = client.call(questions::Deployment).await;
            assert!(matches!(refused, Err(CallError::Refused(why)) if why == refusal));
            assert_eq!(client.call(questions::Deployment).await.unwrap(), None);
        };
        tokio::join!(serve, asked);
    }

    /// One that takes requests and never answers, one that stops in the middle of an answer, one that takes nothing.
    #[tokio::test]
    async fn a_daemon_that_hangs_is_away_and_holds_nobody_for_ever() {
        use tokio::io::AsyncWriteExt;
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir_all(layout.identity_run()).unwrap();
        let listener = UnixListener::bind(layout.control_socket()).unwrap();
        let client = Client::new(&layout);
        let brief = Duration::from_millis(100);
        let away = |outcome: Result<Reply, CallError>| {
            assert!(matches!(outcome, Err(CallError::Away(_))), "{outcome:?}");
        };
        away(client.exchange_within(&Request::Status, brief).await);
        // Whoever waits for a turn gets it.
        let (first, second) = tokio::join!(
            client.exchange_within(&Request::Status, brief),
            client.exchange_within(&Request::Status, brief)
        );
        away(first);
        away(second);
        let half = async {
            let mut stream = loop {
                // Those of before have ended.
                let (mut stream, _) = listener.accept().await.unwrap();
                if frame::read::<Request>(&mut stream)
                    .await
                    .is_ok_and(|request| request == Request::EnrolKeys)
                {
                    break stream;
                }
            };
            stream.write_all(&[0, 0]).await.unwrap();
            stream
        };
        let (outcome, _stream) =
            tokio::join!(client.exchange_within(&Request::EnrolKeys, Duration::from_secs(2)), half);
        away(outcome);
        // The late answer to that is not taken for the next one's.
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _: Request = frame::read(&mut stream).await.unwrap();
            frame::write(&mut stream, &Reply::Done).await.unwrap();
        };
        let (done, ()) = tokio::join!(client.call(questions::TimeAccept), serve);
        done.unwrap();
        for request in [Request::Status, Request::EnrolKeys, Request::Watch { seen: 0 }] {
            assert!(
                deadline(&request) > Duration::from_secs(30) && deadline(&request) < Duration::from_secs(300)
            );
        }
    }
}
