//! One call or message of a socket at a time is worked on.
//!
//! A module may have a thousand calls on their way and five hundred streams that a rotation wakes together. Each takes a
//! fraction of a millisecond: to ask the kernel about the caller, to sign. If all of them were ready to run, whoever came
//! next, of whatever module, would be behind them. So they wait here for each other, and a module that asks without pause
//! has one place in the line, and one core at most.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
}
