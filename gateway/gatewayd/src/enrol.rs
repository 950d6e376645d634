//! Enrolment of leaf devices (`edgewarden_protocol::leaf`): a first certificate by a token, another one by the one that
//! the device shows. HTTPS, HTTP/1.1, one request.
//!
//! Faces anybody on the leaf network. It judges nothing: `identityd` checks token or certificate, leaf and request. Here
//! are only the limits: size, time, connections, and tries from one address.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_protocol::Bytes as Der;
use edgewarden_protocol::control::{Certificate, Origin, questions};
use edgewarden_protocol::leaf::{ENROL_BYTES_MAX, ENROL_PATH, Enrol, RENEW_PATH, Renew};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::audit::{self, Audit};
use crate::control::Control;
use crate::listen::{Slot, source};

/// Time from the first byte of the handshake to the last of the answer.
const DEADLINE: Duration = Duration::from_secs(20);
const HEADERS: Duration = Duration::from_secs(5);
/// A token has 256 bits: the limit guards `identityd`'s time, not the token.
const TRIES_BURST: u32 = 10;
const TRY_AGAIN: Duration = Duration::from_secs(6);
const SOURCES_MAX: usize = 4096;

/// Values that enrolment connections share.
#[derive(Clone)]
pub(crate) struct Enrolment {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) control: Control,
    pub(crate) audit: Audit,
    pub(crate) tries: Arc<Tries>,
}

/// Tries of each address: a burst, then one in [`TRY_AGAIN`].
#[derive(Debug, Default)]
pub(crate) struct Tries(Mutex<HashMap<IpAddr, Vec<Instant>>>);

impl Tries {
    fn take(&self, from: IpAddr, now: Instant) -> bool {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = TRY_AGAIN * TRIES_BURST;
        if sources.len() >= SOURCES_MAX {
            sources.retain(|_, tries| tries.iter().any(|at| now.saturating_duration_since(*at) < window));
            if sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        let tries = sources.entry(from).or_default();
        tries.retain(|at| now.saturating_duration_since(*at) < window);
        let free = tries.len() < TRIES_BURST as usize;
        if free {
            tries.push(now);
        }
        free
    }
}

/// Its peer is a stranger to the end: `slot` is given up when others need it.
pub(crate) async fn serve(stream: TcpStream, from: SocketAddr, slot: Slot, enrolment: Enrolment) {
    let exchange = async {
        let stream = match enrolment.acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%from, error = %ErrorChain(&error), "no TLS connection");
                return;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown: Shown = shown.iter().map(|der| Der(der.to_vec())).collect();
        let service = hyper::service::service_fn(|request| {
            let (enrolment, shown) = (enrolment.clone(), Arc::clone(&shown));
            async move { Ok::<_, Infallible>(answer(request, from, &shown, &enrolment).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(32 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%from, error = %ErrorChain(&error), "an enrolment broke off");
        }
    };
    drop(tokio::time::timeout(DEADLINE, exchange).await);
    drop(slot);
}

/// The chain that the device has shown, DER; empty when it has none.
type Shown = Arc<[Der]>;

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    shown: &Shown,
    enrolment: &Enrolment,
) -> Response<Full<Bytes>> {
    match issue(request, from, shown, enrolment).await {
        Ok(certificate) => json(StatusCode::OK, &certificate),
        Err(refusal) => {
            let ours = refusal.reason == Reason::Internal;
            let origin = if ours { Origin::Enforcer } else { audit::stranger(from) };
            enrolment.audit.refused(origin, refusal.clone());
            json(status_of(refusal.reason), &refusal)
        }
    }
}

async fn issue(
    request: Request<Incoming>,
    from: SocketAddr,
    shown: &Shown,
    enrolment: &Enrolment,
) -> Result<Certificate, Refusal> {
    let from = from.ip();
    let renews = request.uri().path() == RENEW_PATH;
    if request.method() != Method::POST || !(renews || request.uri().path() == ENROL_PATH) {
        let rule = format!("only POST {ENROL_PATH} and POST {RENEW_PATH} are served here");
        return Err(Refusal::new(Reason::RequestInvalid, from, rule));
    }
    if !enrolment.tries.take(source(from), Instant::now()) {
        return Err(Refusal::new(Reason::Busy, from, "there are too many tries from this address"));
    }
    let too_large =
        |_| Refusal::new(Reason::RequestTooLarge, from, "the body is over the limit or broke off");
    let body =
        Limited::new(request.into_body(), ENROL_BYTES_MAX).collect().await.map_err(too_large)?.to_bytes();
    let invalid = |_| Refusal::new(Reason::RequestInvalid, from, "the body is not such a request");
    let (subject, answered) = if renews {
        if shown.is_empty() {
            return Err(Refusal::new(Reason::LeafRenewal, from, "no certificate was shown"));
        }
        let Renew { csr, proof } = serde_json::from_slice(&body).map_err(invalid)?;
        let question = questions::LeafRenew { chain: shown.to_vec(), csr, proof };
        (from.to_string(), enrolment.control.ask(question).await)
    } else {
        let Enrol { leaf, token, csr } = serde_json::from_slice(&body).map_err(invalid)?;
        (leaf.to_string(), enrolment.control.ask(questions::LeafIssue { leaf, token, csr }).await)
    };
    answered.map_err(|error| {
        error.refusal().cloned().unwrap_or_else(|| {
            tracing::error!(error = %ErrorChain(&error), "no certificate for a leaf device");
            Refusal::new(Reason::Internal, subject, "identityd has not answered")
        })
    })
}

fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::RequestInvalid => StatusCode::BAD_REQUEST,
        Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Busy => StatusCode::TOO_MANY_REQUESTS,
        Reason::Internal | Reason::IdentityUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    }
}

fn json<T: serde::Serialize>(status: StatusCode, body: &T) -> Response<Full<Bytes>> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_waits() {
        let tries = Tries::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| tries.take(one, start)).count(), TRIES_BURST as usize);
        assert!(tries.take(other, start));
        assert!(!tries.take(one, start + TRY_AGAIN));
        assert!(tries.take(one, start + TRY_AGAIN * TRIES_BURST));
    }
}
