//! Peers outside the gateway: the fleet's server and the registries of the deployment.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgewarden_ca::chain::Facts as Certificate;
use edgewarden_names::{ErrorChain, UnixTime};
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::{Config, Fleet as Settings};
use edgewarden_protocol::deployment::Deployment;
use edgewarden_svid::peer_expiry;
use edgewarden_transport::tls;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Read, Sources, patient};

/// Facts about peers outside the gateway.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// `Ok` when the server's port takes connections. `None` without a fleet.
    pub reachable: Option<Read<()>>,
    /// End of the certificate that the server showed and that our root vouches for. `None` when there was nothing to
    /// ask, or no root to check it by.
    pub certificate: Option<Read<UnixTime>>,
    /// Registries of the deployment by `host:port`: `Ok` for one that has an image of it.
    pub registries: BTreeMap<String, Read<()>>,
}

/// Connects to the fleet's server and asks the deployment's registries for their images.
pub async fn gather(
    sources: &Sources,
    config: Option<&Config>,
    root: Option<&Read<(Vec<u8>, Certificate)>>,
    deployment: Option<&Deployment>,
) -> Fleet {
    let Some(config) = config else { return Fleet::default() };
    let server = async {
        match &config.fleet {
            Some(fleet) => server(sources, config, fleet, root).await,
            None => (None, None),
        }
    };
    let ((reachable, certificate), registries) =
        tokio::join!(server, registries(sources, config, deployment));
    Fleet { reachable, certificate, registries }
}

type Server = (Option<Read<()>>, Option<Read<UnixTime>>);

async fn server(
    sources: &Sources,
    config: &Config,
    fleet: &Settings,
    root: Option<&Read<(Vec<u8>, Certificate)>>,
) -> Server {
    let Some((host, port)) = authority(&fleet.url) else {
        return (Some(Err(format!("`{}` is not `https://host:port`", fleet.url))), None);
    };
    let connected = match patient(sources.patience, TcpStream::connect((host, port))).await {
        Some(connected) => connected.map_err(|error| format!("{host} port {port}: {error}")),
        None => Err(format!("{host} port {port}: no answer within {:?}", sources.patience)),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => return (Some(Err(error)), None),
    };
    // That the root itself is bad is the finding of another check.
    let Some(Ok((root, _))) = root else { return (Some(Ok(())), None) };
    let shown = patient(sources.patience, handshake(config, host, root, stream)).await;
    (Some(Ok(())), Some(shown.unwrap_or_else(|| Err("the TLS handshake does not end".into()))))
}

async fn handshake(config: &Config, host: &str, root: &[u8], stream: TcpStream) -> Read<UnixTime> {
    let domain = &config.gateway.trust_domain;
    let client =
        tls::pinned_client_config(&CertificateDer::from(root), domain, tls::only(tls::fleet_id(domain)))
            .map_err(|error| ErrorChain(&error).to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(client)).connect(name, stream).await;
    let connected = connected.map_err(|error| match tls::refusal(&error) {
        Some(refusal) => refusal.to_string(),
        None => ErrorChain(&error).to_string(),
    })?;
    let shown = connected.get_ref().1.peer_certificates().unwrap_or_default();
    peer_expiry(shown).map_err(|refusal| refusal.to_string())
}

fn authority(url: &str) -> Option<(&str, u16)> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split('/').next()?;
    match authority.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.ends_with(']') => {
            Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
        }
        _ => Some((authority.trim_start_matches('[').trim_end_matches(']'), 443)),
    }
}

/// Asks each registry for the manifest of one image of the deployment, by digest.
async fn registries(
    sources: &Sources,
    config: &Config,
    deployment: Option<&Deployment>,
) -> BTreeMap<String, Read<()>> {
    let mut found = BTreeMap::new();
    let mut asked = tokio::task::JoinSet::new();
    for module in deployment.map(|deployment| deployment.modules.as_slice()).unwrap_or_default() {
        let (host, image) = (module.image.registry().to_owned(), module.image.clone());
        if found.insert(host.clone(), Err("no answer".into())).is_some() {
            continue;
        }
        let (runtime, patience) = (config.runtime.clone(), sources.patience);
        asked.spawn(async move {
            let ask = async {
                let registry =
                    Registry::of(&image, &runtime).map_err(|error| ErrorChain(&error).to_string())?;
                registry
                    .manifest(image.digest())
                    .await
                    .map(drop)
                    .map_err(|error| ErrorChain(&error).to_string())
            };
            let answer = patient(patience, ask).await;
            (host, answer.unwrap_or_else(|| Err(format!("no answer within {patience:?}"))))
        });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok((host, answer)) = answer {
            found.insert(host, answer);
        }
    }
    found
}
