//! `POST /v1/gateway/sync` and `/messages`: enrolled gateways, by the certificates that their own CA issued.
//!
//! Each request is checked against the device as it is now: a removed gateway's certificates are still valid to a
//! verifier of chains, but no longer good here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use edgewarden_names::topic::TopicName;
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::deployment::MODULES_MAX;
use edgewarden_protocol::enrol::VerdictState;
use edgewarden_protocol::uplink::{
    MESSAGES_BYTES_MAX, MESSAGES_MAX, Message, Messages, MessagesReply, Report, SecretsSync, Sync, SyncReply,
};
use edgewarden_transport::log_limit::Line;

use super::http::{read_json, reply};
use super::peer::{Client, Peer};
use super::secrets;
use super::state::Shared;
use super::waiting::Wait;
use crate::Problem;
use crate::selection::Labels;
use crate::store::devices::Device;

const SYNC_BYTES_MAX: usize = 512 * 1024;
/// Payloads in base64, and topics and names around them.
const MESSAGES_BODY_BYTES_MAX: usize = MESSAGES_BYTES_MAX / 3 * 4 + MESSAGES_MAX * 1024;
const WAIT_MAX: Duration = Duration::from_secs(60);
const REFUSALS_MAX: usize = 32;

/// Router of `/v1/gateway/…`, for peers with a gateway's certificate.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/gateway/sync", post(sync)).route("/v1/gateway/messages", post(messages))
}

/// The device behind a request, if it may ask anything now.
pub async fn admitted(shared: &Shared, gateway: &GatewayName, client: &Client) -> Result<Device, Problem> {
    let refused = |reason, rule: &str| Err(Refusal::new(reason, gateway, rule).into());
    let Some(device) = shared.store.device(gateway).await? else {
        return refused(Reason::AttestRequired, "the fleet does not know this gateway");
    };
    for key in &client.ca_keys {
        if !shared.store.knows_ca_key(gateway, key).await? {
            return refused(
                Reason::PeerUnauthorized,
                "this gateway CA is from before the gateway was removed",
            );
        }
    }
    if device.state(UnixTime::now()) == VerdictState::Failed {
        let why = device.refusal.map_or_else(String::new, |refusal| format!(": {refusal}"));
        return refused(Reason::AttestFailed, &format!("the last appraisal failed{why}"));
    }
    Ok(device)
}

async fn sync(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    let answer = async {
        let (gateway, client) = peer.gateway(&shared.domain, "runtimed", UnixTime::now())?;
        let Sync { have, wait_seconds, report, secrets: said } = read_json(body, SYNC_BYTES_MAX).await?;
        check_report(&report).map_err(|rule| Refusal::new(Reason::RequestInvalid, "report", rule))?;
        if let Some(said) = &said {
            secrets::check(said).map_err(|rule| Refusal::new(Reason::RequestInvalid, "secrets", rule))?;
        }
        let wait = shared.waiting.enter(&gateway);
        let labels = admitted(&shared, &gateway, client).await?.labels;
        if let Some(said) = &said {
            shared.store.keep_secret_state(&gateway, said).await?;
        }
        shared.reports.keep(&gateway, report, UnixTime::now()).await?;
        let asked = Asked { have, wait: Duration::from_secs(wait_seconds.into()).min(WAIT_MAX), said };
        hold(&shared, &gateway, client, labels, &asked, &wait).await
    };
    reply(answer.await)
}

fn check_report(report: &Report) -> Result<(), &'static str> {
    if report.modules.len() > MODULES_MAX {
        return Err("more modules than a deployment may have");
    }
    if report.refusals.len() > REFUSALS_MAX {
        return Err("more than 32 refusals");
    }
    Ok(())
}

/// The part of a sync that is kept while it is held.
struct Asked {
    have: Option<Digest>,
    wait: Duration,
    said: Option<SecretsSync>,
}

