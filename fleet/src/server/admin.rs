//! `/v1/admin/…`: the operators' requests. Every one of them needs the bearer token.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use edgewarden_appraisal::{
    BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, ReferenceValues, VendorBundle, VendorRoots,
};
use edgewarden_ca::spki;
use edgewarden_names::{Digest, ErrorChain, GatewayName, Reason, Refusal, UnixTime, pem};
use edgewarden_protocol::deployment::{Deployment, PAYLOAD_TYPE};
use edgewarden_protocol::dsse::{self, ENVELOPE_BYTES_MAX, Envelope, VerifyingKey};
use edgewarden_protocol::enrol::EVENT_LOG_BYTES_MAX;
use edgewarden_protocol::token::JoinToken;
use serde::Deserialize;

use super::http::{not_there, read_json, refuse, reply};
use super::listener::Place;
use super::state::Shared;
use super::views;
use crate::Problem;
use crate::admin_api::{
    AcceptRequest, CheckRequest, DeploymentRequest, DeploymentView, DeviceDetail, DeviceLabels, Done,
    LabelRequest, Machines, MachinesRequest, Meant, OperatorKey, OperatorKeyRequest, PREFIX,
    ReferenceRequest, ReferenceSummary, RemoveTrust, StoredMessage, Token, TokenRequest, VendorAdded,
    VendorPart, VendorRequest, VendorRoot, Web,
};
use crate::enrol::{random_text, token_hash};
use crate::preflight;
use crate::selection::{self, Carry, check_labels};
use crate::store::deployments::NewDeployment;
use crate::store::tokens::Grant;
use crate::store::trust::NewVendorRoot;

const SMALL_BYTES_MAX: usize = 64 * 1024;
/// Certificates that are told to be of no use yet; the search for a path is the costly part of an answer.
const USELESS_MAX: usize = 64;
/// A file of vendors' certificates, in base64.
const VENDOR_BODY_BYTES_MAX: usize = BUNDLE_BYTES_MAX / 3 * 4 + 1024;
const NAME_BYTES_MAX: usize = 128;
const MESSAGES_SHOWN_MAX: u32 = 1000;
/// A token lives from a minute to a month.
const TOKEN_SECONDS: std::ops::RangeInclusive<u64> = 60..=31 * 86400;

type App = State<Arc<Shared>>;

/// Router of `/v1/admin/…`, behind the check of the bearer token.
pub fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let routes = Router::new()
        .route("/token", post(token_create))
        .route("/devices", get(devices))
        .route("/devices/{name}", get(device))
        .route("/devices/{name}/remove", post(device_remove))
        .route("/devices/{name}/labels", post(device_label))
        .route("/devices/{name}/messages", get(messages))
        .route("/references", get(references).post(reference_add))
        .route("/references/accept", post(reference_accept))
        .route("/vendor-roots", get(vendor_roots).post(vendor_add))
        .route("/operator-keys", get(operator_keys).post(operator_key_add))
        .route("/trust/remove", post(trust_remove))
        .route("/deployments", get(deployments).post(deploy))
        .route("/deployments/check", post(check))
        .route("/deployments/machines", post(machines))
        .route("/web", get(web))
        .merge(super::secrets::routes())
        .fallback(not_there)
        .method_not_allowed_fallback(not_there)
        .layer(from_fn_with_state(shared.clone(), authorize));
    Router::new().nest(PREFIX, routes)
}

/// RFC 6750 section 2.1.
async fn authorize(State(shared): App, request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(offered) if shared.admin.matches(offered) => {
            if let Some(place) = request.extensions().get::<Arc<Place>>() {
                place.is_operator();
            }
            next.run(request).await
        }
        _ => {
            refuse(&Refusal::new(Reason::PeerUnauthorized, "operator", "this needs the fleet's admin token"))
        }
    }
}

fn invalid(subject: &str, rule: impl std::fmt::Display) -> Problem {
    Refusal::new(Reason::RequestInvalid, subject, rule).into()
}

