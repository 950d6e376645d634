//! Metrics of `identityd`, counted while it happens.
//!
//! * [`Metrics`]: counters and histograms · `expose`: they and the state as text · `health`: whether it does its work
//! * `source`: both for the socket ([`edgewarden_metrics::door`])
//!
//! No label comes from a peer: kinds, reasons, states and operations are the program's own lists, and modules are those
//! of the deployment in force, so the number of time series is bounded.

mod expose;
mod health;
mod keys;
mod source;
mod watched;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgewarden_keystore::{Health, Keystore};
use edgewarden_metrics::{Counter, Counts, Seconds};
use edgewarden_names::Reason;

use self::keys::Calls;
pub(crate) use self::keys::KeyCall;
pub(crate) use self::source::Told;
pub(crate) use self::watched::Watched;

/// The keystore is asked about its health at most once in this time: it may be a slow chip.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

/// Kind of a certificate that is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Svid,
    Leaf,
    IssuingCa,
}

impl Certificate {
    const ALL: &[Self] = &[Self::Svid, Self::Leaf, Self::IssuingCa];

    fn label(self) -> &'static str {
        match self {
            Self::Svid => "svid",
            Self::Leaf => "leaf",
            Self::IssuingCa => "issuing_ca",
        }
    }
}

/// Class of a request to the keystore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Agree,
    CaSign,
    DeviceKeys,
    Prove,
    Quote,
    Seal,
    ResidentKey,
}

impl Operation {
    const ALL: &[Self] = &[
        Self::Agree,
        Self::CaSign,
        Self::DeviceKeys,
        Self::Prove,
        Self::Quote,
        Self::Seal,
        Self::ResidentKey,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::CaSign => "ca_sign",
            Self::DeviceKeys => "device_keys",
            Self::Prove => "prove",
            Self::Quote => "quote",
            Self::Seal => "seal",
            Self::ResidentKey => "resident_key",
        }
    }
}

/// Something that takes its time and may fail.
#[derive(Debug, Default)]
struct Timed {
    took: Seconds,
    failed: Counter,
}

/// Counts up from the start of the process.
#[derive(Debug)]
pub struct Metrics {
    issued: Counts<Certificate, Timed>,
    asked: Counts<Operation, Timed>,
    /// Callers that wait for the keystore or are served by it.
    waiting: AtomicU64,
    refused: Counts<Reason, Counter>,
    jwt_signed: Counter,
    jwt_reused: Counter,
    permits: Counter,
    keys: Counts<KeyCall, Calls>,
    heads_failed: Counter,
    clock_steps: Counter,
    health: Mutex<Option<(Instant, Option<Health>)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            issued: Counts::of(Certificate::ALL),
            asked: Counts::of(Operation::ALL),
            waiting: AtomicU64::default(),
            refused: Counts::of(Reason::ALL),
            jwt_signed: Counter::default(),
            jwt_reused: Counter::default(),
            permits: Counter::default(),
            keys: keys::calls(),
            heads_failed: Counter::default(),
            clock_steps: Counter::default(),
            health: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Makes a certificate and takes the time.
    pub fn timed<T, E>(&self, kind: Certificate, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let outcome = make();
        if let Some(issued) = self.issued.get(&kind) {
            match &outcome {
                Ok(_) => issued.took.observe(begun.elapsed()),
                Err(_) => {
                    issued.failed.inc();
                }
            }
        }
        outcome
    }

    /// Asks the keystore and takes the time.
    pub fn keystore<T, E>(&self, operation: Operation, ask: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let answer = ask();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(asked) = self.asked.get(&operation) {
            asked.took.observe(begun.elapsed());
            if answer.is_err() {
                asked.failed.inc();
            }
        }
        answer
    }

    /// Counts one refusal by its reason.
    pub fn refused(&self, reason: Reason) {
        if let Some(count) = self.refused.get(&reason) {
            count.inc();
        }
    }

    /// Counts one permit for a start.
    pub fn permitted(&self) {
        self.permits.inc();
    }

    /// A JWT-SVID went out: a new one, or one that was handed out before.
    pub fn jwt_svid(&self, signed: bool) {
        if signed { &self.jwt_signed } else { &self.jwt_reused }.inc();
    }

    /// Counts one call, done or refused.
    pub fn key_call(&self, call: KeyCall, done: bool) {
        if let Some(calls) = self.keys.get(&call) {
            if done { &calls.done } else { &calls.refused }.inc();
        }
    }

    /// Counts one head of the audit log that was not signed.
    pub fn head_failed(&self) {
        self.heads_failed.inc();
    }

    /// Counts one step of the time.
    pub fn clock_stepped(&self) {
        self.clock_steps.inc();
    }

    /// The keystore's health, not older than a minute. Blocks on the keystore.
    fn health(&self, keystore: &dyn Keystore) -> Option<Health> {
        let mut cached = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, health)) = &*cached
            && at.elapsed() < HEALTH_INTERVAL
        {
            return health.clone();
        }
        let health = keystore
            .health()
            .inspect_err(|error| tracing::warn!(%error, "the keystore does not tell its health"))
            .ok();
        *cached = Some((Instant::now(), health.clone()));
        health
    }
}
