//! `edgewarden metrics`: what the daemons tell a monitoring system, one after the other, and which of them did.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use edgewarden_metrics::door::SOCKET;
use edgewarden_metrics::page::{Format, render};
use edgewarden_protocol::layout::Layout;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exit::Problem;

const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A keystore that is a slow chip is asked too.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Daemon {
    Identityd,
    Runtimed,
    Gatewayd,
}

impl Daemon {
    const ALL: [Self; 3] = [Self::Identityd, Self::Runtimed, Self::Gatewayd];

    fn name(self) -> &'static str {
        match self {
            Self::Identityd => "identityd",
            Self::Runtimed => "runtimed",
            Self::Gatewayd => "gatewayd",
        }
    }

    fn socket(self, layout: &Layout) -> PathBuf {
        let folder = match self {
            Self::Identityd => layout.identity_run(),
            Self::Runtimed => layout.runtime_run(),
            Self::Gatewayd => layout.gateway_run(),
        };
        folder.join(SOCKET)
    }
}

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Of one daemon only, exactly as it tells them.
    #[arg(long, value_enum)]
    daemon: Option<Daemon>,
}

/// Answer of one daemon.
struct Answer {
    daemon: Daemon,
    numbers: Result<String, Problem>,
    healthy: bool,
}

impl Metrics {
    /// Prints the daemons' metrics in the Prometheus text format 0.0.4. Exit code 1 when a daemon has not answered.
    pub async fn run(self, layout: &Layout) -> Result<(), Problem> {
        if let Some(daemon) = self.daemon {
            print!("{}", numbers(&daemon.socket(layout)).await?);
            return Ok(());
        }
        // One that hangs does not keep the others' answers back: they are asked side by side.
        let [one, two, three] = Daemon::ALL.map(|daemon| ask(daemon, layout));
        let answers: [Answer; 3] = tokio::join!(one, two, three).into();
        let seen = answers.each_ref().map(|one| (one.daemon.name(), one.numbers.is_ok(), one.healthy));
        let mut missing = None;
        for Answer { daemon, numbers, .. } in answers {
            match numbers {
                Ok(text) => print!("{text}"),
                Err(problem) => {
                    eprintln!("{}: {problem}", daemon.name());
                    missing = Some("not every daemon has answered");
                }
            }
        }
        print!("{}", of_all(seen)?);
        // A script must not take it for a whole answer.
        missing.map_or(Ok(()), |missing| Err(Problem::text(missing)))
    }
}

/// Gauges of all daemons: each one's name, whether it answered, whether it says that it does its work. A daemon that is
/// away cannot tell them itself.
fn of_all(seen: [(&'static str, bool, bool); 3]) -> Result<String, Problem> {
    let page = render(Format::Prometheus, "edgewarden", move |page| {
        page.gauges(
            "daemon_up",
            "1 when the daemon answered.",
            seen.map(|(name, up, _)| ([("daemon", name)], u32::from(up))),
        )?;
        page.gauges(
            "daemon_healthy",
            "1 when the daemon says that it does its work.",
            seen.map(|(name, _, healthy)| ([("daemon", name)], u32::from(healthy))),
        )
    });
    page.map_err(Problem::failed)
}

async fn ask(daemon: Daemon, layout: &Layout) -> Answer {
    let socket = daemon.socket(layout);
    let (numbers, health) = tokio::join!(numbers(&socket), get(&socket, "/healthz"));
    Answer { daemon, numbers, healthy: matches!(health, Ok((StatusCode::OK, _))) }
}

async fn numbers(socket: &Path) -> Result<String, Problem> {
    match get(socket, "/metrics").await? {
        (StatusCode::OK, text) => Ok(text),
        (status, _) => Err(Problem::text(format!("`{}` answered `{status}`", socket.display()))),
    }
}

async fn get(socket: &Path, target: &str) -> Result<(StatusCode, String), Problem> {
    let answer = timeout(PATIENCE, exchange(socket, target)).await;
    let late = || Problem::text(format!("`{}` does not answer within {PATIENCE:?}", socket.display()));
    answer.unwrap_or_else(|_| Err(late()))
}

async fn exchange(socket: &Path, target: &str) -> Result<(StatusCode, String), Problem> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Problem::failed)?;
    let request = Request::get(target).header(HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(Problem::failed)?;
    // It ends with the answer; what goes wrong on it is said by the other half.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(Problem::failed)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Problem::text(format!("the answer cannot be read: {error}")))?;
    let text = String::from_utf8(body.to_bytes().into()).map_err(Problem::failed)?;
    Ok((status, text))
}

fn unreachable(socket: &Path, error: &io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root, or as a member of the socket's group",
        _ => "does the gateway run? start it with `edgewarden up`",
    };
    Problem::text(format!("cannot reach `{}`: {error}\nhint: {hint}", socket.display()))
}