/// Answers as soon as there is something to answer, and when the time is over. Dropping it loses nothing.
async fn hold(
    shared: &Shared,
    gateway: &GatewayName,
    client: &Client,
    mut labels: Labels,
    asked: &Asked,
    wait: &Wait<'_>,
) -> Result<SyncReply, Problem> {
    let deadline = Instant::now() + asked.wait;
    let mut stopping = shared.stopping.clone();
    loop {
        wait.looked(&labels);
        let mut again_at = deadline;
        let mut answer = SyncReply { deployment: None, secrets: Vec::new() };
        let due = secrets::due(shared, gateway, asked.said.as_ref()).await?;
        if !due.is_empty() {
            let batch = secrets::batch(&due);
            let later = shared.secrets_send_at(gateway, &batch).filter(|at| *at > Instant::now());
            if let Some(later) = later {
                again_at = later.min(again_at);
            } else {
                answer.secrets = secrets::envelopes(shared, gateway, &due).await?;
                shared.note_secrets_sent(gateway, batch);
            }
        }
        if let Some(wanted) = shared.deployments().await?.wanted(&labels)
            && asked.have.as_ref() != Some(&wanted.digest)
        {
            let send_at = shared
                .send_at(gateway, &wanted.digest, asked.have.as_ref())
                .unwrap_or(deadline.min(Instant::now()));
            if send_at <= Instant::now() {
                let envelope = shared.store.envelope(&wanted.digest).await?;
                shared.note_sent(gateway, &wanted.digest, asked.have.as_ref());
                answer.deployment = envelope.map(Into::into);
            } else {
                again_at = send_at.min(again_at);
            }
        }
        let news = answer.deployment.is_some() || !answer.secrets.is_empty();
        if news || Instant::now() >= deadline || *stopping.borrow() {
            return Ok(answer);
        }
        tokio::select! {
            () = tokio::time::sleep_until(again_at.into()) => {
                if again_at == deadline {
                    return Ok(answer);
                }
            }
            () = wait.changed() => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
        labels = admitted(shared, gateway, client).await?.labels;
    }
}

async fn messages(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let answer = async {
        let (gateway, client) = peer.gateway(&shared.domain, "gatewayd", UnixTime::now())?;
        admitted(&shared, &gateway, client).await?;
        let own = shared.bodies_of(&gateway);
        let _own = own.acquire().await.map_err(Problem::internal)?;
        let _room = shared.gateways_bodies.acquire().await.map_err(Problem::internal)?;
        let Messages { messages } = read_json(body, MESSAGES_BODY_BYTES_MAX).await?;
        let Some(first) = messages.first() else { return Ok(MessagesReply { stored: 0, conflict: None }) };
        check_messages(&shared.domain, &gateway, &messages)?;
        let now = UnixTime::now();
        let added =
            shared.store.add_messages(&gateway, &first.queue, &messages, shared.retention, now).await?;
        if let Some(sequence) = added.conflict
            && let Line::Write { left_out } = shared.gateways_logged.line(Instant::now())
        {
            tracing::warn!(left_out, %gateway, epoch = first.queue, sequence, "other messages under known numbers");
        }
        shared.metrics.received(messages.iter().filter(|message| message.sequence <= added.stored).count());
        Ok(MessagesReply { stored: added.stored, conflict: added.conflict })
    };
    reply(answer.await)
}

fn check_messages(domain: &TrustDomain, gateway: &GatewayName, messages: &[Message]) -> Result<(), Refusal> {
    let refused = |reason, rule: &str| Err(Refusal::new(reason, "messages", rule));
    if messages.len() > MESSAGES_MAX {
        return refused(Reason::RequestTooLarge, "more than 1000 messages in one batch");
    }
    let bytes: usize = messages.iter().map(|message| message.payload.as_slice().len()).sum();
    if bytes > MESSAGES_BYTES_MAX {
        return refused(Reason::RequestTooLarge, "more than 4 MiB of payload in one batch");
    }
    for pair in messages.windows(2) {
        if let [before, after] = pair
            && (before.queue != after.queue || before.sequence >= after.sequence)
        {
            return refused(Reason::RequestInvalid, "a batch is of one queue, in ascending order");
        }
    }
    for message in messages {
        let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if message.queue.len() != 32 || !message.queue.bytes().all(hexadecimal) {
            return refused(Reason::RequestInvalid, "a queue is named by 32 lower-case hexadecimal digits");
        }
        if i64::try_from(message.sequence).is_err() {
            return refused(Reason::RequestInvalid, "a sequence number is below 2^63");
        }
        if let Err(error) = TopicName::parse(&message.topic) {
            return refused(Reason::TopicInvalid, &error.to_string());
        }
        if message.from.trust_domain() != *domain || message.from.gateway_name().as_ref() != Some(gateway) {
            return refused(
                Reason::PeerUnauthorized,
                "a gateway sends only what its own modules and leaves published",
            );
        }
    }
    Ok(())
}
