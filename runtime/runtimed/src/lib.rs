//! `runtimed`: carries out what `identityd` decides about modules.
//!
//! * [`run`]: the daemon; what the command line asks of it is `edgewarden_protocol::runtime_console`
//! * `est_link`: the same with a site's own CA (RFC 7030)
//! * [`log_pump`]: the process that keeps what one module prints
//! * [`identity`]: a client of `identityd`'s control socket · [`enrol`]: enrolment and renewal, shared with `edgewarden join`
//!
//! It runs as root, because it mounts, makes namespaces and starts containers. Its seccomp filter is passed on to what it
//! starts, so that holds what neither it nor any container may do, and no more. What confines it besides: it decides
//! nothing (an image starts by `identityd`'s permit only), holds no key that outlives the hour, parses what comes from
//! outside in bounded code without `unsafe`, gains no privilege by starting programs (`no_new_privs`) and leaves no core
//! dump.
//!
//! Modules do not end with it. A daemon that starts again takes over what runs and removes what nobody knows.

mod addresses;
mod board;
mod bundle;
mod context;
mod control_server;
mod devices;
pub mod enrol;
mod error;
mod est_handshake;
mod est_link;
mod federation_link;
mod fleet_jwt_keys;
mod fleet_link;
mod fleet_secrets;
mod fleet_time;
mod furnishing;
mod guard;
pub mod identity;
mod images;
mod instance;
mod iotedge;
mod kernel;
mod limits;
pub mod log_pump;
mod logs;
mod metrics;
mod mounting;
mod network;
mod nft;
mod orders;
mod places;
mod restarts;
mod rootfs;
mod runc;
mod seccomp;
mod secrets;
mod supervisor;
mod volumes;
mod worker;

use std::sync::Arc;

use edgewarden_metrics::door;
use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::capabilities::{Capability, keep_only};
use edgewarden_platform::harden;
use edgewarden_platform::seccomp::start_containers;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::addresses::{Addresses, ModuleNetwork};
use crate::context::Context;
use crate::control_server::Command;
use crate::metrics::told::Told;
use crate::places::Places;
use crate::supervisor::Supervisor;

/// Root's powers that this daemon and the OCI runtime use; systemd/edgewarden-runtimed.service has the same list.
/// No limit is raised.
const CAPABILITIES: [Capability; 12] = [
    // Namespaces and mounts, the OCI runtime's and ours
    Capability::SYS_ADMIN,
    // Entering a mount namespace, pivot_root's last resort
    Capability::SYS_CHROOT,
    // Links, addresses and packet filter
    Capability::NET_ADMIN,
    // Files of images and of other daemons
    Capability::CHOWN,
    Capability::DAC_OVERRIDE,
    Capability::FOWNER,
    // Nodes of the devices that a deployment gives a module
    Capability::MKNOD,
    // A container's users, and its capabilities
    Capability::SETUID,
    Capability::SETGID,
    Capability::SETPCAP,
    // Ending processes of that user, and looking at their namespaces and roots
    Capability::KILL,
    Capability::SYS_PTRACE,
];

pub use crate::error::RunError;
pub use crate::logs::LogPump;

