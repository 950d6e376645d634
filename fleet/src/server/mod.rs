//! The running fleet: TLS for gateways and the command line, plain HTTP on loopback for the dashboard.

mod admin;
pub mod bundle;
pub mod catalogue;
mod ceiling;
mod certificate;
mod certificates;
mod enrol;
mod error;
mod gateway;
mod http;
pub mod listener;
pub mod peer;
pub mod places;
mod reports;
mod room;
mod secrets;
pub mod state;
pub mod views;
mod waiting;

use std::fs::Permissions;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use edgewarden_appraisal::BUNDLE_BYTES_MAX;
use edgewarden_transport::{Identity, foreign, tls};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::data_dir::DataDir;
use crate::enrol::Enrolment;
use crate::lease;
use crate::metrics;
use crate::selection::Carry;
use crate::store::Store;
use listener::Service;
use state::Shared;

pub use error::ServeError;

/// Connections of one line to the bundle's endpoint.
const BUNDLE_PER_SOURCE: usize = 64;

/// Settings of one server, as the command line gives them.
#[derive(Debug, Clone)]
pub struct Options {
    pub data: DataDir,
    pub listen: SocketAddr,
    pub web: Option<SocketAddr>,
    pub operator_keys: Vec<PathBuf>,
    pub vendor_roots: Vec<PathBuf>,
    pub carry: Carry,
    /// Most connections of gateways; as many as the machine bears when absent.
    pub connections: Option<usize>,
    /// Endpoint for our bundle, for other trust domains; absent when it is not served.
    pub bundle: Option<bundle::Endpoint>,
}

/// Serves until `stop` completes. Then no connection is accepted, held requests are answered, and the database closes.
pub async fn serve(options: Options, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    if let Some(address) = options.web.filter(|address| !address.ip().is_loopback()) {
        return Err(ServeError::WebNotLoopback(address));
    }
    let data = &options.data;
    let settings = data.settings()?;
    let _lock = data.lock()?;
    let root = Arc::new(data.root()?);
    let store = data.open_database().await?;
    store.date_certificates(|labels| lease::lifetime(&settings.lease, labels)).await?;
    add_trust(&store, &options).await?;

    let (current, renew) = certificate::keep(root.clone(), &settings)?;
    // Everybody whose chain verifies may connect; each request says who may ask it.
    let identity = Identity::new(current);
    let tls = tls::server_config_optional_client(&identity, tls::anyone())?;
    let root_der = data.root_certificate()?;
    let keeper = bundle::Keeper::open(store.clone(), data.clone(), root_der).await?;
    let (listener, address) = listen(options.listen).await?;
    let web = match options.web {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let (stop_sender, stopping) = watch::channel(false);
    let (reports, keep_reports) = reports::Reports::new(store.clone());
    let keep_reports = tokio::spawn(keep_reports);
    let shared = Shared::new(
        store.clone(),
        settings.trust_domain,
        Enrolment::new(store.clone(), root, settings.lease),
        options.carry,
        reports,
        web.as_ref().map(|(_, address)| *address),
        &data.admin_token()?,
        data.web_token()?,
        stopping.clone(),
    );
    let mut tasks = tokio::task::JoinSet::new();
    let bundle_stopping = stopping.clone();
    let limits = ceiling::main(options.connections);
    let seats = |name, limits| {
        let seats = listener::seats(limits);
        shared.metrics.show(name, &seats);
        seats
    };
    let tls = Some(TlsAcceptor::from(Arc::new(tls)));
    let service = Service { router: routes(&shared), tls, seats: seats("main", limits) };
    if let Some(listener) = operators_socket(data) {
        let service = Service { seats: seats("socket", ceiling::small(usize::MAX)), ..service.clone() };
        tasks.spawn(listener::run(listener, service, stopping.clone()));
    }
    tasks.spawn(listener::run(listener, service, stopping.clone()));
    if let Some((listener, address)) = web {
        let router = crate::web::routes().with_state(shared.clone());
        let service = Service { router, tls: None, seats: seats("web", ceiling::small(usize::MAX)) };
        tasks.spawn(listener::run(listener, service, stopping));
        tracing::info!(%address, "dashboard ready; see `edgewarden-fleet web url`");
    }
    if let Some(endpoint) = &options.bundle {
        let tls = Some(endpoint_tls(&endpoint.profile, &identity)?);
        let (listener, address) = listen(endpoint.listen).await?;
        let seats = seats("bundle", ceiling::small(BUNDLE_PER_SOURCE));
        let service = Service { router: bundle::routes(keeper.current()), tls, seats };
        tasks.spawn(listener::run(listener, service, bundle_stopping));
        tracing::info!(%address, "our trust domain's bundle is served");
    }
    let keeping = tokio::spawn(keeper.run());
    let looking = tokio::spawn(store.clone().look_often());
    let telling = tokio::spawn(certificates::tell(store.clone()));
    let renewal = tokio::spawn(renew);
    if options.carry == Carry::DangerousUnverified {
        tracing::warn!("dangerous: deployments are carried without checking signatures and versions");
    }
    data.keep_address(address)?;
    tracing::info!(%address, gateways_connections_max = limits.gateways, "fleet ready");

    stop.await;
    tracing::info!("stopping");
    stop_sender.send_replace(true);
    while tasks.join_next().await.is_some() {}
    drop(std::fs::remove_file(data.socket()));
    looking.abort();
    telling.abort();
    renewal.abort();
    keeping.abort();
    keep_reports.abort();
    store.close().await;
    Ok(())
}

/// Everything that gateways and operators ask by TLS.
fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .merge(enrol::routes())
        .merge(gateway::routes())
        .merge(bundle::gateway_routes())
        .merge(admin::routes(shared))
        .fallback(http::not_there)
        .method_not_allowed_fallback(http::not_there)
        .layer(from_fn_with_state(Arc::clone(shared), metrics::count))
        .with_state(Arc::clone(shared))
}

