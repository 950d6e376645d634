//! Places in the budget of a socket's streams.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::source::IdentitySource;
use crate::status::status;

/// A place in a budget of the socket's streams, of which there are so many.
pub(super) fn take(streams: &Arc<Semaphore>, most: usize) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(streams).try_acquire_owned().map_err(|_| {
        let rule = format_args!("at most {most} of these streams are open at a time on one socket");
        status(&Refusal::new(Reason::CallerBudget, "stream", rule))
    })
}

/// A stream's place in the socket's budget, and its owner's count of it.
pub(super) struct Open {
    pub(super) source: Arc<dyn IdentitySource>,
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
