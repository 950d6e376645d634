//! One call or message of a socket at a time is worked on.
//!
//! A module may have a thousand calls on their way and five hundred streams that a rotation wakes together. Each takes a
//! fraction of a millisecond: to ask the kernel about the caller, to sign. If all of them were ready to run, whoever came
//! next, of whatever module, would be behind them. So they wait here for each other, and a module that asks without pause
//! has one place in the line, and one core at most.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use crate::status::ended;

#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// To be held while nothing is awaited. First come, first served.
    pub(super) async fn mine(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed; without it the work would be done all the same.
        Arc::clone(&self.0).acquire_owned().await.ok()
    }

    /// The same for a stream, which may have ended while it waited.
    pub(super) async fn of_stream(
        &self,
        stopped: &watch::Receiver<()>,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let turn = self.mine().await;
        if stopped.has_changed().is_err() {
            return Err(ended("the service is stopping"));
        }
        Ok(turn)
    }
}