/// Runs until SIGTERM, SIGINT or a request to shut down. Modules keep running unless that request says otherwise.
/// `log_pump` is how this program becomes a [`log_pump`].
pub async fn run(layout: Layout, config: Config, log_pump: LogPump) -> Result<(), RunError> {
    harden::no_new_privs().map_err(RunError::io("give up new privileges"))?;
    harden::no_core_dumps().map_err(RunError::io("turn off core dumps"))?;
    keep_only(&CAPABILITIES).map_err(RunError::io("give up capabilities"))?;
    start_containers().map_err(|error| RunError::io("give up system calls")(error.into()))?;
    // Containers become our children when the OCI runtime ends, so that their exit status reaches us.
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| RunError::io("adopt orphans")(error.into()))?;
    limits::make_room_for_objects();
    let network = ModuleNetwork::parse(&config.runtime.module_network)?;
    let places = Places::make(&layout)?;
    let _lock = lock(&places)?;
    let context = Arc::new(Context::new(layout, config, places, log_pump)?);
    let addresses = Addresses::new(context.places.addresses(), network);
    let guard = guard::start(&context, network.gateway()).await?;
    // It was empty.
    drop(context.guard.set(guard));
    let listener = control_server::bind(context.layout.runtime_socket())?;
    let run = context.layout.runtime_run();
    let numbers = door::open(&run).map_err(RunError::io(format!("listen in `{}`", run.display())))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::io("watch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::io("watch SIGINT"))?;

    let (command, mut commands) = mpsc::channel(4);
    let (stop_all, stop) = mpsc::channel(1);
    let (renew, renewals) = mpsc::channel(4);
    let (sync, syncs) = mpsc::channel(1);
    let (est, est_asked) = mpsc::channel(4);
    let (federation, federation_asked) = mpsc::channel(1);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(control_server::serve(Arc::clone(&context), listener, command));
    let keeper = Arc::clone(&context);
    tasks.spawn(door::serve(numbers, Arc::new(Told(Arc::clone(&context))), move |path, change| {
        keeper.socket_changed(path, &change, "socket for metrics");
    }));
    tasks.spawn(fleet_link::sync(Arc::clone(&context), syncs));
    tasks.spawn(fleet_link::renewals(Arc::clone(&context), renewals));
    tasks.spawn(fleet_time::follow(Arc::clone(&context)));
    tasks.spawn(federation_link::run(Arc::clone(&context), federation_asked));
    tasks.spawn(est_link::run(Arc::clone(&context), est_asked));
    let mut supervisor = tokio::spawn(Supervisor::new(Arc::clone(&context), addresses).run(stop));
    tracing::info!(gateway = %context.config.gateway.name, "runtimed is ready");
    let mut stopped_all = false;
    let done = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            ended = &mut supervisor, if !stopped_all => {
                return ended.unwrap_or_else(|error| Err(RunError::Runtime(error.to_string())));
            }
            Some(command) = commands.recv() => match command {
                // A full queue means that somebody asks already.
                Command::Renew(answer) => drop(renew.try_send(answer)),
                Command::Sync => drop(sync.try_send(())),
                Command::Federation => drop(federation.try_send(())),
                Command::Est(asked) => drop(est.try_send(asked)),
                Command::Shutdown { stop_modules: false, done } => break Some(done),
                Command::Shutdown { stop_modules: true, done } => {
                    let (stopped, all_stopped) = oneshot::channel();
                    drop(stop_all.send(stopped).await);
                    // An error here: they are stopped already.
                    drop(all_stopped.await);
                    let mut outcome = Ok(());
                    if !stopped_all {
                        stopped_all = true;
                        let ended = (&mut supervisor).await;
                        let ended =
                            ended.unwrap_or_else(|error| Err(RunError::Runtime(error.to_string())));
                        if let Err(error) = ended {
                            tracing::error!(error = %error.chain(), "not everything was removed");
                            outcome = Err(Refusal::new(Reason::Internal, "shutdown", error.chain()));
                        }
                        tracing::info!("the modules are stopped and stay so until this daemon is started anew");
                    }
                    // Whoever asked may be gone.
                    drop(done.send(outcome));
                }
            },
        }
    };
    supervisor.abort();
    if let Some(done) = done {
        // The answer is written by a task that must live that long.
        drop(done.send(Ok(())));
        drop(tokio::time::timeout(std::time::Duration::from_millis(200), tasks.join_next()).await);
    }
    drop(std::fs::remove_file(context.layout.runtime_socket()));
    tracing::info!("runtimed ends; what runs keeps running");
    Ok(())
}

/// Takes the lock that keeps a root to one daemon. It ends with the process.
fn lock(places: &Places) -> Result<Flock<std::fs::File>, RunError> {
    let file = std::fs::File::create(places.lock()).map_err(RunError::io("make the lock file"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| RunError::Running)
}

#[cfg(test)]
mod tests {
    /// Calls that a module may make and calls that neither it nor this daemon may: two lists that must not meet, or a
    /// module would find a call refused that its own list allows.
    #[test]
    fn what_is_given_up_is_nothing_that_a_module_may_do() {
        let modules = crate::seccomp::profile(true).to_string();
        for call in edgewarden_platform::seccomp::never() {
            assert!(!modules.contains(&format!("\"{call}\"")), "{call}");
        }
    }
}
