//! The three calls, and who is let in to make them.

use std::pin::Pin;
use std::sync::Arc;

use edgewarden_workload_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use edgewarden_workload_wire::envoy::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures_util::Stream;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tower::ServiceExt;

use super::admission::Admission;
use super::delta::Delta;
use super::resource::{Known, REQUEST_BYTES_MAX};
use super::state_of_the_world::{StateOfTheWorld, once};
use super::stream::{Protocol, exchange};
use crate::caller::Caller;
use crate::limits::EXCHANGES_MAX;
use crate::places::{Open, take};
use crate::source::IdentitySource;
use crate::status::{authorize, ended, status, unknown as unknown_caller};
use crate::turns::Turns;

/// The service behind its door.
#[derive(Clone)]
pub(crate) struct Secrets {
    calls: Arc<Calls>,
    streams: Arc<Semaphore>,
    turns: Turns,
    server: SecretDiscoveryServiceServer<Calls>,
}

impl Secrets {
    pub(crate) fn new(
        source: Arc<dyn IdentitySource>,
        streams: Arc<Semaphore>,
        stopped: watch::Receiver<()>,
        turns: Turns,
    ) -> Self {
        let calls = Arc::new(Calls { source, stopped });
        let server = SecretDiscoveryServiceServer::from_arc(Arc::clone(&calls))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        Self { calls, streams, turns, server }
    }

    pub(crate) async fn call(self, mut request: http::Request<Body>) -> http::Response<Body> {
        let turn = self.turns.mine().await;
        let admitted = self.admit(&request);
        drop(turn);
        match admitted {
            Ok(admission) => request.extensions_mut().insert(Arc::new(admission)),
            Err(status) => return status.into_http(),
        };
        match self.server.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Every call has a place among the streams, also the one that is none: its request is as large as theirs.
    fn admit(&self, request: &http::Request<Body>) -> Result<Admission, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let caller = caller.ok_or_else(|| status(&unknown_caller()))?;
        let source = Arc::clone(&self.calls.source);
        authorize(&*source, &caller)?;
        let permit = take(&self.streams, EXCHANGES_MAX)?;
        let open = Open::new(Arc::clone(&source), permit);
        Ok(Admission { source, caller, turns: self.turns.clone(), _open: open })
    }
}

struct Calls {
    source: Arc<dyn IdentitySource>,
    stopped: watch::Receiver<()>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Calls {
    fn open<P: Protocol>(
        &self,
        mut request: Request<Streaming<P::Request>>,
        protocol: P,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        let admission = admission(&mut request)?;
        let current = self.source.subscribe().map_err(|refusal| status(&refusal))?;
        let known = (current, self.source.bundles());
        let stopped = self.stopped.clone();
        Ok(Response::new(Box::pin(exchange(admission, request.into_inner(), protocol, known, stopped))))
    }
}

fn admission<T>(request: &mut Request<T>) -> Result<Arc<Admission>, Status> {
    request.extensions_mut().remove().ok_or_else(|| status(&unknown_caller()))
}

#[async_trait]
impl SecretDiscoveryService for Calls {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.open(request, StateOfTheWorld::default())
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.open(request, Delta::default())
    }

    async fn fetch_secrets(
        &self,
        mut request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let admission = admission(&mut request)?;
        let current = self.source.subscribe().map_err(|refusal| status(&refusal))?;
        let context = current.borrow().clone().ok_or_else(|| ended("the instance has ended"))?;
        // The request was read in the meantime.
        admission.authorize()?;
        let foreign = Arc::clone(&self.source.bundles().borrow().foreign_x509);
        let known = Known { context, foreign };
        once(request.into_inner(), &known).map(Response::new).map_err(|refusal| status(&refusal))
    }
}
