//! The answers: JSON as Azure's definitions have it, and what a refusal looks like.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Reason, Refusal, UnixTime};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::request::Denied;
use crate::{Instance, Issued};

pub(crate) type Answer = Response<Full<Bytes>>;

/// Result of a call, before it is written as HTTP.
pub(crate) enum Outcome {
    Modules(Instance),
    TrustBundle(String),
    Digest([u8; 32]),
    Ciphertext(Vec<u8>),
    Plaintext(Zeroizing<Vec<u8>>),
    Certificate(Issued),
}

#[derive(Serialize)]
struct Plaintext<'a> {
    plaintext: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Handed<'a> {
    private_key: PrivateKey<'a>,
    certificate: &'a str,
    expiration: String,
}

#[derive(Serialize)]
struct PrivateKey<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    bytes: &'a str,
}

pub(crate) fn answer(outcome: Outcome) -> Result<Answer, Refusal> {
    let ok = StatusCode::OK;
    match outcome {
        Outcome::Modules(instance) => json_answer(ok, &modules(&instance)?),
        Outcome::TrustBundle(pem) => json_answer(ok, &json!({ "certificate": pem })),
        Outcome::Digest(digest) => json_answer(ok, &json!({ "digest": STANDARD.encode(digest) })),
        Outcome::Ciphertext(bytes) => json_answer(ok, &json!({ "ciphertext": STANDARD.encode(bytes) })),
        Outcome::Plaintext(bytes) => {
            let mut text =
                Zeroizing::new(String::with_capacity(bytes.len().saturating_mul(2).saturating_add(4)));
            STANDARD.encode_string(&bytes, &mut text);
            json_answer(ok, &Plaintext { plaintext: &text })
        }
        Outcome::Certificate(issued) => {
            let handed = Handed {
                private_key: PrivateKey { kind: "key", bytes: &issued.key_pem },
                certificate: &issued.chain_pem,
                expiration: date(issued.expires)?,
            };
            json_answer(StatusCode::CREATED, &handed)
        }
    }
}

/// The caller's own module and nobody else's: who else runs here, from which image and with which variables, is not a
/// module's business.
fn modules(instance: &Instance) -> Result<serde_json::Value, Refusal> {
    Ok(json!({"modules": [{
        "id": instance.name,
        "name": instance.module,
        "type": "docker",
        "config": {"settings": {}, "env": []},
        "status": {
            "startTime": date(instance.started)?,
            "runtimeStatus": {"status": "running"},
        },
    }]}))
}

pub(crate) fn denied(denied: &Denied) -> Answer {
    let Denied { status, refusal } = denied;
    let message = format!("{}: {}; {}", refusal.subject, refusal.rule, refusal.reason.next_step());
    let body = json!({ "message": message, "reason": refusal.reason });
    // Two texts cannot fail to be JSON; if they did the status alone would tell.
    json_answer(*status, &body).unwrap_or_else(|_| {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = *status;
        answer
    })
}

fn date(at: UnixTime) -> Result<String, Refusal> {
    let time = i64::try_from(at.0).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).ok_or_else(|| internal("date"))
}

fn internal(subject: &str) -> Refusal {
    Refusal::new(Reason::Internal, subject, "the answer could not be written")
}

/// Larger than any answer, so that a secret in it is not left behind where a buffer has grown.
const ANSWER_BYTES_MAX: usize = 96 * 1024;

/// The buffer is wiped when it has been sent.
fn json_answer(status: StatusCode, body: &impl Serialize) -> Result<Answer, Refusal> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    serde_json::to_writer(&mut *bytes, body).map_err(|_| internal("answer"))?;
    let mut answer = Response::new(Full::new(Bytes::from_owner(bytes)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}
