//! Bodies in, replies out: bounded in size and time, refusals as JSON.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgewarden_names::{Reason, Refusal};
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Problem;

/// A peer that sends its body more slowly than this is cut off.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// The same for strangers. An event log is some 100 KiB.
const STRANGERS_BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Most bytes of a body over its limit that are read and thrown away, so that its sender gets to read the refusal.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads a JSON body of at most `bytes_max` bytes.
pub async fn read_json<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Refusal> {
    read_json_within(BODY_DEADLINE, body, bytes_max).await
}

/// Reads a JSON body of at most `bytes_max` bytes from somebody of whom nothing is known: within a shorter deadline.
pub async fn read_strangers_json<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Refusal> {
    read_json_within(STRANGERS_BODY_DEADLINE, body, bytes_max).await
}

async fn read_json_within<T: DeserializeOwned>(
    deadline: Duration,
    body: Body,
    bytes_max: usize,
) -> Result<T, Refusal> {
    let refused = |reason, rule: &dyn std::fmt::Display| Err(Refusal::new(reason, "request", rule));
    match tokio::time::timeout(deadline, read(body, bytes_max)).await {
        Err(_) => refused(Reason::RequestInvalid, &"the body did not arrive in time"),
        Ok(Err(_)) => refused(Reason::RequestInvalid, &"the body broke off"),
        Ok(Ok(None)) => {
            refused(Reason::RequestTooLarge, &format_args!("the body has more than {bytes_max} bytes"))
        }
        Ok(Ok(Some(bytes))) => {
            serde_json::from_slice(&bytes).or_else(|error| refused(Reason::RequestInvalid, &error))
        }
    }
}

/// The body, or nothing when it is over the limit.
async fn read(mut body: Body, bytes_max: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut bytes, mut discarded) = (Some(Vec::new()), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        match &mut bytes {
            Some(kept) if kept.len() + data.len() <= bytes_max => kept.extend_from_slice(&data),
            _ => {
                bytes = None;
                discarded += data.len();
            }
        }
        if discarded > DISCARDED_BYTES_MAX {
            break;
        }
    }
    Ok(bytes)
}

/// The reply to a request: its value as JSON, or the refusal.
pub fn reply<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(problem) => refuse(&problem.into_refusal()),
    }
}

/// The reply to a refused request: the refusal as JSON, with the HTTP status of its reason.
pub fn refuse(refusal: &Refusal) -> Response {
    let mut reply = json(status(refusal.reason), refusal);
    // For who counts.
    reply.extensions_mut().insert(refusal.reason);
    reply
}

/// The reply to a request for a path or method that is not there.
pub async fn not_there() -> Response {
    json(
        StatusCode::NOT_FOUND,
        &Refusal::new(Reason::RequestInvalid, "request", "there is nothing of this name"),
    )
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let Ok(body) = serde_json::to_vec(value) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body).into_response()
}

/// RFC 9110 section 15.5. The reason in the body decides; the status is for what stands between.
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::RequestInvalid | Reason::DeploymentInvalid | Reason::PolicyInvalid => StatusCode::BAD_REQUEST,
        Reason::PeerUnauthorized => StatusCode::UNAUTHORIZED,
        Reason::DeploymentRollback => StatusCode::CONFLICT,
        Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Busy => StatusCode::TOO_MANY_REQUESTS,
        Reason::Storage => StatusCode::INSUFFICIENT_STORAGE,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::FORBIDDEN,
    }
}