/// TLS of the bundle endpoint (SPIFFE Federation section 5.2), by its profile.
fn endpoint_tls(profile: &bundle::Profile, identity: &Identity) -> Result<TlsAcceptor, ServeError> {
    let config = match profile {
        bundle::Profile::HttpsSpiffe => foreign::spiffe_server_config(identity)?,
        bundle::Profile::HttpsWeb { certificate, key } => {
            let (chain, key) = bundle::web_identity(certificate, key)?;
            foreign::web_server_config(chain, &key)?
        }
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The operators' Unix socket: a way in for the command line of this machine, whoever crowds the network, in a folder
/// that nobody else enters. `None` when it cannot be made, which is logged: the command line then uses the network.
fn operators_socket(data: &DataDir) -> Option<UnixListener> {
    let path = data.socket();
    // What a server left behind that is gone. There is no other one: the folder is ours.
    drop(std::fs::remove_file(&path));
    let private = || std::fs::set_permissions(&path, Permissions::from_mode(0o600));
    match UnixListener::bind(&path).and_then(|listener| private().map(|()| listener)) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "there is no socket for operators; commands come by the network");
            None
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Keeps the keys and roots that were named on the command line.
async fn add_trust(store: &Store, options: &Options) -> Result<(), ServeError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| ServeError::Read { path: path.clone(), source })
    };
    for path in &options.operator_keys {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let added = admin::add_operator_key(store, &name, &read(path)?).await;
        added.map_err(|source| ServeError::Trust { path: path.clone(), source })?;
    }
    for path in &options.vendor_roots {
        // One byte more than is accepted, so that the refusal says which limit it is.
        let bytes_max = BUNDLE_BYTES_MAX as u64 + 1;
        let mut file = Vec::new();
        std::fs::File::open(path)
            .and_then(|opened| opened.take(bytes_max).read_to_end(&mut file))
            .map_err(|source| ServeError::Read { path: path.clone(), source })?;
        let added = admin::add_vendor_roots(store, file).await;
        let added = added.map_err(|source| ServeError::Trust { path: path.clone(), source })?;
        for part in added.left_out.iter().chain(&added.useless) {
            tracing::warn!(path = %path.display(), what = part.what, why = part.why, "vendor certificate of no use");
        }
    }
    Ok(())
}
