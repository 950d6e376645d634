//! Sealed secrets: taken from operators, shown without values, and handed to the gateways that they are for.
//!
//! Not a wall: the value is sealed to the gateway, and the gateway checks signature, address and version itself. What is
//! refused here keeps honest mistakes away from gateways.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::dsse::{self, DsseError};
use edgewarden_protocol::secret::{
    AgreementKey, Content, ENTRIES_MAX, ENVELOPE_BYTES_MAX, KEY_BYTES_MAX, PAYLOAD_TYPE, SecretDocument,
};
use edgewarden_protocol::uplink::{REFUSED_MAX, SECRETS_SENT_MAX, SecretsSync};
use serde::Deserialize;

use super::http::{read_json, reply};
use super::state::Shared;
use crate::Problem;
use crate::admin_api::{SecretRequest, SecretState, SecretView};
use crate::store::secrets::{Added, StoredSecret};

const BODY_BYTES_MAX: usize = ENVELOPE_BYTES_MAX / 3 * 4 + 1024;
const TEXT_BYTES_MAX: usize = 256;

type App = State<Arc<Shared>>;

/// Routes of sealed secrets beneath the operators' prefix, behind their token.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/secrets", get(list).post(add))
        .route("/devices/{name}/agreement-key", get(agreement_key))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    gateway: Option<GatewayName>,
}

async fn list(State(shared): App, query: Query<Of>) -> Response {
    reply(views(&shared, query.gateway.as_ref()).await)
}

async fn views(shared: &Shared, gateway: Option<&GatewayName>) -> Result<Vec<SecretView>, Problem> {
    let mut views = Vec::new();
    let mut said: Option<(GatewayName, Option<SecretsSync>)> = None;
    for secret in shared.store.secrets(gateway).await? {
        if said.as_ref().is_none_or(|(of, _)| *of != secret.gateway) {
            let state = shared.store.secret_state(&secret.gateway).await?;
            said = Some((secret.gateway.clone(), state));
        }
        let state = said.as_ref().and_then(|(_, state)| state.as_ref());
        views.push(view(secret, state));
    }
    Ok(views)
}

fn view(secret: StoredSecret, said: Option<&SecretsSync>) -> SecretView {
    let held = said.and_then(|said| {
        let of = |held: &&_| is_of(&secret, held);
        said.have.iter().find(of).map(|held| held.version)
    });
    let state = if held.is_some_and(|held| held >= secret.version) {
        SecretState::Held
    } else if said.is_some_and(|said| said.refused.contains(&secret.digest)) {
        SecretState::Refused
    } else {
        SecretState::Waiting
    };
    let StoredSecret { gateway, module, name, version, removed, signer, stored, .. } = secret;
    SecretView { gateway, module, name, version, removed, signer, stored, state, held }
}

fn is_of(secret: &StoredSecret, held: &edgewarden_protocol::secret::SecretStatus) -> bool {
    held.module == secret.module && held.name == secret.name
}

async fn agreement_key(State(shared): App, Path(name): Path<String>) -> Response {
    let found = async {
        let gateway = GatewayName::parse(&name)
            .map_err(|error| Refusal::new(Reason::RequestInvalid, "gateway", error))?;
        let state = shared.store.secret_state(&gateway).await?;
        state.map(|state| state.key).ok_or_else(|| {
            let rule = "the gateway has not told its key; it does once it has joined and is connected";
            Problem::from(Refusal::new(Reason::RequestInvalid, &gateway, rule))
        })
    };
    reply::<AgreementKey>(found.await)
}

async fn add(State(shared): App, body: Body) -> Response {
    let added = async {
        let SecretRequest { envelope } = read_json(body, BODY_BYTES_MAX).await?;
        let (document, signer) = verify(&shared, envelope.as_slice()).await?;
        let digest = Digest::of(envelope.as_slice());
        let removed = document.content == Content::Removed;
        let now = UnixTime::now();
        let added =
            shared.store.add_secret(&document, removed, &signer, &digest, envelope.as_slice(), now).await?;
        let refuse = |reason, rule: String| Err(Refusal::new(reason, document.subject(), rule).into());
        match added {
            Added::Stored => {}
            Added::NotAbove(before) => {
                return refuse(Reason::SecretRollback, format!("the fleet has version {before}"));
            }
            Added::TooMany => {
                return refuse(Reason::SecretLimit, format!("the gateway has {ENTRIES_MAX} names already"));
            }
        }
        shared.waiting.wake(&document.gateway);
        tracing::info!(gateway = %document.gateway, module = %document.module, secret = %document.name, version = document.version, "secret stored");
        let views = views(&shared, Some(&document.gateway)).await?;
        let ours = |view: &SecretView| view.module == document.module && view.name == document.name;
        views
            .into_iter()
            .find(ours)
            .ok_or_else(|| Problem::from(Refusal::new(Reason::Busy, document.subject(), "it was replaced")))
    };
    reply::<SecretView>(added.await)
}

