//! The calls of the service, and how a refusal looks in gRPC.

use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status, async_trait};

use super::connection::Caller;
use super::jwt;
use super::stream::{Message, Open, updates};
use crate::source::IdentitySource;
use crate::workloadapi::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::workloadapi::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};

pub(super) struct Service {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) exchanges: Arc<Semaphore>,
    pub(super) stopped: watch::Receiver<()>,
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `reason: rule`. The codes follow the SPIFFE Workload API, section 3 and 6.3, and Workload Endpoint, section 6:
/// clients take InvalidArgument for final, PermissionDenied for "no identity", and retry after Unavailable.
pub(super) fn status(refusal: &Refusal) -> Status {
    let message = format!("{}: {}", refusal.reason, refusal.rule);
    match refusal.reason {
        Reason::CallerHeader
        | Reason::RequestInvalid
        | Reason::RequestTooLarge
        | Reason::SdsName
        | Reason::JwtAudience
        | Reason::JwtInvalid
        | Reason::KeyCiphertext => Status::invalid_argument(message),
        Reason::CallerUnknown
        | Reason::CallerNotModule
        | Reason::PeerUnauthorized
        | Reason::IdentityForeign
        | Reason::IdentityResidentKey
        | Reason::KeyCapability => Status::permission_denied(message),
        Reason::KeyUnknown => Status::not_found(message),
        Reason::KeyExists => Status::already_exists(message),
        Reason::KeyLimit => Status::resource_exhausted(message),
        Reason::KeyExhausted => Status::failed_precondition(message),
        _ => Status::unavailable(message),
    }
}

impl Service {
    /// Whether the caller may be answered now.
    pub(super) fn authorize(source: &dyn IdentitySource, caller: &PeerEvidence) -> Result<(), Status> {
        let judged = if caller.is_alive() { source.authorize(caller) } else { Err(unknown()) };
        judged.map_err(|refusal| {
            tracing::debug!(pid = caller.pid(), uid = caller.uid(), %refusal, "Workload API caller refused");
            status(&refusal)
        })
    }

    /// Who calls, if that may be answered now.
    fn caller<Q>(&self, request: &Request<Q>) -> Result<PeerEvidence, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let caller = caller.ok_or_else(|| status(&unknown()))?;
        Self::authorize(&*self.source, &caller)?;
        Ok(caller)
    }

    fn open<Q, M: Message>(&self, request: &Request<Q>) -> Result<Response<Updates<M>>, Status> {
        let caller = self.caller(request)?;
        let permit = take(&self.streams, super::STREAMS_MAX)?;
        let current = self.source.subscribe().map_err(|refusal| status(&refusal))?;
        let bundles = self.source.bundles();
        let open = Open::new(Arc::clone(&self.source), permit);
        Ok(Response::new(Box::pin(updates(open, caller, current, bundles, self.stopped.clone()))))
    }
}

/// A place in a budget of the socket's streams, of which there are so many.
pub(super) fn take(streams: &Arc<Semaphore>, most: usize) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(streams).try_acquire_owned().map_err(|_| {
        let rule = format_args!("at most {most} of these streams are open at a time on one socket");
        status(&Refusal::new(Reason::CallerBudget, "stream", rule))
    })
}

pub(super) fn unknown() -> Refusal {
    Refusal::new(
        Reason::CallerUnknown,
        "caller",
        "the caller is gone or is not a process that can be seen from here",
    )
}

#[async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.open(&request)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.open(&request)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.caller(&request)?;
        jwt::fetch(&*self.source, request.get_ref()).map(Response::new).map_err(|refusal| status(&refusal))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.open(&request)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.caller(&request)?;
        jwt::judge(&*self.source, request.get_ref()).map(Response::new).map_err(|refusal| status(&refusal))
    }
}
