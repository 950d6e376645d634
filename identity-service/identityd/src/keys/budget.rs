//! Budget of one module's requests, so that a noisy one slows itself alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::config::Keystore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of one module at a time.
pub(super) const CALLS_AT_A_TIME_MAX: usize = 4;
/// Calls of one module of any kind: far above what a module needs, far below what holds the daemon up.
const CALLS: Rate = Rate { each_minute: 12_000, at_once: 400 };
/// Rate of what has an entry in the audit log and changes the disk: keys made, sealed and deleted, and certificates.
/// The log is bounded: without a measure one module could push everything else out of it within minutes. With it that
/// takes days.
const CHANGES: Rate = Rate { each_minute: 2, at_once: 60 };

/// Rate at which something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub each_minute: u32,
    pub at_once: u32,
}

impl Rate {
    /// Uses of the store of keys by one module. A chip makes about five signatures a second, for everybody.
    pub fn of_store(keystore: &Keystore) -> Self {
        match keystore {
            Keystore::Tpm { .. } | Keystore::DangerousSimulatedTpm { .. } => {
                Self { each_minute: 120, at_once: 30 }
            }
            Keystore::Pkcs11 { .. } => Self { each_minute: 1200, at_once: 120 },
            Keystore::Software { .. } => Self { each_minute: 6000, at_once: 200 },
        }
    }
}

/// A token bucket: holds `at_once`, and gets `each_minute` over a minute.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// Thousandths of a minute's share, so that nothing is lost by rounding.
    millis: u64,
    filled: Duration,
}

/// Cost of one use: a minute in milliseconds.
const COST: u64 = 60_000;

impl Bucket {
    /// Full.
    pub fn new(rate: Rate) -> Self {
        Self { rate, millis: u64::from(rate.at_once).saturating_mul(COST), filled: Duration::ZERO }
    }

    /// Takes so many at once, if there is one at this time. What is taken beyond what there is must have passed before
    /// there is another: so no number is too large, and none is cheap.
    pub fn take_all(&mut self, count: usize, now: Duration) -> bool {
        let passed = u64::try_from(now.saturating_sub(self.filled).as_millis()).unwrap_or(u64::MAX);
        let most = u64::from(self.rate.at_once).saturating_mul(COST);
        self.millis =
            self.millis.saturating_add(passed.saturating_mul(self.rate.each_minute.into())).min(most);
        self.filled = self.filled.max(now);
        if self.millis < COST {
            return false;
        }
        let cost = COST.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        let missing = cost.saturating_sub(self.millis).checked_div(self.rate.each_minute.into());
        self.millis = self.millis.saturating_sub(cost);
        self.filled = self.filled.saturating_add(Duration::from_millis(missing.unwrap_or(u64::MAX)));
        true
    }
}

/// One module's.
#[derive(Debug)]
pub(super) struct Budget {
    places: Arc<Semaphore>,
    calls: Mutex<Bucket>,
    store: Mutex<Bucket>,
    changes: Mutex<Bucket>,
    /// Openings of deployment secrets. Apart, so that a start with many of them leaves the keys alone.
    secrets: Mutex<Bucket>,
    /// Held while this module's keys change.
    pub changing: Mutex<()>,
}

fn take(bucket: &Mutex<Bucket>, now: Duration, what: &str) -> Result<(), Refusal> {
    take_all(bucket, 1, now, what)
}

fn take_all(bucket: &Mutex<Bucket>, count: usize, now: Duration, what: &str) -> Result<(), Refusal> {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    if bucket.take_all(count, now) {
        return Ok(());
    }
    let rule =
        format!("at most {} {what} at once, and {} a minute", bucket.rate.at_once, bucket.rate.each_minute);
    Err(Refusal::new(Reason::KeyLimit, "calls", rule))
}

impl Budget {
    /// All buckets full; `store` is the rate of the keystore's calls.
    pub fn new(store: Rate) -> Self {
        Self {
            places: Arc::new(Semaphore::new(CALLS_AT_A_TIME_MAX)),
            calls: Mutex::new(Bucket::new(CALLS)),
            store: Mutex::new(Bucket::new(store)),
            changes: Mutex::new(Bucket::new(CHANGES)),
            secrets: Mutex::new(Bucket::new(store)),
            changing: Mutex::new(()),
        }
    }

