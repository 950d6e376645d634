//! The numbers of `gatewayd` for a monitoring system, and whether it does its work.
//!
//! No label is a client's, a topic's or a peer's word.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use edgewarden_metrics::door::Source;
use edgewarden_metrics::page::{Format, Page, render};
use edgewarden_metrics::{Counter, Counts};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::gateway_console::UpstreamStatus;
use edgewarden_transport::Clock;
use tokio::sync::{mpsc, oneshot, watch};

use crate::event::{Event, HubCounts};
use crate::store::Opening;
use crate::view::View;

/// First part of each metric's name.
const PREFIX: &str = "edgewarden_gatewayd";

/// Sources of the numbers.
pub(crate) struct Told {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) refused: Arc<Counts<Reason, Counter>>,
    pub(crate) applied: watch::Receiver<View>,
    pub(crate) queue: watch::Receiver<Opening>,
    pub(crate) journal: watch::Receiver<Opening>,
    pub(crate) upstream: watch::Receiver<UpstreamStatus>,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
}

/// One of the two on disk, as it was when somebody asked.
struct Disk {
    name: &'static str,
    status: Option<edgewarden_queue::Status>,
}

impl Disk {
    fn of(name: &'static str, opening: &watch::Receiver<Opening>) -> Self {
        let status = match &*opening.borrow() {
            Some(Ok(queue)) => Some(queue.status()),
            _ => None,
        };
        Self { name, status }
    }
}

/// Everything, as it was when somebody asked.
struct Facts {
    hub: HubCounts,
    refused: Arc<Counts<Reason, Counter>>,
    epoch: u64,
    trusted: bool,
    disks: [Disk; 2],
    upstream: UpstreamStatus,
    now: UnixTime,
    uptime_seconds: u64,
}

impl Told {
    async fn facts(&self) -> Option<Facts> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Count { answer }).await.ok()?;
        let hub = answered.await.ok()?;
        let view = self.applied.borrow().clone();
        Some(Facts {
            hub,
            refused: Arc::clone(&self.refused),
            epoch: view.epoch().map_or(0, |epoch| epoch.0),
            trusted: view.trusted(),
            disks: [Disk::of("upstream", &self.queue), Disk::of("sessions", &self.journal)],
            upstream: self.upstream.borrow().clone(),
            now: self.clock.now(),
            uptime_seconds: self.started.elapsed().as_secs(),
        })
    }
}

impl Source for Told {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        // Without the hub the process is ending.
        let facts = self.facts().await.ok_or(fmt::Error)?;
        render(format, PREFIX, move |page| {
            build(page, &facts)?;
            clients(page, &facts)?;
            messages(page, &facts)?;
            disks(page, &facts)?;
            upstream(page, &facts)
        })
    }

    async fn health(&self) -> Result<(), Reason> {
        self.applied.borrow().health()?;
        for opening in [&self.queue, &self.journal] {
            match &*opening.borrow() {
                Some(Ok(_)) => {}
                Some(Err(refusal)) => return Err(refusal.reason),
                None => return Err(Reason::Busy),
            }
        }
        // One that takes no event any more does nothing for anybody.
        self.facts().await.map(drop).ok_or(Reason::Busy)
    }
}

fn build(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    page.info("build", "Version of gatewayd.", &[("version", env!("CARGO_PKG_VERSION"))])?;
    page.gauge("uptime_seconds", "Time since gatewayd started.", facts.uptime_seconds)?;
    page.gauge("policy_epoch", "The policy epoch in force here, 0 when there is none.", facts.epoch)?;
    page.gauge("trusted", "0 when the gateway's verdict forbids to serve anybody.", u32::from(facts.trusted))
}

fn clients(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    let HubCounts { broker, modules_connected, leaves_connected } = &facts.hub;
    page.gauges(
        "connections",
        "Clients that are connected.",
        [([("kind", "module")], *modules_connected), ([("kind", "leaf")], *leaves_connected)],
    )?;
    page.gauge("sessions", "Sessions, connected or kept.", broker.sessions)?;
    page.gauge("subscriptions", "Subscriptions of them.", broker.subscriptions)?;
    page.counters(
        "refusals",
        "What was refused, by reason code: connections, subscriptions and publications.",
        facts.refused.iter().map(|(reason, count)| ([("reason", reason.code())], count.get())),
    )
}

fn messages(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    let counts = &facts.hub.broker;
    for (name, help, value) in [
        ("messages_received", "Publications of clients that were accepted.", counts.taken),
        ("messages_delivered", "Messages written to receivers, repeated ones too.", counts.delivered),
        ("messages_lost", "QoS 1 messages that receivers lost because they lagged.", counts.lost),
        (
            "messages_dropped_qos0",
            "QoS 0 messages dropped because a receiver was too slow.",
            counts.dropped_qos0,
        ),
    ] {
        page.counter(name, help, value)?;
    }
    let set_aside = "Messages that ended their receivers' connections and were set aside.";
    for (name, help, value) in [
        ("messages_set_aside", set_aside, counts.set_aside),
        ("messages_waiting", "Messages that wait in sessions.", counts.waiting_messages),
        ("messages_waiting_bytes", "Bytes of them.", counts.waiting_bytes),
        ("messages_retained", "Retained messages.", counts.retained_messages),
    ] {
        page.gauge(name, help, value)?;
    }
    Ok(())
}

fn disks(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    let open = || facts.disks.iter().filter_map(|disk| Some(([("queue", disk.name)], disk.status?)));
    page.gauges(
        "queue_open",
        "1 when the queue on disk is open: to the fleet, and of persistent sessions.",
        facts.disks.iter().map(|disk| ([("queue", disk.name)], u32::from(disk.status.is_some()))),
    )?;
    page.gauges("queue_messages", "Records in it.", open().map(|(name, status)| (name, status.messages)))?;
    page.gauges("queue_bytes", "Bytes of it on disk.", open().map(|(name, status)| (name, status.bytes)))?;
    page.gauges(
        "queue_bytes_max",
        "Cap of these bytes.",
        open().map(|(name, status)| (name, status.bytes_max)),
    )
}

fn upstream(page: &mut Page<'_>, facts: &Facts) -> fmt::Result {
    let (state, since) = match &facts.upstream {
        UpstreamStatus::None => ("none", None),
        UpstreamStatus::Idle => ("idle", None),
        UpstreamStatus::Connected { since } => ("connected", Some(*since)),
        UpstreamStatus::Unreachable { since, .. } => ("unreachable", Some(*since)),
    };
    page.gauges(
        "upstream",
        "1 for the state of the way to the fleet.",
        ["none", "idle", "connected", "unreachable"].map(|one| ([("state", one)], u32::from(one == state))),
    )?;
    let seconds = since.map(|since| facts.now.after(since).as_secs());
    page.gauges(
        "upstream_state_seconds",
        "Time for which it has been so.",
        seconds.map(|seconds| ([("state", state)], seconds)),
    )
}
