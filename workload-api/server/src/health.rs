//! gRPC health checking (grpc.health.v1), for tools that wait until the socket is of use: a service serves when the
//! socket's instance has an identity.
//!
//! Without the security header: nothing is told but yes or no, and generic tools know nothing of it. The caller must be
//! one of this socket's all the same, so that others learn nothing and cannot fill the module's budget.

use std::pin::Pin;
use std::sync::Arc;

use edgewarden_platform::peer::PeerEvidence;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use crate::limits::STREAMS_MAX;
use crate::places::take;
use crate::reflection;
use crate::service::{Service, own_caller};
use crate::source::Current;

/// Interval at which a watcher looks whether an identity that was away is back, and whether one has expired.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) struct Health(pub(super) Arc<Service>);

fn is_known(service: &str) -> bool {
    // The empty name asks for the whole server.
    service.is_empty() || reflection::services().any(|name| name == service)
}

fn serving(service: &Service) -> ServingStatus {
    match service.source.subscribe() {
        Ok(_) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    }
}

struct Watching {
    service: Arc<Service>,
    known: bool,
    caller: PeerEvidence,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    current: Option<Current>,
    stopped: watch::Receiver<()>,
    last: Option<ServingStatus>,
    _permit: OwnedSemaphorePermit,
}

impl Watching {
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let now = if self.known { serving(&self.service) } else { ServingStatus::ServiceUnknown };
            if self.last != Some(now) {
                // Taken before the answer goes out, so that no change between the two is missed.
                self.current = self.service.source.subscribe().ok();
                self.last = Some(now);
                return Some(now);
            }
            tokio::select! {
                biased;
                _ = self.stopped.changed() => return None,
                () = &mut self.caller_exited => return None,
                () = changed(&mut self.current) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            if !self.caller.is_alive() || !self.service.source.is_expected(&self.caller) {
                return None;
            }
        }
    }
}

async fn changed(current: &mut Option<Current>) {
    if let Some(held) = current
        && held.changed().await.is_ok()
    {
        return;
    }
    *current = None;
    std::future::pending::<()>().await;
}

#[async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let _turn = self.0.turns.mine().await;
        own_caller(&self.0, &request)?;
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("this socket does not offer that service"));
        }
        Ok(Response::new(HealthCheckResponse { status: serving(&self.0).into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let turn = self.0.turns.mine().await;
        let caller = own_caller(&self.0, &request)?;
        drop(turn);
        let watched = caller.clone();
        let watching = Watching {
            _permit: take(&self.0.streams, STREAMS_MAX)?,
            known: is_known(&request.get_ref().service),
            // What cannot be watched is not answered.
            caller_exited: Box::pin(async move { drop(watched.exited().await) }),
            caller,
            current: None,
            stopped: self.0.stopped.clone(),
            last: None,
            service: Arc::clone(&self.0),
        };
        let updates = unfold(watching, async |mut watching| {
            let status = watching.next().await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), watching))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}
