//! What a monitoring system wants to know, counted while it happens.
//!
//! * [`Metrics`]: counters and histograms · `expose`: they and the state as Prometheus text · `serve`: the socket
//!
//! No label comes from a peer: kinds, reasons, states and operations are the program's own lists, and modules are those
//! of the deployment in force, so the number of time series is bounded.

mod expose;
mod histogram;
mod keys;
mod serve;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgewarden_keystore::{Health, Keystore};
use edgewarden_names::Reason;
use edgewarden_protocol::control::MessageCounts;

pub(crate) use self::expose::text;
use self::histogram::Histogram;
pub(crate) use self::keys::KeyCall;
use self::keys::KeyCounts;
pub(crate) use self::serve::serve;

/// The socket's name in the folder of `identityd`'s sockets.
pub const SOCKET: &str = "metrics.sock";
/// The keystore is asked about its health at most once in this time: it may be a slow chip.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Svid,
    Leaf,
    IssuingCa,
}

impl Certificate {
    const ALL: [Self; 3] = [Self::Svid, Self::Leaf, Self::IssuingCa];

    fn label(self) -> &'static str {
        match self {
            Self::Svid => "svid",
            Self::Leaf => "leaf",
            Self::IssuingCa => "issuing_ca",
        }
    }
}

/// What the keystore is asked for.
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
    const ALL: [Self; 7] = [
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

#[derive(Debug, Default)]
struct Issued {
    took: Histogram,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Asked {
    took: Histogram,
    failed: AtomicU64,
}

/// Counts up from the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    issued: [Issued; Certificate::ALL.len()],
    asked: [Asked; Operation::ALL.len()],
    /// Callers that wait for the keystore or are served by it.
    waiting: AtomicU64,
    refused: Mutex<HashMap<Reason, u64>>,
    jwt_signed: AtomicU64,
    jwt_reused: AtomicU64,
    permits: AtomicU64,
    keys: KeyCounts,
    heads_failed: AtomicU64,
    clock_steps: AtomicU64,
    health: Mutex<Option<(Instant, Option<Health>)>>,
    /// As `gatewayd` has said last.
    messages: Mutex<Option<MessageCounts>>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    pub fn messages_counted(&self, counts: MessageCounts) {
        *self.messages.lock().unwrap_or_else(PoisonError::into_inner) = Some(counts);
    }

    /// Makes a certificate and takes the time.
    pub fn timed<T, E>(&self, kind: Certificate, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let outcome = make();
        if let Some(issued) =
            Certificate::ALL.iter().position(|one| *one == kind).and_then(|n| self.issued.get(n))
        {
            match &outcome {
                Ok(_) => issued.took.observe(begun.elapsed()),
                Err(_) => add(&issued.failed),
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
        if let Some(asked) =
            Operation::ALL.iter().position(|one| *one == operation).and_then(|n| self.asked.get(n))
        {
            asked.took.observe(begun.elapsed());
            if answer.is_err() {
                add(&asked.failed);
            }
        }
        answer
    }

    pub fn refused(&self, reason: Reason) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refused.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    pub fn permitted(&self) {
        add(&self.permits);
    }

    /// A JWT-SVID went out: a new one, or one that was handed out before.
    pub fn jwt_svid(&self, signed: bool) {
        add(if signed { &self.jwt_signed } else { &self.jwt_reused });
    }

    pub fn head_failed(&self) {
        add(&self.heads_failed);
    }

    pub fn clock_stepped(&self) {
        add(&self.clock_steps);
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
