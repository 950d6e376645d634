//! Counters of what is asked of the fleet.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use edgewarden_metrics::{Counter, Counts};
use edgewarden_names::Reason;

use super::census::Census;
use crate::server::listener::Seats;

/// Subject of a request, by its path: the label of `requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sync,
    Messages,
    Enrol,
    Admin,
    Other,
}

impl Kind {
    const ALL: &[Self] = &[Self::Sync, Self::Messages, Self::Enrol, Self::Admin, Self::Other];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Messages => "messages",
            Self::Enrol => "enrol",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }

    pub(super) fn of(path: &str) -> Self {
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
    pub(super) started: Instant,
    pub(super) requests: Counts<Kind, Counter>,
    pub(super) refused: Counts<Reason, Counter>,
    pub(super) messages: Counter,
    pub(super) census: Census,
    pub(super) listeners: Mutex<Vec<(&'static str, Seats)>>,
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
