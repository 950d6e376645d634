//! One open stream: the identity of the moment, then each later one, for as long as the caller may have it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::service::{Service, status};
use crate::source::{Current, IdentitySource, X509Context};
use crate::workloadapi::{X509BundlesResponse, X509svid, X509svidResponse};

/// A stream's place in the socket's budget, and its owner's count of it.
pub(super) struct Open {
    source: Arc<dyn IdentitySource>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    pub(super) fn new(source: Arc<dyn IdentitySource>, permit: OwnedSemaphorePermit) -> Self {
        source.stream_opened();
        Self { source, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.source.stream_closed();
    }
}

/// A message of a stream. Each is complete: what it does not name is withdrawn (SPIFFE Workload API, section 4.1).
pub(super) trait Message: PartialEq + Clone + Send + 'static {
    /// Whether a message equal to the one before is left out.
    const SUPPRESS_EQUAL: bool;
    fn of(context: &X509Context) -> Self;
}

impl Message for X509svidResponse {
    const SUPPRESS_EQUAL: bool = false;

    fn of(context: &X509Context) -> Self {
        let svid = X509svid {
            spiffe_id: context.id.to_string(),
            x509_svid: context.chain_der.concat().into(),
            x509_svid_key: Bytes::copy_from_slice(&context.key_pkcs8),
            bundle: context.bundle_der.concat().into(),
            hint: String::new(),
        };
        Self { svids: vec![svid], ..Self::default() }
    }
}

impl Message for X509BundlesResponse {
    const SUPPRESS_EQUAL: bool = true;

    fn of(context: &X509Context) -> Self {
        let own = (context.trust_domain.id().to_string(), context.bundle_der.concat().into());
        Self { bundles: HashMap::from([own]), ..Self::default() }
    }
}

struct State<M> {
    open: Open,
    caller: PeerEvidence,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    current: Current,
    stopped: watch::Receiver<()>,
    last: Option<M>,
}

/// The first message comes at once. The stream ends with a status: PermissionDenied when the caller is gone or no
/// longer what it was, Unavailable when the instance has ended or the server stops.
pub(super) fn updates<M: Message>(
    open: Open,
    caller: PeerEvidence,
    mut current: Current,
    stopped: watch::Receiver<()>,
) -> impl Stream<Item = Result<M, Status>> + Send {
    current.mark_changed();
    let watched = caller.clone();
    // An error means that the process cannot be watched; what cannot be watched is not answered either.
    let caller_exited = Box::pin(async move { drop(watched.exited().await) });
    let state = State { open, caller, caller_exited, current, stopped, last: None };
    unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(message) => Some((Ok(message), Some(state))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl<M: Message> State<M> {
    async fn next(&mut self) -> Result<M, Status> {
        loop {
            tokio::select! {
                biased;
                _ = self.stopped.changed() => return Err(ended("the service is stopping")),
                () = &mut self.caller_exited => {
                    let rule = "the process that opened this stream has exited";
                    return Err(status(&Refusal::new(Reason::CallerUnknown, "caller", rule)));
                }
                changed = self.current.changed() => changed.map_err(|_| ended("the instance has ended"))?,
            }
            let context = self.current.borrow_and_update().clone();
            let context = context.ok_or_else(|| ended("the instance has ended"))?;
            Service::authorize(&*self.open.source, &self.caller)?;
            let message = M::of(&context);
            if M::SUPPRESS_EQUAL {
                if self.last.as_ref() == Some(&message) {
                    continue;
                }
                self.last = Some(message.clone());
            }
            return Ok(message);
        }
    }
}

pub(super) fn ended(rule: &str) -> Status {
    status(&Refusal::new(Reason::IdentityUnavailable, "stream", rule))
}
