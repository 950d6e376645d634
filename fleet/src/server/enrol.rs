//! `POST /v1/enrol/begin` and `/finish`: for everybody, so bounded before anything else.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use edgewarden_names::{GatewayName, Refusal, UnixTime};
use edgewarden_protocol::enrol::{Begin, Finish};
use edgewarden_transport::log_limit::{Line, LogLimit};

use super::http::{read_strangers_json, reply};
use super::peer::Peer;
use super::state::Shared;
use crate::Problem;
use crate::enrol::Finished;

/// Keys and a few certificates.
const BEGIN_BYTES_MAX: usize = 64 * 1024;
/// An event log of 2 MiB in base64, and the small rest.
const FINISH_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Router of `/v1/enrol/…`, open to everybody.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/enrol/begin", post(begin)).route("/v1/enrol/finish", post(finish))
}

async fn begin(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    let challenge = async {
        let begin: Begin = read_strangers_json(body, BEGIN_BYTES_MAX).await?;
        let gateway = begin.gateway.clone();
        let challenge = shared.enrolment.begin(begin, peer.source, UnixTime::now()).await;
        if let Err(Problem::Refused(refusal)) = &challenge {
            log_refusal(&shared.refusals_logged, &peer, Some(&gateway), refusal);
        }
        challenge
    };
    reply(challenge.await)
}

async fn finish(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    let enrolled = async {
        let _place = shared.strangers_bodies.enter(peer.source).await?;
        let finish: Finish = read_strangers_json(body, FINISH_BYTES_MAX).await?;
        let (enrolment, now) = (Arc::clone(&shared), UnixTime::now());
        // A connection may end at any moment; what was begun to be decided is decided.
        let finishing = tokio::spawn(async move {
            let finished = enrolment.enrolment.finish(finish, now).await;
            // A gateway whose verdict changed is in another position: its held sync looks again.
            if let Ok(Finished { gateway, .. }) = &finished {
                enrolment.waiting.wake(gateway);
            }
            finished
        });
        let Finished { gateway, outcome } = finishing.await.map_err(Problem::internal)??;
        match outcome {
            Ok(enrolled) => {
                tracing::info!(%gateway, hardware = enrolled.verdict.hardware, "gateway attested");
                Ok(enrolled)
            }
            Err(problem) => {
                if let Problem::Refused(refusal) = &problem {
                    // It was judged, so it is a gateway and not somebody who says so.
                    log_refusal(&shared.gateways_logged, &peer, Some(&gateway), refusal);
                }
                Err(problem)
            }
        }
    };
    reply(enrolled.await)
}

/// Anybody can be refused as often as they like: not every time is worth a line.
fn log_refusal(logged: &LogLimit, peer: &Peer, gateway: Option<&GatewayName>, refusal: &Refusal) {
    let Line::Write { left_out } = logged.line(Instant::now()) else { return };
    if left_out > 0 {
        tracing::warn!(left_out, "more enrolments were refused than the log shows");
    }
    let Refusal { reason, subject, rule } = refusal;
    let gateway = gateway.map(tracing::field::display);
    tracing::warn!(gateway, source = %peer.source, %reason, subject, rule, "enrolment refused");
}
