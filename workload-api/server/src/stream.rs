//! One open stream: the identity of the moment, then each later one, for as long as the caller may have it.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_svid::Bundles;
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::Status;

use crate::encoded::{Encoded, Sent, Streamed};
use crate::message::Known;
use crate::places::Open;
use crate::source::Current;
use crate::status::{authorize, ended, status};
use crate::turns::Turns;

/// The messages of a stream, encoded, then a status.
pub(super) type Updates = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

struct State<M> {
    open: Open,
    caller: PeerEvidence,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    current: Current,
    bundles: watch::Receiver<Arc<Bundles>>,
    stopped: watch::Receiver<()>,
    sent: Arc<Sent>,
    turns: Turns,
    last: Option<Arc<Encoded>>,
    message: PhantomData<fn() -> M>,
}

/// The first message comes at once. The stream ends with a status: PermissionDenied when the caller is gone or no
/// longer what it was, Unavailable when the instance has ended or the server stops.
pub(super) fn updates<M: Streamed>(
    open: Open,
    caller: PeerEvidence,
    mut current: Current,
    bundles: watch::Receiver<Arc<Bundles>>,
    stopped: watch::Receiver<()>,
    sent: Arc<Sent>,
    turns: Turns,
) -> Updates {
    current.mark_changed();
    let watched = caller.clone();
    // An error means that the process cannot be watched; what cannot be watched is not answered either.
    let caller_exited = Box::pin(async move { drop(watched.exited().await) });
    let message = PhantomData;
    let state = State::<M> {
        open,
        caller,
        caller_exited,
        current,
        bundles,
        stopped,
        sent,
        turns,
        last: None,
        message,
    };
    Box::pin(unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(message) => Some((Ok(message), Some(state))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl<M: Streamed> State<M> {
    async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
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
            }
            let _turn = self.turns.of_stream(&self.stopped).await?;
            let context = self.current.borrow_and_update().clone();
            let context = context.ok_or_else(|| ended("the instance has ended"))?;
            let known = Known { context, bundles: Arc::clone(&self.bundles.borrow_and_update()) };
            authorize(&*self.open.source, &self.caller)?;
            M::check(&known).map_err(|refusal| status(&refusal))?;
            if self.last.as_ref().is_some_and(|last| M::same(&last.known, &known)) {
                continue;
            }
            let message = M::latest(&self.sent).of::<M>(known);
            let bytes = message.bytes();
            self.last = Some(message);
            return Ok(bytes);
        }
    }
}
