//! Keeps the files current for as long as somebody wants them.
//!
//! Everything that is asked for is there before the first files are: no program starts with a part. A source that fails
//! later leaves what it gave last. Files that cannot be written are tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_svid::JwtSvid;
use edgewarden_workload_client::bundles::{JwkSets, follow_jwk_sets};
use edgewarden_workload_client::{Current, fetch_jwt_svid, follow};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::documents::Names;
use super::folder::{Document, Folder};
use super::program::{Options, Program};
use super::{Socket, claims};
use crate::exit::Problem;

/// Between two tries to write what could not be written.
const WRITE_PAUSE: Duration = Duration::from_secs(5);
const TOKEN_PAUSE_MIN: Duration = Duration::from_secs(1);
const TOKEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A token that does not say its end is asked for again after this time, and each other one not more rarely than this.
const TOKEN_AGE_UNKNOWN: Duration = Duration::from_secs(60);
const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);

/// Arguments of `svid watch`.
#[derive(Debug, clap::Args)]
pub struct Watch {
    #[command(flatten)]
    socket: Socket,
    /// A folder of this user's alone, best on a file system in memory. Made if it is not there.
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    program: Options,
}

/// The newest of everything that was asked for: identity, JWT keys, tokens.
struct Sources {
    identity: Current,
    jwks: Option<watch::Receiver<Option<Arc<JwkSets>>>>,
    tokens: Vec<watch::Receiver<Option<Arc<JwtSvid>>>>,
    changed: Arc<Notify>,
}

impl Watch {
    /// Keeps the files current until a signal ends this command, or its program ends.
    pub async fn run(self) -> Result<(), Problem> {
        self.names.check()?;
        let mut program = Program::new(self.program)?;
        let folder = Folder::open(&self.dir)
            .map_err(|error| Problem::text(format!("cannot use `{}`: {error}", self.dir.display())))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Problem::failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Problem::failed)?;
        let sources = Sources::follow(self.socket.path(), &self.names);
        let mut written: Option<Vec<Document>> = None;
        let mut failed = false;
        loop {
            let asked_to_end = tokio::select! {
                problem = program.ended() => return Err(problem),
                _ = terminate.recv() => Some(Signal::SIGTERM),
                _ = interrupt.recv() => Some(Signal::SIGINT),
                () = sources.changed.notified() => None,
                () = tokio::time::sleep(WRITE_PAUSE), if failed => None,
            };
            if let Some(signal) = asked_to_end {
                if program.hand_on(signal) {
                    continue;
                }
                return Ok(());
            }
            let Some(documents) = sources.documents(&self.names) else { continue };
            if written.as_ref() == Some(&documents) {
                failed = false;
                continue;
            }
            // Nothing else happens in this process meanwhile.
            failed = match folder.put(&documents) {
                Ok(()) => {
                    tracing::info!(dir = %self.dir.display(), "new files");
                    written = Some(documents);
                    program.tell()?;
                    false
                }
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), %error, "cannot write; the last files stay");
                    true
                }
            };
        }
    }
}

impl Sources {
    fn follow(socket: &Path, names: &Names) -> Self {
        let changed = Arc::new(Notify::new());
        let identity = follow(socket.to_owned());
        let jwks = names.jwks_name.as_ref().map(|_| follow_jwk_sets(socket.to_owned()));
        let tokens: Vec<_> =
            names.jwts.iter().map(|jwt| follow_token(socket.to_owned(), jwt.audience.clone())).collect();
        pass_on(identity.clone(), &changed);
        if let Some(jwks) = &jwks {
            pass_on(jwks.clone(), &changed);
        }
        for token in &tokens {
            pass_on(token.clone(), &changed);
        }
        Self { identity, jwks, tokens, changed }
    }

    /// `None` for as long as something is missing.
    fn documents(&self, names: &Names) -> Option<Vec<Document>> {
        let context = self.identity.borrow().clone()?;
        let jwks = match &self.jwks {
            Some(jwks) => Some(jwks.borrow().clone()?),
            None => None,
        };
        let tokens: Vec<_> = self.tokens.iter().map(|token| token.borrow().clone()).collect::<Option<_>>()?;
        Some(names.documents(&context, &tokens, jwks.as_deref()))
    }
}

fn pass_on<T: Send + Sync + 'static>(mut source: watch::Receiver<T>, changed: &Arc<Notify>) {
    let changed = Arc::clone(changed);
    tokio::spawn(async move {
        while source.changed().await.is_ok() {
            changed.notify_one();
        }
    });
}

/// A token that is renewed at half of its life. Holds the last one when there is no other.
fn follow_token(socket: PathBuf, audience: Vec<String>) -> watch::Receiver<Option<Arc<JwtSvid>>> {
    let (latest, current) = watch::channel(None);
    tokio::spawn(async move {
        let mut pause = TOKEN_PAUSE_MIN;
        loop {
            match fetch_jwt_svid(&socket, &audience).await {
                Ok(token) => {
                    pause = TOKEN_PAUSE_MIN;
                    let age = renewal_age(claims::expires(&token.token), UnixTime::now());
                    latest.send_replace(Some(Arc::new(token)));
                    tokio::time::sleep(age).await;
                }
                Err(error) => {
                    let problem = super::problem(error, &socket);
                    tracing::warn!(%problem, "no JWT; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(TOKEN_PAUSE_MAX);
                }
            }
        }
    });
    current
}

fn renewal_age(end: Option<UnixTime>, now: UnixTime) -> Duration {
    let half = end.map_or(TOKEN_AGE_UNKNOWN, |end| end.after(now) / 2);
    half.clamp(TOKEN_PAUSE_MIN, TOKEN_AGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_of_its_life() {
        let seconds = |end: Option<u64>| renewal_age(end.map(UnixTime), UnixTime(1000)).as_secs();
        assert_eq!(seconds(Some(1300)), 150);
        assert_eq!(seconds(Some(1001)), 1);
        assert_eq!(seconds(Some(5)), 1);
        assert_eq!(seconds(Some(u64::MAX)), 3600);
        assert_eq!(seconds(None), 60);
    }
}
