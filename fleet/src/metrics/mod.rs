//! Metrics and health of the fleet, for monitoring systems: counted while it happens, or asked of what is there.
//!
//! * [`Metrics`], [`count`]: counters, and the layer that counts requests · `census`: gateways by state · [`page`]: all
//!   of it as text · [`health`]: whether the fleet does its work
//!
//! No label is a gateway's name: a fleet has as many of them as it likes.

mod census;
mod counters;
mod page;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use edgewarden_names::Reason;

use self::counters::Kind;
pub use self::counters::Metrics;
pub use self::page::page;
use crate::server::state::Shared;

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
