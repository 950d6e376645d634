//! The time that peers are judged by: the wall clock's, or what `identityd` tells.
//!
//! Told is a difference to the time since boot, which nobody can set: a wall clock that leaps afterwards changes nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_platform::clock;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, pki_types};

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Clock(Arc<Told>);

#[derive(Default)]
struct Told {
    known: AtomicBool,
    offset_millis: AtomicI64,
}

impl Clock {
    /// The wall clock, until something else is told.
    pub fn new() -> Self {
        Self::default()
    }

    /// `offset_millis`: what the time is before the time since boot.
    pub fn tell(&self, offset_millis: i64) {
        self.0.offset_millis.store(offset_millis, Ordering::Relaxed);
        self.0.known.store(true, Ordering::Release);
    }

    /// The told time; the system clock's before any was told.
    pub fn now(&self) -> UnixTime {
        if !self.0.known.load(Ordering::Acquire) {
            return UnixTime::now();
        }
        let millis = clock::boot_millis().saturating_add(self.0.offset_millis.load(Ordering::Relaxed));
        UnixTime(u64::try_from(millis / 1000).unwrap_or(0))
    }

    /// Has this client judge by this clock.
    #[must_use]
    pub fn judges(&self, mut config: ClientConfig) -> ClientConfig {
        config.time_provider = self.provider();
        config
    }

    /// Has this server judge by this clock.
    #[must_use]
    pub fn judges_clients(&self, mut config: ServerConfig) -> ServerConfig {
        config.time_provider = self.provider();
        config
    }

    /// This clock for rustls.
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::new(self.clone())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<pki_types::UnixTime> {
        Some(pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.now().0)))
    }
}
