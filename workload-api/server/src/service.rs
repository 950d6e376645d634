//! The calls of the service.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::caller::Caller;
use crate::encoded::{Sent, Streamed};
use crate::limits::STREAMS_MAX;
use crate::places::{Open, take};
use crate::source::IdentitySource;
use crate::status::{authorize, status, unknown};
use crate::stream::{Updates, updates};
use crate::turns::Turns;

pub(super) struct Service {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) exchanges: Arc<Semaphore>,
    pub(super) stopped: watch::Receiver<()>,
    pub(super) sent: Arc<Sent>,
    pub(super) turns: Turns,
}

impl Service {
    /// The process that calls, if it may be answered now.
    fn caller<Q>(&self, request: &Request<Q>) -> Result<PeerEvidence, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let caller = caller.ok_or_else(|| status(&unknown()))?;
        authorize(&*self.source, &caller)?;
        Ok(caller)
    }

    pub(super) fn open<Q, M: Streamed>(&self, request: &Request<Q>) -> Result<Updates, Status> {
        let caller = self.caller(request)?;
        let permit = take(&self.streams, STREAMS_MAX)?;
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

/// One of the socket's callers, whatever it may get now.
pub(super) fn own_caller<Q>(service: &Service, request: &Request<Q>) -> Result<PeerEvidence, Status> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
    let caller = caller.filter(PeerEvidence::is_alive).ok_or_else(|| status(&unknown()))?;
    if service.source.is_expected(&caller) {
        return Ok(caller);
    }
    let rule = "the caller is not a process of this module";
    Err(status(&Refusal::new(Reason::CallerNotModule, "caller", rule)))
}
