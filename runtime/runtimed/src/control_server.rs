//! Answers the command line on the control socket. Root only: the socket's mode says so, and the peer's user is checked.

use std::path::PathBuf;
use std::sync::Arc;

use edgewarden_exchange::frame;
use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_platform::kept_socket::Kept;
use edgewarden_platform::peer::{self, PeerEvidence};
use edgewarden_protocol::runtime_console::{Reply, Request};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;
use crate::error::RunError;
use crate::est_link::EstNow;
use crate::fleet_link::RenewNow;
use crate::logs;

const CONNECTIONS_MAX: usize = 16;
const LINES_MAX: usize = 100_000;

/// A request of the console that the daemon carries out.
#[derive(Debug)]
pub enum Command {
    Renew(RenewNow),
    Est(EstNow),
    Sync,
    Federation,
    Shutdown { stop_modules: bool, done: oneshot::Sender<Result<(), Refusal>> },
}

/// Listens in the place of a socket that an earlier daemon left: the lock is ours, so whoever listened there is gone.
pub fn bind(path: PathBuf) -> Result<Kept, RunError> {
    let what = format!("listen on `{}`", path.display());
    Kept::bind(path, 0o600, "of the command line").map_err(RunError::io(what))
}

/// Serves for as long as it is polled.
pub async fn serve(context: Arc<Context>, listener: Kept, commands: mpsc::Sender<Command>) {
    let keeper = Arc::clone(&context);
    let serve = |stream| {
        let (context, commands) = (Arc::clone(&context), commands.clone());
        async move { converse(&context, stream, &commands).await }
    };
    listener
        .serve(
            CONNECTIONS_MAX,
            move |path, change| keeper.socket_changed(path, &change, "control socket"),
            serve,
        )
        .await;
}

async fn converse(context: &Context, mut stream: UnixStream, commands: &mpsc::Sender<Command>) {
    if !PeerEvidence::of(&stream).is_ok_and(|peer| peer.uid() == 0) {
        let refusal = Refusal::new(Reason::PeerUnauthorized, "runtimed", "only root may ask");
        drop(frame::write(&mut stream, &Reply::Refused(refusal)).await);
        return;
    }
    while let Ok(request) = frame::read(&mut stream).await {
        let reply = tokio::select! {
            reply = answer(context, request, commands) => reply.unwrap_or_else(Reply::Refused),
            // Who asked is gone, and its place is free; what was begun for it goes on.
            () = peer::gone(&stream) => return,
        };
        if frame::write(&mut stream, &reply).await.is_err() {
            return;
        }
    }
}

async fn answer(
    context: &Context,
    request: Request,
    commands: &mpsc::Sender<Command>,
) -> Result<Reply, Refusal> {
    let ends = || Refusal::new(Reason::Busy, "runtimed", "the daemon is ending");
    match request {
        Request::Status => Ok(Reply::Status(Box::new(context.board.status()))),
        Request::Logs { module, last } => {
            let last = usize::try_from(last).unwrap_or(LINES_MAX).min(LINES_MAX);
            // What ran once keeps its log; silence about a name that never did would look like a quiet module.
            if !context.board.has_module(&module) && !logs::path(context.places.logs(), &module).exists() {
                return Err(Refusal::new(Reason::RequestInvalid, &module, "there is no such module"));
            }
            logs::tail(context.places.logs(), &module, last)
                .map(Reply::Logs)
                .map_err(|error| Refusal::new(Reason::Internal, &module, error))
        }
        Request::Renew if context.config.est.is_some() => {
            let rule =
                "a site's CA certifies this gateway, and no fleet judges it: `edgewarden est enroll` renews";
            Err(Refusal::new(Reason::EstConfig, "renewal", rule))
        }
        Request::Renew => {
            let (send, renewed) = oneshot::channel();
            commands.send(Command::Renew(send)).await.map_err(|_| ends())?;
            match renewed.await.map_err(|_| ends())? {
                Ok(verdict) => Ok(Reply::Renewed(Box::new(verdict))),
                Err(crate::enrol::EnrolError::Refused(refusal)) => Err(refusal),
                Err(error) => Err(Refusal::new(Reason::IdentityUnavailable, "renewal", ErrorChain(&error))),
            }
        }
        Request::Est { anew } => {
            let (answer, enrolled) = oneshot::channel();
            commands.send(Command::Est(EstNow { anew, answer })).await.map_err(|_| ends())?;
            enrolled.await.map_err(|_| ends())?.map(Reply::Est)
        }
        Request::FederationNow => {
            commands.send(Command::Federation).await.map_err(|_| ends())?;
            Ok(Reply::Done)
        }
        Request::SyncNow => {
            commands.send(Command::Sync).await.map_err(|_| ends())?;
            Ok(Reply::Done)
        }
        Request::Volumes => {
            let volumes = context.places.volumes();
            let listed = context.blocking(move || volumes.list()).await;
            listed.map(Reply::Volumes).map_err(|error| failed("volumes", &error))
        }
        Request::VolumeRemove { module, volume } => {
            let volumes = context.places.volumes();
            let removed = context.blocking(move || volumes.remove(&module, &volume)).await;
            removed.map_err(|error| failed("volumes", &error))?.map(|()| Reply::Done)
        }
        Request::Shutdown { stop_modules } => {
            let (done, finished) = oneshot::channel();
            commands.send(Command::Shutdown { stop_modules, done }).await.map_err(|_| ends())?;
            finished.await.map_err(|_| ends())??;
            Ok(Reply::Done)
        }
    }
}

fn failed(subject: &str, error: &RunError) -> Refusal {
    Refusal::new(error.reason(), subject, error.chain())
}
