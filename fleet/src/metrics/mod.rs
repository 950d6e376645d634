//! Metrics and health of the fleet, for monitoring systems: counted while it happens, or asked of what is there.
//!
//! * [`Metrics`], [`count`]: counters, and the layer that counts requests · [`census`]: gateways by state · [`page`]: all
//!   of it as text · [`health`]: whether the fleet does its work
//!
//! No label is a gateway's name: a fleet has as many of them as it likes.

mod census;
mod page;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use edgewarden_metrics::{Counter, Counts};
use edgewarden_names::Reason;

use self::census::Census;
pub use self::page::page;
use crate::server::listener::Seats;
use crate::server::state::Shared;

/// Subject of a request, by its path: the label of `requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sync,
    Messages,
    Enrol,
    Admin,
    Other,
}

impl Kind {
    const ALL: &[Self] = &[Self::Sync, Self::Messages, Self::Enrol, Self::Admin, Self::Other];

    fn label(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Messages => "messages",
            Self::Enrol => "enrol",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }

    fn of(path: &str) -> Self {
        match path {
            "/v1/gateway/sync" => Self::Sync,
            "/v1/gateway/messages" => Self::Messages,
            _ if path.starts_with("/v1/enrol") => Self::Enrol,
            _ if path.starts_with("/v1/admin/") => Self::Admin,
            _ => Self::Other,
        }
    }
}

/// Counters of the server since the start of its process.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    requests: Counts<Kind, Counter>,
    refused: Counts<Reason, Counter>,
    messages: Counter,
    census: Census,
    listeners: Mutex<Vec<(&'static str, Seats)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            requests: Counts::of(Kind::ALL),
            refused: Counts::of(Reason::ALL),
            messages: Counter::default(),
            census: Census::default(),
            listeners: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Messages of a gateway that were acknowledged.
    pub fn received(&self, messages: usize) {
        self.messages.inc_by(messages as u64);
    }

    /// Shows who holds the places of a listener.
    pub fn show(&self, listener: &'static str, seats: &Seats) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push((listener, Arc::clone(seats)));
    }
}

/// The layer over all that gateways and operators ask.
pub async fn count(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let metrics = &shared.metrics;
    if let Some(count) = metrics.requests.get(&Kind::of(request.uri().path())) {
        count.inc();
    }
    let answer = next.run(request).await;
    if let Some(count) = answer.extensions().get::<Reason>().and_then(|reason| metrics.refused.get(reason)) {
        count.inc();
    }
    answer
}

/// `Ok` when the database can be read, and written as far as the last write tells. The error is `Storage` when the disk
/// is why, and `Internal` otherwise.
pub async fn health(shared: &Shared) -> Result<(), Reason> {
    shared.store.probe().await.map_err(
        |error| {
            if error.is_the_disk() { Reason::Storage } else { Reason::Internal }
        },
    )
}
