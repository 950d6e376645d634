//! The wait before a module is started again: 0.5 s, doubled each time up to 60 s, forgotten after 60 s of
//! running. Time is an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// Shortest run of an instance that counts as a good start.
const STABLE: Duration = Duration::from_secs(60);

/// Failed starts of one module in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after an instance that ran for `ran` has ended (zero: it did not start).
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        // Beyond this the wait is the longest anyway.
        self.failures = self.failures.saturating_add(1).min(16);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_are_forgotten_after_a_stable_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        for _ in 0..100 {
            assert_eq!(backoff.after(Duration::from_secs(59)), LONGEST);
        }
        assert_eq!(backoff.after(STABLE), FIRST);
        assert_eq!(backoff.after(Duration::ZERO), FIRST * 2);
    }
}
