//! Counters of modules and of what holds them, for a monitoring system; counted while it happens.
//!
//! * [`Metrics`]: counters · `told`: they and the board for the socket ([`edgewarden_metrics::door`])
//!
//! Labels are reasons, states and the modules of the deployment in force.

pub mod told;

use std::time::{Duration, Instant};

use edgewarden_metrics::{Counter, Counts, Seconds};
use edgewarden_names::Reason;

/// Outcome of a new revision of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// It has run for as long as it had to.
    Proven,
    /// It did not start or did not last, and what ran before runs again.
    GivenUp,
    /// It could not be started for a reason that passes; what ran before runs until it can.
    PutOff,
}

impl Update {
    const ALL: &[Self] = &[Self::Proven, Self::GivenUp, Self::PutOff];

    fn label(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::GivenUp => "given_up",
            Self::PutOff => "put_off",
        }
    }
}

/// Counts up from the start of the process.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    starts: Counter,
    restarts: Counter,
    starts_refused: Counts<Reason, Counter>,
    updates: Counts<Update, Counter>,
    pull: Seconds,
    pulled_bytes: Counter,
    flows_refused: Counts<Reason, Counter>,
    fleet_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            starts: Counter::default(),
            restarts: Counter::default(),
            starts_refused: Counts::of(Reason::ALL),
            updates: Counts::of(Update::ALL),
            pull: Seconds::default(),
            pulled_bytes: Counter::default(),
            flows_refused: Counts::of(Reason::ALL),
            fleet_failures: Counter::default(),
        }
    }
}

fn count<K: PartialEq>(counts: &Counts<K, Counter>, key: &K) {
    if let Some(count) = counts.get(key) {
        count.inc();
    }
}

impl Metrics {
    /// Counts an instance that was started.
    pub fn started(&self) {
        self.starts.inc();
    }

    /// Counts a module that ended and is to start again.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// Counts a failed attempt to start a module, or a new revision of it.
    pub fn start_refused(&self, reason: Reason) {
        count(&self.starts_refused, &reason);
    }

    /// Counts a new revision by its outcome.
    pub fn updated(&self, update: Update) {
        count(&self.updates, &update);
    }

    /// Counts a layer that came from a registry.
    pub fn pulled(&self, bytes: u64, took: Duration) {
        self.pulled_bytes.inc_by(bytes);
        self.pull.observe(took);
    }

    /// Counts a refused flow: each at most once a minute.
    pub fn flow_refused(&self, reason: Reason) {
        count(&self.flows_refused, &reason);
    }

    /// Counts a failed attempt to reach the fleet.
    pub fn fleet_failed(&self) {
        self.fleet_failures.inc();
    }
}
