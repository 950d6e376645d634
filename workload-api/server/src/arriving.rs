//! Requests that have begun and are not there yet.
//!
//! A caller can begin a request and never end it. What has come of it is held, up to the largest that the service takes,
//! so only a few arrive at a time on one socket, and none for long. The others wait; they are the same module's.
//!
//! Calls in which both sides stream have their own budget ([`crate::EXCHANGES_MAX`]) and do not pass through here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;

use crate::status::status;

/// Most requests of one socket whose messages are on their way.
pub const ARRIVING_MAX: usize = 64;
/// Time that a message may take.
pub const ARRIVAL_TIME: Duration = Duration::from_secs(10);
/// Most requests of one socket that have no answer yet: their headers are held.
pub const UNANSWERED_MAX: usize = 1024;

#[derive(Debug, Clone)]
pub(super) struct Arriving {
    places: Arc<Semaphore>,
    unanswered: Arc<Semaphore>,
}

impl Arriving {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(ARRIVING_MAX)),
            unanswered: Arc::new(Semaphore::new(UNANSWERED_MAX)),
        }
    }

    /// A place for a request, until it is answered.
    pub(super) fn begin(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.unanswered).try_acquire_owned().map_err(|_| {
            let rule = format_args!("at most {UNANSWERED_MAX} calls wait for an answer on one socket");
            status(&Refusal::new(Reason::CallerBudget, "call", rule))
        })
    }

    /// The request with a body that has a place until it is there, and an end in time.
    pub(super) async fn bound(&self, request: Request<Body>) -> Request<Body> {
        if request.body().is_end_stream() {
            return request;
        }
        // Never closed; without a place nothing is read.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        request.map(|body| Body::new(Bounded { body, place, late: None }))
    }
}

struct Bounded {
    body: Body,
    place: Option<OwnedSemaphorePermit>,
    /// Made when it must be waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.place.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if !matches!(frame, Some(Ok(_))) {
                self.place = None;
            }
            return Poll::Ready(frame);
        }
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL_TIME)));
        ready!(late.as_mut().poll(cx));
        self.place = None;
        let rule = format_args!("its message was not there within {} seconds", ARRIVAL_TIME.as_secs());
        Poll::Ready(Some(Err(status(&Refusal::new(Reason::RequestInvalid, "request", rule)))))
    }

    fn is_end_stream(&self) -> bool {
        self.place.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
