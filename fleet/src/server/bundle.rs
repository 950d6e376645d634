//! Our own trust domain's bundle, for other trust domains (SPIFFE Federation, sections 4 and 5).
//!
//! The root, and the JWT keys of all gateways: each gateway states its own under its CA's key, which is how a gateway
//! cannot put keys there for another. A stranger's GET costs a copy of bytes that are made beforehand; nobody is asked
//! who they are, because servers must not (sections 5.2.1.3, 5.2.2.3).
//!
//! The bundle as it stands is also the file `bundle.json` of the fleet's folder: what other operators begin with, and what
//! the sequence goes on from after a restart.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::jwt_keys::{self, SIGNED_BYTES_MAX};
use edgewarden_protocol::uplink::JwtKeysUpload;
use edgewarden_svid::bundle::TrustBundle;
use edgewarden_svid::jwt::{JwtKey, JwtKeys, KEYS_MAX, PublicKey};
use tokio::sync::watch;

use super::error::ServeError;
use super::gateway::admitted;
use super::http::{not_there, read_json, reply};
use super::peer::Peer;
use super::state::Shared;
use crate::data_dir::DataDir;
use crate::store::{Store, StoreError};

/// `spiffe_refresh_hint` of the bundle: seconds between two fetches of another trust domain (section 4.2). A gateway's
/// next key is in the bundle for five of these before it signs.
const REFRESH_HINT_SECONDS: u32 = 300;
/// Longest time until a change is in the bundle.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 2 * SIGNED_BYTES_MAX;

/// The bundle endpoint: its address, and the profile that it authenticates itself by.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub listen: SocketAddr,
    pub profile: Profile,
}

/// Profile by which the bundle endpoint authenticates itself (SPIFFE Federation section 5.2).
#[derive(Debug, Clone)]
pub enum Profile {
    /// As `spiffe://<trust domain>/fleet`.
    HttpsSpiffe,
    /// As a host, by a certificate that others' CAs vouch for (PEM files).
    HttpsWeb { certificate: PathBuf, key: PathBuf },
}

/// The bundle's bytes of the moment.
pub type Current = watch::Receiver<Arc<[u8]>>;

/// Router of `/v1/gateway/jwt-keys`, by which gateways state their JWT keys.
pub fn gateway_routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/gateway/jwt-keys", post(take_keys))
}

/// Router of the bundle endpoint, open to everybody.
pub fn routes(current: Current) -> Router {
    let give = |State(current): State<Current>| async move {
        let bytes = current.borrow().to_vec();
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], bytes).into_response()
    };
    Router::new()
        .route("/", get(give))
        .fallback(not_there)
        .method_not_allowed_fallback(not_there)
        .with_state(current)
}

async fn take_keys(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let answer = async {
        let (gateway, client) = peer.gateway(&shared.domain, "runtimed", UnixTime::now())?;
        let JwtKeysUpload { envelope } = read_json(body, BODY_BYTES_MAX).await?;
        admitted(&shared, &gateway, client).await?;
        let verify = |point: &Vec<u8>| jwt_keys::verify(envelope.as_slice(), &shared.domain, &gateway, point);
        let verified = client.ca_points.iter().map(verify).find(Result::is_ok);
        let Some(Ok(statement)) = verified else {
            let rule = "the statement is not one of this gateway, under its CA's key";
            return Err(Refusal::new(Reason::RequestInvalid, "JWT keys", rule).into());
        };
        shared.store.keep_jwt_keys(&statement).await?;
        Ok(())
    };
    reply(answer.await)
}

/// Our bundle, with the state that keeps it up to date and on disk.
pub struct Keeper {
    store: Store,
    data: DataDir,
    root: Vec<u8>,
    held: TrustBundle,
    shown: watch::Sender<Arc<[u8]>>,
}

impl Keeper {
    /// A keeper that goes on from the bundle in the fleet's folder, or begins a new one.
    pub async fn open(store: Store, data: DataDir, root: Vec<u8>) -> Result<Self, ServeError> {
        let held = data.bundle(&data.settings()?.trust_domain)?.unwrap_or_default();
        let shown = watch::Sender::new(Arc::from(held.to_json()));
        let mut keeper = Self { store, data, root, held, shown };
        keeper.look(UnixTime::now()).await?;
        Ok(keeper)
    }

    /// The bundle's bytes, now and after each change.
    pub fn current(&self) -> Current {
        self.shown.subscribe()
    }

    /// Keeps the bundle up to date until it is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.look(UnixTime::now()).await {
                tracing::error!(%error, "the bundle stays as it was");
            }
        }
    }

    async fn look(&mut self, now: UnixTime) -> Result<(), ServeError> {
        let next = TrustBundle { x509: vec![self.root.clone()], jwt: self.keys(now).await? };
        if next.same_keys(&self.held) {
            return Ok(());
        }
        // The time is in it so that it goes on growing should the file be lost. On disk before anybody sees it.
        let sequence = self.held.jwt.sequence.saturating_add(1).max(now.0);
        let next = TrustBundle { jwt: JwtKeys { sequence, ..next.jwt }, ..next };
        let bytes = next.to_json();
        self.data.keep_bundle(&bytes)?;
        self.shown.send_replace(Arc::from(bytes));
        tracing::info!(sequence, jwt_keys = next.jwt.keys.len(), "our trust domain's bundle has changed");
        self.held = next;
        Ok(())
    }

    async fn keys(&self, now: UnixTime) -> Result<JwtKeys, StoreError> {
        let (mut keys, mut names) = (Vec::new(), BTreeSet::new());
        for (gateway, key) in self.store.jwt_keys(now).await? {
            if keys.len() == KEYS_MAX {
                tracing::error!(%gateway, "there are more JWT keys than a bundle can carry; tokens of this gateway and those behind it are not believed elsewhere");
                break;
            }
            // A name counts for who had it first: two keys of one name would be refused by every reader.
            let Some(public) = PublicKey::p256(key.point.0).filter(|_| names.insert(key.kid.clone())) else {
                tracing::warn!(%gateway, kid = key.kid, "a JWT key is left out: it is no key, or has another's name");
                continue;
            };
            keys.push(Arc::new(JwtKey { kid: key.kid, public, beneath: None }));
        }
        Ok(JwtKeys { keys, sequence: 0, refresh_hint_seconds: Some(REFRESH_HINT_SECONDS) })
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("held", &self.held).finish_non_exhaustive()
    }
}

/// Certificate chain of an `https_web` endpoint and its key, DER.
pub type WebIdentity = (Vec<Vec<u8>>, zeroize::Zeroizing<Vec<u8>>);

/// Reads the certificate and key of an `https_web` endpoint from their PEM files.
pub fn web_identity(certificate: &PathBuf, key: &PathBuf) -> Result<WebIdentity, ServeError> {
    use edgewarden_ca::CaError;
    use edgewarden_names::pem;
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map(zeroize::Zeroizing::new);
        text.map_err(|source| ServeError::Read { path: path.clone(), source })
    };
    let chain = pem::all(&read(certificate)?, pem::CERTIFICATE).map_err(CaError::from)?;
    let key = zeroize::Zeroizing::new(pem::one(&read(key)?, pem::PRIVATE_KEY).map_err(CaError::from)?);
    Ok((chain, key))
}