/// Signature, document, address, key: in this order.
async fn verify(shared: &Shared, envelope: &[u8]) -> Result<(SecretDocument, String), Problem> {
    if envelope.len() > ENVELOPE_BYTES_MAX {
        return Err(Refusal::new(Reason::SecretLimit, "secret", "the envelope is too large").into());
    }
    let keys = shared.store.operator_keys().await?;
    let verified = dsse::verify(envelope, PAYLOAD_TYPE, &keys).map_err(|error| {
        let reason = match error {
            DsseError::NotSigned | DsseError::Signatures(_) => Reason::SecretSignature,
            DsseError::Malformed(_) | DsseError::PayloadType(_) => Reason::RequestInvalid,
        };
        Refusal::new(reason, "secret", error)
    })?;
    let document = SecretDocument::parse(verified.payload())?;
    let refuse = |reason, rule: String| Err(Refusal::new(reason, document.subject(), rule).into());
    if document.trust_domain != shared.domain {
        return refuse(Reason::SecretNotForUs, format!("it is for `{}`", document.trust_domain));
    }
    if shared.store.device(&document.gateway).await?.is_none() {
        let rule = format!("the fleet has no gateway `{}`", document.gateway);
        return refuse(Reason::SecretNotForUs, rule);
    }
    if let Content::Sealed(sealed) = &document.content
        && let Some(state) = shared.store.secret_state(&document.gateway).await?
        && !says(&state.key, &sealed.recipient)
    {
        return refuse(Reason::SecretUndecryptable, "it is sealed to another key than the gateway's".into());
    }
    Ok((document, verified.key_name().to_owned()))
}

/// `true` when the gateway's own statement names the key. Its signature is checked by whoever seals.
fn says(key: &AgreementKey, recipient: &Digest) -> bool {
    serde_json::from_slice::<dsse::Envelope>(key.statement.as_slice())
        .ok()
        .and_then(|envelope| {
            let payload = envelope.payload.as_slice();
            serde_json::from_slice::<edgewarden_protocol::secret::KeyStatement>(payload).ok()
        })
        .is_some_and(|statement| Digest::of(statement.key.as_slice()) == *recipient)
}

/// Refuses a gateway's account of its secrets that is over its bounds.
pub fn check(said: &SecretsSync) -> Result<(), &'static str> {
    if said.key.gateway_ca.as_slice().len() + said.key.statement.as_slice().len() > KEY_BYTES_MAX {
        return Err("the agreement key is too long");
    }
    if said.have.len() > ENTRIES_MAX || said.refused.len() > REFUSED_MAX {
        return Err("more secrets than a gateway may have");
    }
    if said.have.iter().any(|held| held.signed_by.len() > TEXT_BYTES_MAX) {
        return Err("the name of a signer is too long");
    }
    Ok(())
}

/// Digests of the next secrets that a gateway does not have and has not refused.
pub async fn due(
    shared: &Shared,
    gateway: &GatewayName,
    said: Option<&SecretsSync>,
) -> Result<Vec<Digest>, Problem> {
    let Some(said) = said else { return Ok(Vec::new()) };
    let stored = shared.store.secrets(Some(gateway)).await?;
    let has = |secret: &StoredSecret| {
        said.have.iter().any(|held| is_of(secret, held) && held.version >= secret.version)
    };
    let due = stored.into_iter().filter(|secret| !has(secret) && !said.refused.contains(&secret.digest));
    Ok(due.map(|secret| secret.digest).take(SECRETS_SENT_MAX).collect())
}

/// One digest for the secrets that are sent together.
pub fn batch(due: &[Digest]) -> Digest {
    Digest::of(due.iter().map(Digest::as_str).collect::<Vec<_>>().join("\n").as_bytes())
}

/// Envelopes of a gateway's secrets by their digests. One that was replaced meanwhile is left out.
pub async fn envelopes(
    shared: &Shared,
    gateway: &GatewayName,
    due: &[Digest],
) -> Result<Vec<Bytes>, Problem> {
    let mut envelopes = Vec::new();
    for digest in due {
        // Replaced meanwhile: the newer one is due then.
        envelopes.extend(shared.store.secret_envelope(gateway, digest).await?.map(Bytes));
    }
    Ok(envelopes)
}
