//! One stream of secret discovery: driven by what its client sends and by the identity's rotation, for as long as the
//! caller may have the identity.

use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_svid::Bundles;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::admission::Admission;
use super::resource::{Known, UNANSWERED_MAX};
use crate::source::Current;
use crate::status::{ended, status};

/// A form of the protocol: what one stream's client has asked for and has got.
pub(super) trait Protocol: Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request in; whether an answer is due now. A refusal ends the stream.
    fn take(&mut self, request: Self::Request) -> Result<bool, Refusal>;

    /// The response that the client is to get of this identity. `None` when it has all of it.
    fn answer(&mut self, known: &Known) -> Result<Option<Self::Response>, Refusal>;
}

struct State<P: Protocol> {
    admission: Arc<Admission>,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    requests: Streaming<P::Request>,
    protocol: P,
    current: Current,
    bundles: watch::Receiver<Arc<Bundles>>,
    stopped: watch::Receiver<()>,
    unanswered: u32,
}

/// Ends well when the client has ended its side. Otherwise with a status: PermissionDenied when the caller is gone or no
/// longer what it was, Unavailable when the instance has ended or the server stops, InvalidArgument when the client
/// asked for what it cannot have.
pub(super) fn exchange<P: Protocol>(
    admission: Arc<Admission>,
    requests: Streaming<P::Request>,
    protocol: P,
    (current, bundles): (Current, watch::Receiver<Arc<Bundles>>),
    stopped: watch::Receiver<()>,
) -> impl Stream<Item = Result<P::Response, Status>> + Send {
    let watched = admission.caller.clone();
    // An error means that the process cannot be watched; what cannot be watched is not answered either.
    let caller_exited = Box::pin(async move { drop(watched.exited().await) });
    let state =
        State { admission, caller_exited, requests, protocol, current, bundles, stopped, unanswered: 0 };
    unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(state))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl<P: Protocol> State<P> {
    async fn next(&mut self) -> Result<Option<P::Response>, Status> {
        loop {
            // A client that sends without end is not to hold up the others on this thread.
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                _ = self.stopped.changed() => return Err(ended("the service is stopping")),
                () = &mut self.caller_exited => {
                    let rule = "the process that opened this stream has exited";
                    return Err(status(&Refusal::new(Reason::CallerUnknown, "caller", rule)));
                }
                changed = self.current.changed() => changed.map_err(|_| ended("the instance has ended"))?,
                // Without its sender it never changes again.
                Ok(()) = self.bundles.changed() => {}
                request = self.requests.message() => {
                    let Some(request) = request? else { return Ok(None) };
                    self.admission.authorize()?;
                    if !self.protocol.take(request).map_err(|refusal| status(&refusal))? {
                        self.count_unanswered()?;
                        continue;
                    }
                }
            }
            let _turn = self.admission.turns.of_stream(&self.stopped).await?;
            let context = self.current.borrow_and_update().clone();
            let context = context.ok_or_else(|| ended("the instance has ended"))?;
            let foreign = Arc::clone(&self.bundles.borrow_and_update().foreign_x509);
            let known = Known { context, foreign };
            self.admission.authorize()?;
            if let Some(response) = self.protocol.answer(&known).map_err(|refusal| status(&refusal))? {
                self.unanswered = 0;
                return Ok(Some(response));
            }
        }
    }

    fn count_unanswered(&mut self) -> Result<(), Status> {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered <= UNANSWERED_MAX {
            return Ok(());
        }
        let rule = format_args!("at most {UNANSWERED_MAX} requests in a row may need no answer");
        Err(status(&Refusal::new(Reason::CallerBudget, "stream", rule)))
    }
}
