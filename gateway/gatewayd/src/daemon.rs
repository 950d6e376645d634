//! Puts the process together, and takes it apart.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use edgewarden_metrics::door;
use edgewarden_names::{GatewayName, Principal, Reason, Refusal};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::gateway_console::UpstreamStatus;
use edgewarden_protocol::layout::Layout;
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::tls::{
    Authorizer, TlsError, anyone, client_config, fleet_id, only, server_config, server_config_optional_client,
};
use edgewarden_transport::{Clock, Identity};
use edgewarden_workload_client::follow;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::audit::{self, Audit};
use crate::confine::{ConfinementError, confine};
use crate::connection::{self, Shared};
use crate::console::{self, Console};
use crate::control::{self, Control};
use crate::enrol::{self, Enrolment};
use crate::event;
use crate::hub::{Disk, Hub, Wiring};
use crate::listen::{self, Network, Slot};
use crate::metrics;
use crate::sessions::journal::ToJournal;
use crate::sessions::{self, Requests};
use crate::store;
use crate::upload;
use crate::view::{Door, View};

/// Time for what is to be written down at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// An error that keeps the daemon from starting.
#[derive(Debug, thiserror::Error)]
pub enum GatewaydError {
    #[error("`runtime.module_network` is not an IPv4 network: `{0}`")]
    ModuleNetwork(String),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot make `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot listen on `{}`", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot confine the process")]
    Confine(#[from] ConfinementError),
    #[error("cannot configure TLS")]
    Tls(#[from] TlsError),
    #[error("`fleet.url` cannot be used")]
    Fleet(#[from] HttpError),
    #[error("cannot ask the system for threads, signals or sockets")]
    System(#[source] io::Error),
}

/// Everything that is opened before rights are given up.
struct Doors {
    leaves: std::net::TcpListener,
    modules: std::net::TcpListener,
    module_network: Network,
    enrolment: std::net::TcpListener,
}

/// Runs until SIGTERM. Takes rights from the whole process: nothing else may run in it. Landlock binds the calling thread
/// and its descendants, so that is the process's only thread; who has others already (a test) keeps them unconfined.
pub fn run(layout: &Layout, config: &Config) -> Result<(), GatewaydError> {
    let doors = open_doors(layout, config)?;
    confine(layout, config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(GatewaydError::System)?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).map_err(GatewaydError::System)?;
        let daemon = serve(layout, config, doors)?;
        tracing::info!(gateway = %config.gateway.name, "gatewayd serves");
        stop.recv().await;
        daemon.end().await;
        Ok(())
    })
}

fn open_doors(layout: &Layout, config: &Config) -> Result<Doors, GatewaydError> {
    for path in [layout.gateway_state(), layout.gateway_run()] {
        std::fs::create_dir_all(&path).map_err(|source| GatewaydError::Folder { path, source })?;
    }
    let listen = |address, only| {
        listen::open(address, only).map_err(|source| GatewaydError::Listen { address, source })
    };
    let (first, network) = module_network(&config.runtime.module_network)?;
    let modules = SocketAddr::from((first, config.mqtt.module_port));
    Ok(Doors {
        leaves: listen(config.mqtt.leaf_listen, None)?,
        modules: listen(modules, Some(network))?,
        module_network: network,
        enrolment: listen(config.mqtt.leaf_enrol_listen, None)?,
    })
}

/// The gateway's own address in the module network, and the network.
fn module_network(network: &str) -> Result<(Ipv4Addr, Network), GatewaydError> {
    let wrong = || GatewaydError::ModuleNetwork(network.to_owned());
    let (address, prefix) = network.split_once('/').ok_or_else(wrong)?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| (1..=24).contains(prefix)).ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let mask = u32::MAX << (32 - prefix);
    let base = address.to_bits() & mask;
    Ok((Ipv4Addr::from_bits(base | 1), Network { address: Ipv4Addr::from_bits(base), mask }))
}

/// The tasks of a running process.
struct Daemon {
    /// Dropped to end.
    doors: JoinSet<()>,
    background: JoinSet<()>,
    queue: watch::Receiver<store::Opening>,
    journal: watch::Receiver<store::Opening>,
    to_journal: mpsc::UnboundedSender<ToJournal>,
}

impl Daemon {
    /// First nobody comes in, then everything else ends; the queues last, with all that it was given on disk.
    async fn end(mut self) {
        self.doors.shutdown().await;
        if matches!(&*self.journal.borrow(), Some(Ok(_))) {
            let (done, flushed) = oneshot::channel();
            drop(self.to_journal.send(ToJournal::Flush { done }));
            // What is not written down is delivered again, no worse.
            drop(tokio::time::timeout(FLUSH, flushed).await);
        }
        self.background.shutdown().await;
        for opening in [self.queue, self.journal] {
            let queue = opening.borrow().clone();
            if let Some(Ok(queue)) = queue {
                queue.close().await;
            }
        }
    }
}

fn serve(layout: &Layout, config: &Config, doors: Doors) -> Result<Daemon, GatewaydError> {
    let gateway = config.gateway.name.clone();
    let domain = config.gateway.trust_domain.clone();
    let control = Control::new(layout.control_socket());
    let clock = Clock::new();
    let identity = Identity::new(follow(layout.workload_socket("gatewayd"))).with_clock(clock.clone());
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&identity, modules_and_leaves(&gateway))?));
    let open_acceptor = TlsAcceptor::from(Arc::new(server_config_optional_client(&identity, anyone())?));

    let (audit, refusals) = Audit::new();
    let (views, view) = watch::channel(View::default());
    let (applied_out, applied) = watch::channel(View::default());
    let (opening_out, opening) = watch::channel(None);
    let (upstream_out, upstream) = watch::channel(UpstreamStatus::None);
    let (events, events_in) = event::channel();
    let (store, to_store) = mpsc::unbounded_channel();
    let (journal, to_journal) = mpsc::unbounded_channel();
    let (documents, to_document) = mpsc::unbounded_channel();
    let (loading_out, loading) = watch::channel(None);

    let mut background = JoinSet::new();
    let disk = Disk { store, journal: journal.clone(), documents };
    let hub = Hub::new(gateway.clone(), domain.clone(), disk, audit.clone(), clock.clone());
    let (standing_out, standing) = watch::channel(None);
    let queue = opening.clone();
    let wiring = Wiring { events: events_in, views: view.clone(), applied: applied_out, standing, queue };
    background.spawn(hub.run(wiring));
    background.spawn(control::follow(control.clone(), gateway.clone(), views, standing_out, clock.clone()));
    background.spawn(control::report(control.clone(), applied.clone()));
    background.spawn(audit::serve(refusals, control.clone()));
    let folder = layout.gateway_state().join("queue");
    let bytes_max = config.mqtt.queue_bytes_max;
    background.spawn(store::open(folder, bytes_max, control.clone(), audit.clone(), opening_out));
    background.spawn(store::serve(to_store, opening.clone(), events.clone()));
    let folder = layout.gateway_state().join("sessions");
    let requests = Requests { journal: to_journal, documents: to_document };
    let sessions =
        sessions::serve(folder, control.clone(), audit.clone(), requests, loading_out, events.clone());
    background.spawn(sessions);
    if let Some(fleet) = &config.fleet {
        let client = Client::new(&fleet.url, client_config(&identity, only(fleet_id(&domain)))?)?;
        upstream_out.send_replace(UpstreamStatus::Idle);
        let uploads = upload::serve(
            client,
            opening.clone(),
            upstream_out,
            audit.clone(),
            clock.clone(),
            events.clone(),
        );
        background.spawn(uploads);
    }

    let shared = Shared {
        acceptor,
        gateway,
        events: events.clone(),
        views: view,
        audit: audit.clone(),
        next: Arc::new(AtomicU64::new(1)),
        clock,
    };
    let enrolment =
        Enrolment { acceptor: open_acceptor, control, audit: audit.clone(), tries: Arc::default() };
    let told = metrics::Told {
        events: events.clone(),
        refused: audit.counted(),
        applied: applied.clone(),
        queue: opening.clone(),
        journal: loading.clone(),
        upstream: upstream.clone(),
        clock: shared.clock.clone(),
        started: Instant::now(),
    };
    let console = Console { events, applied, opening: opening.clone(), journal: loading.clone(), upstream };
    let inside = Inside { identity, shared, enrolment, loading: loading.clone(), told, console };
    let doors = open(layout, doors, inside, audit)?;
    Ok(Daemon { doors, background, queue: opening, journal: loading, to_journal: journal })
}

/// State that connections share once they are let in.
struct Inside {
    identity: Identity,
    shared: Shared,
    enrolment: Enrolment,
    /// Sessions and retained messages, as they are read from the disk.
    loading: watch::Receiver<store::Opening>,
    told: metrics::Told,
    console: Console,
}

/// The tasks that accept: of leaf devices, of modules, of enrolment, of who counts, and of the command line.
fn open(layout: &Layout, doors: Doors, inside: Inside, audit: Audit) -> Result<JoinSet<()>, GatewaydError> {
    let Inside { identity, shared, enrolment, loading, told, console } = inside;
    let tcp = |listener| TcpListener::from_std(listener).map_err(GatewaydError::System);
    let connections_max = listen::connections_max();
    let mut tasks = JoinSet::new();
    for (listener, door, only) in [
        (tcp(doors.leaves)?, Door::Leaves, None),
        (tcp(doors.modules)?, Door::Modules, Some(doors.module_network)),
    ] {
        let shared = shared.clone();
        let serve = move |stream, from, slot| connection::serve(stream, from, door, slot, shared.clone());
        let (identity, mut loading) = (identity.clone(), loading.clone());
        tasks.spawn(async move {
            // When loading fails, clients are let in to be told.
            if loading.wait_for(Option::is_some).await.is_ok() {
                accept_when_ready(identity, listener, only, connections_max, serve).await;
            }
        });
    }
    let enrolment_listener = tcp(doors.enrolment)?;
    let serve_enrolment = move |stream, from, slot| enrol::serve(stream, from, slot, enrolment.clone());
    tasks.spawn(accept_when_ready(identity, enrolment_listener, None, connections_max, serve_enrolment));
    let path = layout.gateway_socket();
    let listener = console::open(path.clone()).map_err(|source| GatewaydError::Socket { path, source })?;
    let path = layout.gateway_run();
    let numbers = door::open(&path).map_err(|source| GatewaydError::Socket { path, source })?;
    let altered = audit.clone();
    tasks.spawn(door::serve(numbers, Arc::new(told), move |path, change| {
        console::socket_changed(&altered, path, &change);
    }));
    tasks.spawn(console::serve(listener, audit, console));
    Ok(tasks)
}

/// Clients that come before we have a certificate wait in the listener's backlog instead of failing.
async fn accept_when_ready<F: Future<Output = ()> + Send + 'static>(
    identity: Identity,
    listener: TcpListener,
    only: Option<Network>,
    connections_max: usize,
    serve: impl Fn(TcpStream, SocketAddr, Slot) -> F,
) {
    if identity.ready().await.is_ok() {
        listen::accept(listener, only, connections_max, serve).await;
    }
}

/// Ends a handshake with anybody else early; the connection looks again.
fn modules_and_leaves(gateway: &GatewayName) -> Authorizer {
    let gateway = gateway.clone();
    Arc::new(move |peer| {
        let rule = "only modules and leaf devices of this gateway may connect";
        let refuse = || Refusal::new(Reason::PeerUnauthorized, peer, rule);
        Principal::from_id(peer, &gateway).map(drop).ok_or_else(refuse)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_own_address_is_the_first() {
        for (network, expected) in [
            ("10.77.0.0/24", Some([10, 77, 0, 1])),
            ("10.77.3.9/16", Some([10, 77, 0, 1])),
            ("10.77.0.0", None),
            ("10.77.0.0/25", None),
            ("10.77.0.0/0", None),
            ("2001:db8::/24", None),
        ] {
            let first = module_network(network).ok().map(|(first, _)| first);
            assert_eq!(first, expected.map(Ipv4Addr::from), "{network}");
        }
    }
}
