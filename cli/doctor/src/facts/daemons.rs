//! What the three daemons say about themselves.

use edgewarden_names::ErrorChain;
use std::path::{Path, PathBuf};

use edgewarden_exchange::frame;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{DeploymentInForce, KeystoreHealth, Reply, Request, Status};
use edgewarden_protocol::enrol::DeviceKeys;
use edgewarden_protocol::federation::{Federated, FederationRequest};
use edgewarden_protocol::gateway_console as gateway;
use edgewarden_protocol::runtime_console as runtime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Daemon, Peer, Read, Sources, has_tpm, patient};

#[derive(Debug, Clone, Default)]
pub struct Daemons {
    pub identityd: Daemon,
    pub runtimed: Daemon,
    pub gatewayd: Daemon,
    /// The program that asks.
    pub own_program: Option<PathBuf>,
    pub identity: Option<Box<Status>>,
    /// `None` when `identityd` does not answer at all.
    pub keystore: Option<Read<KeystoreHealth>>,
    /// Public keys of the device, for stores with a TPM.
    pub device_keys: Option<Read<DeviceKeys>>,
    pub deployment: Option<Box<DeploymentInForce>>,
    /// `None` when `identityd` does not say.
    pub federation: Option<Vec<Federated>>,
    pub runtime: Option<Box<runtime::Status>>,
    pub gateway: Option<Box<gateway::Status>>,
}

pub async fn gather(sources: &Sources, config: Option<&Config>) -> Daemons {
    let layout = &sources.layout;
    let (control, runtime, gateway) =
        (layout.control_socket(), layout.runtime_socket(), layout.gateway_socket());
    let identity = async {
        let status = ask::<_, Reply>(sources, &control, &Request::Status).await;
        if status.is_err() {
            return (status, None, None, None, None);
        }
        // One after the other: they wait for the same chip.
        let deployment = ask::<_, Reply>(sources, &control, &Request::Deployment).await;
        let health = ask::<_, Reply>(sources, &control, &Request::KeystoreHealth).await;
        let keys = match config.filter(|config| has_tpm(&config.keystore)) {
            Some(_) => Some(ask::<_, Reply>(sources, &control, &Request::EnrolKeys).await),
            None => None,
        };
        let federation =
            ask::<_, Reply>(sources, &control, &Request::Federation(FederationRequest::List)).await;
        (status, Some(deployment), Some(health), keys, Some(federation))
    };
    let (identity, runtime, gateway) = tokio::join!(
        identity,
        ask::<_, runtime::Reply>(sources, &runtime, &runtime::Request::Status),
        ask::<_, gateway::Reply>(sources, &gateway, &gateway::Request::Status),
    );
    let (status, deployment, health, keys, federation) = identity;
    let mut daemons = Daemons { own_program: std::env::current_exe().ok(), ..Daemons::default() };
    daemons.identity = settle(sources, &mut daemons.identityd, status, |reply| match reply {
        Reply::Status(status) => Ok(status),
        other => Err(said(&other)),
    });
    daemons.runtime = settle(sources, &mut daemons.runtimed, runtime, |reply| match reply {
        runtime::Reply::Status(status) => Ok(status),
        runtime::Reply::Refused(refusal) => Err(refusal.to_string()),
        _ => Err("it answers another question than was asked".into()),
    });
    daemons.gateway = settle(sources, &mut daemons.gatewayd, gateway, |reply| match reply {
        gateway::Reply::Status(status) => Ok(status),
        gateway::Reply::Refused(refusal) => Err(refusal.to_string()),
        _ => Err("it answers another question than was asked".into()),
    });
    daemons.keystore = health.map(|answer| match answer?.1 {
        Reply::KeystoreHealth(health) => Ok(health),
        other => Err(said(&other)),
    });
    daemons.device_keys = keys.map(|answer| match answer?.1 {
        Reply::DeviceKeys(keys) => Ok(keys),
        other => Err(said(&other)),
    });
    daemons.deployment = match deployment {
        Some(Ok((_, Reply::Deployment(in_force)))) => Some(in_force),
        _ => None,
    };
    daemons.federation = match federation {
        Some(Ok((_, Reply::Federation(all)))) => Some(all),
        _ => None,
    };
    daemons
}

fn said(reply: &Reply) -> String {
    match reply {
        Reply::Refused(refusal) => format!("{refusal} ({})", refusal.reason.next_step()),
        _ => "it answers another question than was asked".into(),
    }
}

/// Notes who answered, or why nobody did; gives the answer.
fn settle<R, T>(
    sources: &Sources,
    daemon: &mut Daemon,
    answer: Read<(Option<Peer>, R)>,
    take: impl FnOnce(R) -> Read<T>,
) -> Option<T> {
    let taken = answer.and_then(|(peer, reply)| {
        *daemon = Daemon::look(&sources.proc, peer);
        take(reply)
    });
    taken.map_err(|error| daemon.error = Some(error)).ok()
}

/// One request on a connection of its own.
async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
    sources: &Sources,
    socket: &Path,
    request: &Q,
) -> Read<(Option<Peer>, A)> {
    let exchange = async {
        let connected = UnixStream::connect(socket).await;
        let mut stream =
            connected.map_err(|error| format!("cannot connect to `{}`: {error}", socket.display()))?;
        let peer = stream.peer_cred().ok();
        let peer = peer.and_then(|peer| peer.pid().map(|pid| Peer { pid, uid: peer.uid() }));
        frame::write(&mut stream, request).await.map_err(|error| ErrorChain(&error).to_string())?;
        frame::read(&mut stream)
            .await
            .map(|reply| (peer, reply))
            .map_err(|error| ErrorChain(&error).to_string())
    };
    let answer = patient(sources.patience, exchange).await;
    answer
        .unwrap_or_else(|| Err(format!("no answer on `{}` within {:?}", socket.display(), sources.patience)))
}
