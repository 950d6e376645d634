//! Answers of the three daemons about themselves.

use std::path::{Path, PathBuf};

use edgewarden_exchange::frame;
use edgewarden_names::{ErrorChain, Refusal};
use edgewarden_protocol::ask::{self, Ask, NoAnswer, Reply};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{DeploymentInForce, KeystoreHealth, Status, questions};
use edgewarden_protocol::enrol::DeviceKeys;
use edgewarden_protocol::federation::Federated;
use edgewarden_protocol::gateway_console as gateway;
use edgewarden_protocol::runtime_console as runtime;
use tokio::net::UnixStream;

use super::{Daemon, Peer, Read, Sources, has_tpm, patient};

/// Processes of the three daemons, and their answers about themselves. An answer is `None` when there was none.
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

/// Asks each daemon on its control socket, with the deadline [`Sources::patience`] for each question.
pub async fn gather(sources: &Sources, config: Option<&Config>) -> Daemons {
    let layout = &sources.layout;
    let (control, runtime, gateway) =
        (layout.control_socket(), layout.runtime_socket(), layout.gateway_socket());
    let identity = async {
        let status = ask(sources, &control, questions::Status).await;
        if status.is_err() {
            return (status, None, None, None, None);
        }
        // One after the other: they wait for the same chip.
        let deployment = ask(sources, &control, questions::Deployment).await;
        let health = ask(sources, &control, questions::KeystoreHealth).await;
        let keys = match config.filter(|config| has_tpm(&config.keystore)) {
            Some(_) => Some(ask(sources, &control, questions::EnrolKeys).await),
            None => None,
        };
        let federation = ask(sources, &control, questions::FederationList).await;
        (status, Some(deployment), Some(health), keys, Some(federation))
    };
    let (identity, runtime, gateway) = tokio::join!(
        identity,
        ask(sources, &runtime, runtime::questions::Status),
        ask(sources, &gateway, gateway::questions::Status),
    );
    let (status, deployment, health, keys, federation) = identity;
    let mut daemons = Daemons { own_program: std::env::current_exe().ok(), ..Daemons::default() };
    daemons.identity = settle(sources, &mut daemons.identityd, status);
    daemons.runtime = settle(sources, &mut daemons.runtimed, runtime);
    daemons.gateway = settle(sources, &mut daemons.gatewayd, gateway);
    daemons.keystore = health.map(said);
    daemons.device_keys = keys.map(said);
    daemons.deployment = deployment.and_then(|answer| said(answer).ok()).flatten();
    daemons.federation = federation.and_then(|answer| said(answer).ok());
    daemons
}

/// An answer, or why there is none, and whose it is.
type Answered<T> = Read<(Option<Peer>, Result<T, NoAnswer<Refusal>>)>;

fn said<T>(answered: Answered<T>) -> Read<T> {
    answered?.1.map_err(|none| match none {
        NoAnswer::Refused(refusal) => format!("{refusal} ({})", refusal.reason.next_step()),
        NoAnswer::Other(_) => "it answers another question than was asked".into(),
    })
}

/// Notes who answered, or why nobody did; gives the answer.
fn settle<T>(sources: &Sources, daemon: &mut Daemon, answered: Answered<T>) -> Option<T> {
    if let Ok((peer, _)) = &answered {
        *daemon = Daemon::look(&sources.proc, *peer);
    }
    said(answered).map_err(|error| daemon.error = Some(error)).ok()
}

/// One question on a connection of its own.
async fn ask<Q>(sources: &Sources, socket: &Path, question: Q) -> Answered<Q::Answer>
where
    Q: Ask<Reply: Reply<Refused = Refusal>>,
{
    let request = question.into_request();
    let exchange = async {
        let connected = UnixStream::connect(socket).await;
        let mut stream =
            connected.map_err(|error| format!("cannot connect to `{}`: {error}", socket.display()))?;
        let peer = stream.peer_cred().ok();
        let peer = peer.and_then(|peer| peer.pid().map(|pid| Peer { pid, uid: peer.uid() }));
        frame::write(&mut stream, &request).await.map_err(|error| ErrorChain(&error).to_string())?;
        let reply = frame::read(&mut stream).await.map_err(|error| ErrorChain(&error).to_string())?;
        Ok((peer, ask::answer::<Q>(reply)))
    };
    let answer = patient(sources.patience, exchange).await;
    answer
        .unwrap_or_else(|| Err(format!("no answer on `{}` within {:?}", socket.display(), sources.patience)))
}
