//! The calls of the service, and how a refusal looks in gRPC.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use super::connection::Caller;
use super::stream::{Message, Open, Sent, Updates, updates};
use super::turns::Turns;
use crate::source::IdentitySource;

pub(super) struct Service {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) exchanges: Arc<Semaphore>,
    pub(super) stopped: watch::Receiver<()>,
    pub(super) sent: Arc<Sent>,
    pub(super) turns: Turns,
}

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

    pub(super) fn open<Q, M: Message>(&self, request: &Request<Q>) -> Result<Updates, Status> {
        let caller = self.caller(request)?;
        let permit = take(&self.streams, super::STREAMS_MAX)?;
        let current = self.source.subscribe().map_err(|refusal| status(&refusal))?;
        let bundles = self.source.bundles();
        let open = Open::new(Arc::clone(&self.source), permit);
        let (stopped, sent, turns) = (self.stopped.clone(), Arc::clone(&self.sent), self.turns.clone());
        Ok(updates::<M>(open, caller, current, bundles, stopped, sent, turns))
    }

    pub(super) fn answer<Q, A>(
        &self,
        request: &Request<Q>,
        answer: impl FnOnce(&dyn IdentitySource, &Q) -> Result<A, Refusal>,
    ) -> Result<Response<A>, Status> {
        self.caller(request)?;
        answer(&*self.source, request.get_ref()).map(Response::new).map_err(|refusal| status(&refusal))
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
