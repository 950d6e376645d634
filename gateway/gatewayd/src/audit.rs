//! Refusals on their way to `identityd`'s audit log. Peers cause them, so they are rate limited, and nothing waits.

use std::collections::HashMap;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::Request;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::control::Control;

/// The same refusal of the same thing is told once in this time.
const REPEAT: Duration = Duration::from_secs(10);
const BURST: u32 = 50;
const PER_SECOND: u32 = 5;
const SUBJECTS_MAX: usize = 1024;

/// Where any part drops a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Audit(mpsc::Sender<Refusal>);

impl Audit {
    /// The second half is served by [`serve`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<Refusal>) {
        let (sender, receiver) = mpsc::channel(256);
        (Self(sender), receiver)
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        // A full channel means that far more is refused than may be told.
        drop(self.0.try_send(refusal));
    }
}

/// A token bucket with a memory of what was told lately.
#[derive(Debug)]
struct Limiter {
    told: HashMap<(Reason, String), Instant>,
    tokens: u32,
    filled: Instant,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self { told: HashMap::new(), tokens: BURST, filled: now }
    }

    fn admits(&mut self, refusal: &Refusal, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds > 0 {
            let gained = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
            self.tokens = self.tokens.saturating_add(gained).min(BURST);
            self.filled = now;
        }
        if self.told.len() >= SUBJECTS_MAX {
            self.told.retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        }
        let key = (refusal.reason, refusal.subject.clone());
        let repeated = self.told.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < REPEAT);
        if repeated || self.tokens == 0 || self.told.len() >= SUBJECTS_MAX {
            return false;
        }
        self.tokens = self.tokens.saturating_sub(1);
        self.told.insert(key, now);
        true
    }
}

/// Tells `identityd` and the log. Ends when every [`Audit`] is gone.
pub(crate) async fn serve(mut refusals: mpsc::Receiver<Refusal>, control: Control) {
    let mut limiter = Limiter::new(Instant::now());
    let mut silent = 0u64;
    while let Some(refusal) = refusals.recv().await {
        if !limiter.admits(&refusal, Instant::now()) {
            silent = silent.saturating_add(1);
            continue;
        }
        tracing::warn!(%refusal, untold = silent, "refused");
        silent = 0;
        if let Err(error) = control.done(&Request::Refused { refusal }).await {
            tracing::warn!(%error, "the audit log has not taken a refusal");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_again_and_again_is_told_seldom() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let refusal = |n: u32| Refusal::new(Reason::PolicyDenied, n, "rule");
        assert!(limiter.admits(&refusal(0), start));
        assert!(!limiter.admits(&refusal(0), start + Duration::from_secs(9)));
        assert!(limiter.admits(&refusal(0), start + Duration::from_secs(11)));
        let admitted =
            (1..1000).filter(|n| limiter.admits(&refusal(*n), start + Duration::from_secs(11))).count();
        assert!(admitted <= BURST as usize, "{admitted}");
        assert!(limiter.admits(&refusal(2000), start + Duration::from_secs(12)));
    }
}