    /// A place for one call.
    pub fn enter(&self, now: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let rule = format!("at most {CALLS_AT_A_TIME_MAX} calls are carried out at a time");
            Refusal::new(Reason::KeyLimit, "calls", rule)
        })?;
        take(&self.calls, now, "calls")?;
        Ok(place)
    }

    /// One use of the store of keys.
    pub fn use_store(&self, now: Duration) -> Result<(), Refusal> {
        take(&self.store, now, "uses of the keystore")
    }

    /// One key made, sealed or deleted, or one certificate.
    pub fn change(&self, now: Duration) -> Result<(), Refusal> {
        take(&self.changes, now, "changes of keys and certificates")
    }

    /// So many deployment secrets, opened together.
    pub fn open_secrets(&self, count: usize, now: Duration) -> Result<(), Refusal> {
        take_all(&self.secrets, count, now, "openings of secrets").map_err(|refusal| Refusal {
            reason: Reason::CallerBudget,
            subject: "secrets".into(),
            ..refusal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_its_rate_says_and_no_more() {
        let mut bucket = Bucket::new(Rate { each_minute: 120, at_once: 3 });
        let mut taken =
            |millis: u64| (0..1000).take_while(|_| bucket.take_all(1, Duration::from_millis(millis))).count();
        assert_eq!(taken(0), 3);
        assert_eq!(taken(499), 0);
        assert_eq!(taken(500), 1);
        assert_eq!(taken(2000), 3);
        // Time that goes backwards gives nothing, and does not give the same time twice.
        assert_eq!(taken(1000), 0);
        assert_eq!(taken(2000), 0);
        assert_eq!(taken(u64::MAX), 3);
    }

    #[test]
    fn what_is_taken_beyond_what_there_is_must_pass_first() {
        let mut bucket = Bucket::new(Rate { each_minute: 60, at_once: 3 });
        let at = |millis: u64| Duration::from_millis(millis);
        assert!(bucket.take_all(10, at(0)), "seven more than there are");
        assert!(!bucket.take_all(1, at(0)) && !bucket.take_all(1, at(7999)));
        assert!(bucket.take_all(1, at(8000)));
        assert!(!bucket.take_all(1, at(8000)));
        // Not even the most that can be asked for is an error of arithmetic.
        assert!(bucket.take_all(usize::MAX, at(20_000)));
        assert!(!bucket.take_all(1, at(u64::MAX / 1_000_000)));
    }

    #[test]
    fn secrets_and_changes_have_budgets_of_their_own() {
        let budget = Budget::new(Rate { each_minute: 60, at_once: 2 });
        assert!(budget.open_secrets(64, Duration::ZERO).is_ok());
        assert_eq!(budget.open_secrets(1, Duration::ZERO).unwrap_err().reason, Reason::CallerBudget);
        for _ in 0..CHANGES.at_once {
            budget.change(Duration::ZERO).unwrap();
        }
        assert_eq!(budget.change(Duration::ZERO).unwrap_err().reason, Reason::KeyLimit);
        assert!(budget.use_store(Duration::ZERO).is_ok(), "keys are used all the same");
    }

    #[test]
    fn places_are_given_back() {
        let budget = Budget::new(Rate { each_minute: 60, at_once: 1 });
        let held: Vec<_> = (0..CALLS_AT_A_TIME_MAX).map(|_| budget.enter(Duration::ZERO).unwrap()).collect();
        assert_eq!(budget.enter(Duration::ZERO).unwrap_err().reason, Reason::KeyLimit);
        drop(held);
        assert!(budget.enter(Duration::ZERO).is_ok());
        assert!(budget.use_store(Duration::ZERO).is_ok());
        assert_eq!(budget.use_store(Duration::ZERO).unwrap_err().reason, Reason::KeyLimit);
    }
}
