//! Answers the command line on the control socket. Root only: the socket's mode says so, and the peer's user is checked.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use edgewarden_exchange::frame;
use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_platform::peer::{self, PeerEvidence};
use edgewarden_platform::socket_file::SocketFile;
use edgewarden_protocol::runtime_console::{Reply, Request};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::context::Context;
use crate::error::RunError;
use crate::est_link::EstNow;
use crate::fleet_link::RenewNow;
use crate::logs;

const CONNECTIONS_MAX: usize = 16;
const LINES_MAX: usize = 100_000;
/// Time between two looks for the socket's file.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// A request of the console that the daemon carries out.
#[derive(Debug)]
pub enum Command {
    Renew(RenewNow),
    Est(EstNow),
    Sync,
    Federation,
    Shutdown { stop_modules: bool, done: oneshot::Sender<Result<(), Refusal>> },
}

/// Listens on a Unix socket at `path`, in place of a file that an earlier daemon left there.
pub fn bind(path: &Path) -> Result<UnixListener, RunError> {
    let what = || RunError::io(format!("listen on `{}`", path.display()));
    // The lock is ours: whoever listened here is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(what()(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(what())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(what())?;
    Ok(listener)
}

/// Serves for as long as it is polled.
pub async fn serve(context: Arc<Context>, mut listener: UnixListener, commands: mpsc::Sender<Command>) {
    let path = context.layout.runtime_socket();
    let mut file = SocketFile::bound(&path).ok();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                if !file.as_ref().is_some_and(SocketFile::is_there) {
                    match bind(&path) {
                        Ok(anew) => {
                            (listener, file) = (anew, SocketFile::bound(&path).ok());
                            tracing::warn!(path = %path.display(), "the control socket was removed from outside and is put back");
                            let what = "runtimed: its control socket was removed; put back".to_owned();
                            context.board.repaired(context.clock.now(), what);
                        }
                        Err(error) => tracing::warn!(error = %error.chain(), "the control socket cannot be put back"),
                    }
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let (context, commands) = (Arc::clone(&context), commands.clone());
                connections.spawn(async move {
                    converse(&context, stream, &commands).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
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
        Request::Shutdown { stop_modules } => {
            let (done, finished) = oneshot::channel();
            commands.send(Command::Shutdown { stop_modules, done }).await.map_err(|_| ends())?;
            finished.await.map_err(|_| ends())??;
            Ok(Reply::Done)
        }
    }
}
