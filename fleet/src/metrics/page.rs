//! The numbers on a page.

use std::fmt;
use std::sync::{Arc, PoisonError};

use edgewarden_metrics::page::{Format, Page, render};

use super::census::{Counted, Gateways};
use crate::Problem;
use crate::admin_api::DeviceState;
use crate::server::places::Occupancy;
use crate::server::state::Shared;
use crate::server::views;

/// Before each name.
const PREFIX: &str = "edgewarden_fleet";

/// Facts from the store, asked for before the page is written.
struct Facts {
    counted: Counted,
    deployments: usize,
    writable: bool,
}

/// All metrics of the fleet in the Prometheus text format.
pub async fn page(shared: &Arc<Shared>, format: Format) -> Result<String, Problem> {
    let facts = Facts {
        counted: shared.metrics.census.newest(count(Arc::clone(shared))).await?,
        deployments: shared.deployments().await?.all().len(),
        writable: super::health(shared).await.is_ok(),
    };
    let shared = Arc::clone(shared);
    let page = render(format, PREFIX, move |page| {
        build(page, &shared, &facts)?;
        gateways(page, &facts)?;
        requests(page, &shared)?;
        connections(page, &shared)
    });
    page.map_err(Problem::internal)
}

/// Gateways by state. Takes a look at every one.
async fn count(shared: Arc<Shared>) -> Result<Gateways, Problem> {
    let mut gateways = [0; DeviceState::ALL.len()];
    let mut after = None;
    loop {
        let page = views::page(&shared, after.as_ref(), views::PAGE_MAX).await?;
        for device in &page.devices {
            let place = DeviceState::ALL.iter().position(|state| *state == device.state);
            if let Some(count) = place.and_then(|place| gateways.get_mut(place)) {
                *count += 1;
            }
        }
        let Some(next) = page.next else { return Ok(gateways) };
        after = Some(next);
    }
}

fn build(page: &mut Page<'_>, shared: &Shared, facts: &Facts) -> fmt::Result {
    page.info("build", "Version of the fleet.", &[("version", env!("CARGO_PKG_VERSION"))])?;
    let uptime = shared.metrics.started.elapsed().as_secs();
    page.gauge("uptime_seconds", "Time since the fleet started.", uptime)?;
    page.gauge("database_up", "1 when the database can be read and written.", u32::from(facts.writable))?;
    page.counter(
        "database_failures",
        "Writes to the database that were not carried to their end.",
        shared.store.failures(),
    )
}

/// The names that `device list -o json` has. Words for people may change.
fn label(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Failed => "failed",
        DeviceState::Expired => "expired",
        DeviceState::Refused => "refused",
        DeviceState::Expiring => "expiring",
        DeviceState::NotSeen => "not-seen",
        DeviceState::Down => "down",
        DeviceState::Stale => "stale",
        DeviceState::Behind => "behind",
        DeviceState::Good => "good",
    }
}

fn gateways(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    let counted = &facts.counted;
    page.gauges(
        "gateways",
        "Gateways by the worst that is to be said of them.",
        DeviceState::ALL
            .iter()
            .zip(counted.gateways)
            .map(|(state, count)| ([("state", label(*state))], count)),
    )?;
    page.gauge(
        "gateways_counted_age_seconds",
        "Time since they were counted.",
        counted.at.elapsed().as_secs(),
    )?;
    page.gauge("deployments", "Deployments that are kept.", facts.deployments)
}

fn requests(page: &mut Page<'_>, shared: &Shared) -> fmt::Result {
    let metrics = &shared.metrics;
    page.counters(
        "requests",
        "Requests of gateways and operators.",
        metrics.requests.iter().map(|(kind, count)| ([("kind", kind.label())], count.get())),
    )?;
    page.counters(
        "refusals",
        "Requests that were refused or failed, by reason code.",
        metrics.refused.iter().map(|(reason, count)| ([("reason", reason.code())], count.get())),
    )?;
    let received = metrics.messages.get();
    page.counter("messages_received", "Messages that were acknowledged, repeated ones too.", received)
}

fn connections(page: &mut Page<'_>, shared: &Shared) -> fmt::Result {
    let listeners = shared.metrics.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let each = listeners.iter().flat_map(|(listener, seats)| {
        let Occupancy { strangers, operators, gateways } =
            seats.lock().unwrap_or_else(PoisonError::into_inner).count();
        [("stranger", strangers), ("operator", operators), ("gateway", gateways)]
            .map(|(kind, count)| ([("listener", *listener), ("kind", kind)], count))
    });
    page.gauges("connections", "Connections, by listener and by what the peer has proven.", each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_names_in_json() {
        for state in DeviceState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), label(state));
        }
    }
}
