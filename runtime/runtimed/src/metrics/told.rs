//! The numbers on a page, and whether `runtimed` does what it is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_metrics::door::Source;
use edgewarden_metrics::page::{Format, Page, render};
use edgewarden_metrics::{Counter, Counts};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::control::questions;
use edgewarden_protocol::runtime_console::Status;
use edgewarden_protocol::uplink::ModuleState;
use tokio::time::timeout;

use super::Metrics;
use crate::context::Context;
use crate::identity::{CallError, Client};

/// First part of each metric's name.
const PREFIX: &str = "edgewarden_runtimed";

const STATES: [ModuleState; 7] = [
    ModuleState::Pulling,
    ModuleState::Refused,
    ModuleState::Starting,
    ModuleState::Running,
    ModuleState::Degraded,
    ModuleState::Waiting,
    ModuleState::Stopped,
];

/// Time that `identityd` has to answer. One that hangs is as good as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// The whole of `runtimed`, to look at.
#[derive(Debug)]
pub struct Told(pub Arc<Context>);

impl Told {
    /// `true` when `identityd` answers on a connection of its own: not behind what else it is asked.
    async fn identityd_answers(&self) -> bool {
        let client = Client::new(&self.0.layout);
        let answer = timeout(PATIENCE, client.call(questions::Status)).await;
        matches!(answer, Ok(Ok(_) | Err(CallError::Refused(_))))
    }
}

impl Source for Told {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        let answers = self.identityd_answers().await;
        let (context, status, now) = (Arc::clone(&self.0), self.0.board.status(), self.0.clock.now());
        render(format, PREFIX, move |page| {
            let metrics = &context.metrics;
            build(page, metrics, &status)?;
            page.gauge("identityd_up", "1 when identityd answers.", u32::from(answers))?;
            modules(page, metrics, &status)?;
            images(page, metrics)?;
            enforcement(page, metrics, &status)?;
            fleet(page, metrics, &status, now)
        })
    }

    /// By what `edgewarden status` and `edgewarden doctor` go by as well.
    async fn health(&self) -> Result<(), Reason> {
        if let Some(lost) = self.0.board.status().enforcement.lost {
            return Err(lost.reason);
        }
        if self.identityd_answers().await { Ok(()) } else { Err(Reason::IdentityUnavailable) }
    }
}

fn by_reason(counts: &Counts<Reason, Counter>) -> impl Iterator<Item = ([(&str, &str); 1], u64)> {
    counts.iter().map(|(reason, count)| ([("reason", reason.code())], count.get()))
}

fn build(page: &mut Page<'_>, metrics: &Metrics, status: &Status) -> fmt::Result {
    page.info("build", "Version of runtimed.", &[("version", env!("CARGO_PKG_VERSION"))])?;
    page.gauge("uptime_seconds", "Time since runtimed started.", metrics.started.elapsed().as_secs())?;
    let epoch = status.epoch.map_or(0, |epoch| epoch.0);
    page.gauge("policy_epoch", "The policy epoch that the kernel enforces, 0 when there is none.", epoch)
}

fn modules(page: &mut Page<'_>, metrics: &Metrics, status: &Status) -> fmt::Result {
    let count = |state| status.modules.iter().filter(|module| module.state == state).count();
    page.gauges(
        "modules",
        "Modules of the deployment in force, by state.",
        STATES.map(|state| ([("state", state.as_str())], count(state))),
    )?;
    let runs = |state| matches!(state, ModuleState::Running | ModuleState::Degraded);
    let each = || status.modules.iter().map(|module| ([("module", module.name.as_str())], module));
    page.gauges(
        "module_running",
        "1 while the module runs.",
        each().map(|(name, module)| (name, u32::from(runs(module.state)))),
    )?;
    page.gauges(
        "module_updating",
        "1 while the module is to become something else than it is.",
        each().map(|(name, module)| (name, u32::from(module.update.is_some()))),
    )?;
    page.counter("starts", "Instances of modules that were started.", metrics.starts.get())?;
    page.counter("restarts", "Times that a module ended and was to start again.", metrics.restarts.get())?;
    page.counters(
        "starts_refused",
        "Attempts to start a module, or a new revision of it, that failed, by reason code.",
        by_reason(&metrics.starts_refused),
    )?;
    page.counters(
        "updates",
        "New revisions that have proven themselves, were given up for the one before, or put off.",
        metrics.updates.iter().map(|(update, count)| ([("outcome", update.label())], count.get())),
    )
}

fn images(page: &mut Page<'_>, metrics: &Metrics) -> fmt::Result {
    page.counter("pulled_bytes", "Bytes of layers that came from registries.", metrics.pulled_bytes.get())?;
    let no_labels: [(&str, &str); 0] = [];
    page.histograms("pull_seconds", "Time that fetching a layer took.", [(no_labels, &metrics.pull)])
}

fn enforcement(page: &mut Page<'_>, metrics: &Metrics, status: &Status) -> fmt::Result {
    let enforcement = &status.enforcement;
    page.counter(
        "repairs",
        "Rules, interfaces, routes, limits and the like that somebody changed and that were put back.",
        enforcement.repairs,
    )?;
    page.gauge(
        "enforcement_lost",
        "1 while something that is to be enforced is not.",
        u32::from(enforcement.lost.is_some()),
    )?;
    page.counters(
        "flows_refused",
        "Flows refused in the kernel, each counted at most once a minute, by reason code.",
        by_reason(&metrics.flows_refused),
    )
}

/// Without a fleet in the configuration there is none to count of.
fn fleet(page: &mut Page<'_>, metrics: &Metrics, status: &Status, now: UnixTime) -> fmt::Result {
    let fleet = &status.fleet;
    if fleet.url.is_none() {
        return Ok(());
    }
    let reached = fleet.last_contact.is_some() && fleet.error.is_none();
    page.gauge("fleet_up", "1 when the last attempt to reach the fleet succeeded.", u32::from(reached))?;
    let since = fleet.last_contact.map(|at| now.after(at).as_secs());
    let no_labels: [(&str, &str); 0] = [];
    page.gauges(
        "fleet_contact_age_seconds",
        "Time since the fleet answered. Absent until it has.",
        since.map(|since| (no_labels, since)),
    )?;
    page.counter("fleet_failures", "Attempts to reach the fleet that failed.", metrics.fleet_failures.get())
}