fn gateway(name: &str) -> Result<GatewayName, Problem> {
    GatewayName::parse(name).map_err(|error| invalid("gateway", error))
}

fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(invalid("name", format_args!("a name is text of 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

async fn token_create(State(shared): App, body: Body) -> Response {
    let created = async {
        let TokenRequest { gateway, expires_seconds, allow_software, labels } =
            read_json(body, SMALL_BYTES_MAX).await?;
        if !TOKEN_SECONDS.contains(&expires_seconds) {
            return Err(invalid("expires", "a token lives from 1 minute to 31 days"));
        }
        check_labels(&labels).map_err(|rule| invalid("labels", rule))?;
        let now = UnixTime::now();
        let expires = now.plus(Duration::from_secs(expires_seconds));
        let token = JoinToken::from(random_text()?);
        let grant = Grant { gateway, expires, allow_software, labels };
        shared.store.add_token(&token_hash(token.reveal()), &grant, now).await?;
        let Grant { gateway, labels, .. } = grant;
        Ok(Token { gateway, token, expires, allow_software, labels })
    };
    reply(created.await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageOf {
    after: Option<GatewayName>,
    limit: Option<u32>,
}

async fn devices(State(shared): App, query: Query<PageOf>) -> Response {
    let PageOf { after, limit } = query.0;
    reply(views::page(&shared, after.as_ref(), limit.unwrap_or(views::PAGE_MAX)).await)
}

async fn device(State(shared): App, Path(name): Path<String>) -> Response {
    let found = async {
        let name = gateway(&name)?;
        views::detail(&shared, &name).await?.ok_or_else(|| no_gateway(&name))
    };
    reply::<DeviceDetail>(found.await)
}

fn no_gateway(name: &GatewayName) -> Problem {
    invalid(name.as_str(), "the fleet has no gateway of this name")
}

async fn device_remove(State(shared): App, Path(name): Path<String>) -> Response {
    let removed = async {
        let name = gateway(&name)?;
        if !shared.store.remove_device(&name, UnixTime::now()).await? {
            return Err(no_gateway(&name));
        }
        shared.forget_sent(&name);
        shared.waiting.wake(&name);
        tracing::info!(gateway = %name, "gateway removed");
        Ok(Done { done: true })
    };
    reply(removed.await)
}

async fn device_label(State(shared): App, Path(name): Path<String>, body: Body) -> Response {
    let labelled = async {
        let gateway = gateway(&name)?;
        let LabelRequest { set, remove } = read_json(body, SMALL_BYTES_MAX).await?;
        let changed = shared.store.change_labels(&gateway, set, &remove, UnixTime::now()).await?;
        let labels = changed.ok_or_else(|| no_gateway(&gateway))??;
        shared.waiting.wake(&gateway);
        tracing::info!(%gateway, labels = crate::text::labels(&labels), "gateway labelled");
        Ok(DeviceLabels { gateway, labels })
    };
    reply(labelled.await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    last: Option<u32>,
}

async fn messages(State(shared): App, Path(name): Path<String>, query: Query<Last>) -> Response {
    let found = async {
        let name = gateway(&name)?;
        if shared.store.device(&name).await?.is_none() {
            return Err(no_gateway(&name));
        }
        Ok(shared.store.messages(&name, query.last.unwrap_or(20).min(MESSAGES_SHOWN_MAX)).await?)
    };
    reply::<Vec<StoredMessage>>(found.await)
}

async fn references(State(shared): App) -> Response {
    reply::<Vec<ReferenceSummary>>(shared.store.reference_summaries().await.map_err(Problem::from))
}

async fn reference_add(State(shared): App, body: Body) -> Response {
    let added = async {
        let ReferenceRequest { name, event_log } =
            read_json(body, EVENT_LOG_BYTES_MAX / 3 * 4 + SMALL_BYTES_MAX).await?;
        learn(&shared, name, event_log.0, "file").await
    };
    reply(added.await)
}

async fn learn(
    shared: &Shared,
    name: String,
    event_log: Vec<u8>,
    origin: &str,
) -> Result<ReferenceSummary, Problem> {
    check_name(&name)?;
    let learned_name = name.clone();
    let learned = tokio::task::spawn_blocking(move || ReferenceValues::learn(&learned_name, &event_log))
        .await
        .map_err(Problem::internal)?;
    let values = learned
        .map_err(|error| Problem::from(Refusal::new(Reason::AttestEventLog, &name, ErrorChain(&error))))?;
    let now = UnixTime::now();
    if !shared.store.add_reference(&values, origin, now).await? {
        return Err(invalid(&name, "there is a reference of this name"));
    }
    Ok(ReferenceSummary { name, added: now, origin: origin.into() })
}

async fn reference_accept(State(shared): App, body: Body) -> Response {
    let accepted = async {
        let AcceptRequest { gateway, name } = read_json(body, SMALL_BYTES_MAX).await?;
        let nothing =
            || invalid(gateway.as_str(), "no refused boot of this gateway has proven evidence to accept");
        let attempt = shared.store.last_failure(&gateway).await?.ok_or_else(nothing)?;
        let event_log = attempt.event_log.ok_or_else(nothing)?;
        let name = name.unwrap_or_else(|| format!("{gateway}-{}", attempt.at));
        learn(&shared, name, event_log, &format!("gateway {gateway}")).await
    };
    reply(accepted.await)
}

async fn vendor_roots(State(shared): App) -> Response {
    reply::<Vec<VendorRoot>>(shared.store.vendor_roots().await.map_err(Problem::from))
}

async fn vendor_add(State(shared): App, body: Body) -> Response {
    let added = async {
        let VendorRequest { bundle } = read_json(body, VENDOR_BODY_BYTES_MAX).await?;
        add_vendor_roots(&shared.store, bundle.0).await
    };
    reply(added.await)
}

/// Keeps each certificate of a file that the appraisal can use.
pub async fn add_vendor_roots(store: &crate::store::Store, file: Vec<u8>) -> Result<VendorAdded, Problem> {
    const SUBJECT: &str = "vendor roots";
    let read =
        tokio::task::spawn_blocking(move || VendorBundle::read(&file)).await.map_err(Problem::internal)?;
    let VendorBundle { certificates, refused, refused_more } =
        read.map_err(|error| invalid(SUBJECT, error))?;
    let before: HashSet<Digest> = store.vendor_roots().await?.into_iter().map(|root| root.digest).collect();
    let new: Vec<_> =
        certificates.iter().filter(|one| !before.contains(&Digest::of(&one.der))).cloned().collect();
    let roots: Vec<NewVendorRoot> = new
        .iter()
        .map(|one| NewVendorRoot {
            digest: Digest::of(&one.der),
            subject: one.subject.clone(),
            pem: pem::encode(pem::CERTIFICATE, &one.der),
        })
        .collect();
    let bytes = store.vendor_bundle().await?.len() + roots.iter().map(|root| root.pem.len()).sum::<usize>();
    if bytes > BUNDLE_BYTES_MAX || before.len() + roots.len() > BUNDLE_CERTIFICATES_MAX {
        let rule = format!(
            "with these there would be over {BUNDLE_CERTIFICATES_MAX} certificates or {BUNDLE_BYTES_MAX} bytes; \
             remove some with `edgewarden-fleet vendor remove`"
        );
        return Err(invalid(SUBJECT, rule));
    }
    store.add_vendor_roots(&roots, UnixTime::now()).await?;
    let all = store.vendor_bundle().await?;
    let (added, known) = (roots.len(), certificates.len() - roots.len());
    let useless = move || {
        let Ok(vendors) = VendorRoots::from_pem(all.as_bytes()) else { return Vec::new() };
        let now = UnixTime::now();
        let useless = new.into_iter().filter(|one| !one.is_root).filter_map(|one| {
            let why = vendors.why_useless(&one.der, now)?;
            Some(VendorPart { what: one.subject, why })
        });
        useless.take(USELESS_MAX).collect::<Vec<_>>()
    };
    let useless = tokio::task::spawn_blocking(useless).await.map_err(Problem::internal)?;
    let left_out = refused.into_iter().map(|part| VendorPart { what: part.place, why: part.why }).collect();
    let roots = store.vendor_roots().await?;
    Ok(VendorAdded { roots, added, known, left_out, left_out_more: refused_more, useless })
}

/// `POST /trust/remove`. A gateway that was admitted before stays so until it next has to prove itself.
async fn trust_remove(State(shared): App, body: Body) -> Response {
    let removed = async {
        let RemoveTrust { what, name } = read_json(body, SMALL_BYTES_MAX).await?;
        check_name(&name)?;
        if !shared.store.remove_trust(what, &name, UnixTime::now()).await? {
            return Err(invalid(&name, "there is none of this name"));
        }
        Ok(Done { done: true })
    };
    reply(removed.await)
}

async fn operator_keys(State(shared): App) -> Response {
    let listed = async {
        let mut keys = Vec::new();
        for VerifyingKey { name, point } in shared.store.operator_keys().await? {
            keys.push(OperatorKey { name, public_key: spki::to_pem(&point).map_err(Problem::internal)? });
        }
        Ok(keys)
    };
    reply(listed.await)
}

async fn operator_key_add(State(shared): App, body: Body) -> Response {
    let added = async {
        let OperatorKeyRequest { name, public_key } = read_json(body, SMALL_BYTES_MAX).await?;
        add_operator_key(&shared.store, &name, &public_key).await?;
        Ok(OperatorKey { name, public_key })
    };
    reply(added.await)
}

/// Pins an operator's P-256 public key (PEM). Refuses what is no such key, a name that another key has, and a key that
/// has another name.
pub async fn add_operator_key(
    store: &crate::store::Store,
    name: &str,
    public_key: &str,
) -> Result<(), Problem> {
    check_name(name)?;
    let point = spki::point_of_pem(public_key).map_err(|error| invalid(name, error))?;
    if !store.add_operator_key(&VerifyingKey { name: name.into(), point }, UnixTime::now()).await? {
        return Err(invalid(name, "the name is another operator key's, or the key has another name"));
    }
    Ok(())
}

async fn deployments(State(shared): App) -> Response {
    reply(views::deployments(&shared).await)
}

async fn deploy(State(shared): App, body: Body) -> Response {
    let stored = async {
        let DeploymentRequest { envelope, allow_empty } =
            read_json(body, ENVELOPE_BYTES_MAX / 3 * 4 + SMALL_BYTES_MAX).await?;
        let digest = Digest::of(envelope.as_slice());
        // What was begun to be stored is stored, and told, whether who asked still waits or not.
        let storing = tokio::spawn(store(Arc::clone(&shared), envelope.0, allow_empty));
        storing.await.map_err(Problem::internal)??;
        let view = views::deployment_of(&shared, &digest).await?;
        view.ok_or_else(|| invalid("deployment", "it was replaced"))
    };
    reply::<DeploymentView>(stored.await)
}

async fn store(shared: Arc<Shared>, envelope: Vec<u8>, allow_empty: bool) -> Result<(), Problem> {
    let digest = Digest::of(&envelope);
    let verified = verify(&shared, &envelope).await;
    let _one_at_a_time = shared.deploying.lock().await;
    let verified = match verified {
        Ok((deployment, signer)) => {
            admit(&shared, &deployment, allow_empty).await.map(|_| (deployment, signer))
        }
        Err(problem) => Err(problem),
    };
    let (deployment, signer) = match verified {
        Ok((deployment, signer)) => (Carried::from(deployment), Some(signer)),
        // The gateways refuse it: that is what carrying it shows.
        // A selector that means nobody is the operator's slip, and says nothing of the envelope.
        Err(Problem::Refused(refusal))
            if shared.carry == Carry::DangerousUnverified && refusal.reason != Reason::DeploymentSelector =>
        {
            tracing::warn!(%digest, reason = %refusal.reason, "carrying a deployment that does not verify");
            (Carried::unverified(&envelope), None)
        }
        Err(problem) => return Err(problem),
    };
    let new = NewDeployment {
        digest: &digest,
        name: &deployment.name,
        version: deployment.version,
        selector: &deployment.selector,
        signer: signer.as_deref(),
        envelope: &envelope,
    };
    let added = shared.store.add_deployment(&new, UnixTime::now()).await;
    shared.deployments.changed();
    added?;
    shared.waiting.wake_selected(&deployment.selector);
    tracing::info!(deployment = deployment.name, version = deployment.version, %digest, "deployment stored");
    Ok(())
}

async fn check(State(shared): App, body: Body) -> Response {
    let checked = async {
        let CheckRequest { document, allow_empty } =
            read_json(body, ENVELOPE_BYTES_MAX / 3 * 4 + SMALL_BYTES_MAX).await?;
        let deployment = preflight::document(document.0, &shared.domain).await?;
        admit(&shared, &deployment, allow_empty).await
    };
    reply::<Meant>(checked.await)
}

async fn machines(State(shared): App, body: Body) -> Response {
    let found = async {
        let MachinesRequest { selector } = read_json(body, ENVELOPE_BYTES_MAX).await?;
        views::machines(&shared, &selector).await
    };
    reply::<Machines>(found.await)
}

/// The fields of a deployment that are stored beside its envelope.
struct Carried {
    name: String,
    version: u64,
    selector: selection::Labels,
}

impl From<Deployment> for Carried {
    fn from(deployment: Deployment) -> Self {
        Self { name: deployment.name, version: deployment.version, selector: deployment.selector }
    }
}

impl Carried {
    /// As much as can be read of an envelope that does not verify. What cannot be read goes to every gateway.
    fn unverified(envelope: &[u8]) -> Self {
        serde_json::from_slice::<Envelope>(envelope)
            .ok()
            .and_then(|envelope| Deployment::parse(envelope.payload.as_slice()).ok())
            .map_or_else(
                || Self { name: "(unreadable)".into(), version: 0, selector: selection::Labels::new() },
                Self::from,
            )
    }
}

/// Signature, then document.
async fn verify(shared: &Shared, envelope: &[u8]) -> Result<(Deployment, String), Problem> {
    let keys = shared.store.operator_keys().await?;
    let verified = dsse::verify(envelope, PAYLOAD_TYPE, &keys)
        .map_err(|error| Refusal::new(Reason::DeploymentSignature, "deployment", error))?;
    let deployment = preflight::document(verified.payload().to_vec(), &shared.domain).await?;
    Ok((deployment, verified.key_name().to_owned()))
}

/// Checks a deployment against those that are stored and the labels of the gateways. Returns the gateways that it is
/// for; without any it is refused with `DeploymentSelector`, unless `allow_empty`.
async fn admit(shared: &Shared, deployment: &Deployment, allow_empty: bool) -> Result<Meant, Problem> {
    let stored = shared.deployments().await?;
    let gateways = shared.store.device_labels().await?;
    let fleet = gateways.iter().map(|(_, labels)| labels);
    selection::admit(&deployment.name, deployment.version, &deployment.selector, stored.all(), fleet)?;
    let meant = views::selected(&deployment.selector, gateways);
    if meant.count == 0 && !allow_empty {
        let rule = match crate::text::labels(&deployment.selector) {
            none if none.is_empty() => "the fleet has no gateway yet".into(),
            labels => format!("no gateway has the labels {labels}"),
        };
        return Err(Refusal::new(Reason::DeploymentSelector, &deployment.name, rule).into());
    }
    Ok(meant)
}

async fn web(State(shared): App) -> Response {
    let url = shared.web.map(|address| format!("http://{address}/?token={}", shared.web_token.as_str()));
    reply(Ok(Web { url }))
}
