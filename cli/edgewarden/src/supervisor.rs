//! `edgewarden up`: runs the three daemons as three processes with three users, where there is no systemd.
//!
//! A daemon that ends is started again with a growing pause. Ending `up` ends the daemons and leaves the modules
//! running: they belong to the kernel and to what is on disk, not to any process of ours.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use edgewarden_protocol::layout::Layout;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::exit::Problem;
use crate::folders::{self, GATEWAY_USER, IDENTITY_USER};

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A daemon that ran this long begins again with the shortest pause.
const STABLE: Duration = Duration::from_secs(60);
/// Time for a daemon to end by itself, before it is killed.
const GRACE: Duration = Duration::from_secs(8);

/// `identityd`, which `join` needs before `up` runs.
pub const IDENTITYD: Daemon = Daemon { name: "identityd", user: Some(IDENTITY_USER) };

/// A daemon to start: the subcommand of `edgewarden` that it is, and its system user; root without one.
#[derive(Debug, Clone, Copy)]
pub struct Daemon {
    name: &'static str,
    user: Option<&'static str>,
}

/// Runs the three daemons until SIGTERM or SIGINT, then ends them. Needs root.
pub async fn up(layout: &Layout) -> Result<(), Problem> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Problem::text("`edgewarden up` must run as root: it starts daemons as several users"));
    }
    let config = crate::commands::load(layout)?;
    folders::prepare(layout)?;
    tracing::info!(gateway = %config.gateway.name, "starting the daemons");
    let daemons = [
        IDENTITYD,
        Daemon { name: "runtimed", user: None },
        Daemon { name: "gatewayd", user: Some(GATEWAY_USER) },
    ];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for daemon in daemons {
        tasks.spawn(supervise(daemon, layout.clone(), stopped.clone()));
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(Problem::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Problem::failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn supervise(daemon: Daemon, layout: Layout, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let mut pause = PAUSE_MIN;
    loop {
        let started = Instant::now();
        if daemon.name == IDENTITYD.name {
            // Without a copy the daemon still starts: only a proof of this boot fails, and says why.
            let copied =
                crate::commands::load(&layout).and_then(|config| folders::copy_event_log(&layout, &config));
            if let Err(problem) = copied {
                tracing::error!(daemon = daemon.name, %problem, "the event log is not copied");
            }
        }
        match start(daemon, &layout) {
            Err(error) => tracing::error!(daemon = daemon.name, %error, "cannot start the daemon"),
            Ok(mut child) => tokio::select! {
                status = child.wait() => tell(daemon, status),
                () = asked_to_stop(&mut stopped) => return end(daemon, child).await,
            },
        }
        if started.elapsed() > STABLE {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = asked_to_stop(&mut stopped) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Cancel-safe. Lets go of the value at once, so that the caller's future can move between threads.
async fn asked_to_stop(stopped: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Starts a daemon as its user, with that user's groups (Debian's `tss` opens the TPM), and so that it ends when this
/// process does, `kill -9` included: a second supervisor must not find daemons that nobody looks after.
pub fn start(daemon: Daemon, layout: &Layout) -> std::io::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let Some(user) = daemon.user {
        command.args(["--reuid", user, "--regid", user, "--init-groups", "--inh-caps", "-all"]);
        // Last rights: no program that it could start has any power of root's.
        command.args(["--bounding-set", "-all"]);
    }
    command.arg("--").arg(std::env::current_exe()?);
    command.arg(daemon.name).arg("--root").arg(layout.root()).current_dir("/").kill_on_drop(true);
    // The TPM software stack writes to standard error by itself; what matters reaches us as an error.
    let (name, value) = edgewarden_keystore::TSS_LOG_ENVIRONMENT;
    command.env(name, value);
    if daemon.name == IDENTITYD.name { with_lockable_memory(|| command.spawn()) } else { command.spawn() }
}

/// Lets what `start` starts lock all of its memory, as systemd does by `LimitMEMLOCK=infinity`, and nobody else. Where
/// root may not raise limits the daemon starts without, and says so.
fn with_lockable_memory<T>(start: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::RLIMIT_MEMLOCK);
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let started = start();
    if let (Ok((soft, hard)), Ok(())) = (before, raised)
        && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)
    {
        tracing::warn!(%error, "the limit of locked memory stays raised");
    }
    started
}

fn tell(daemon: Daemon, status: std::io::Result<ExitStatus>) {
    match status {
        Ok(status) => tracing::warn!(daemon = daemon.name, %status, "a daemon ended and is started again"),
        Err(error) => tracing::error!(daemon = daemon.name, %error, "cannot wait for a daemon"),
    }
}

/// Asks the daemon to end; kills it when it takes too long.
async fn end(daemon: Daemon, mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        tracing::warn!(daemon = daemon.name, "the daemon did not end in time and is killed");
        let _ = child.kill().await;
    }
}
