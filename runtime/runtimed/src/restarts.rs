//! The wait before a module is started again: 0.5 s, doubled each time up to 60 s, forgotten after 60 s of
//! running. Time is an argument.

use std::time::Duration;

use edgewarden_names::Backoff;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// Shortest run of an instance that counts as a good start.
const STABLE: Duration = Duration::from_secs(60);

/// Failed starts of one module in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts(Backoff);

impl Default for Restarts {
    fn default() -> Self {
        Self(Backoff::new(FIRST, LONGEST))
    }
}

impl Restarts {
    /// The wait after an instance that ran for `ran` has ended (zero: it did not start).
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.0.reset();
        }
        self.0.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_are_forgotten_after_a_stable_minute() {
        let mut restarts = Restarts::default();
        let waits: Vec<u128> = (0..9).map(|_| restarts.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        for _ in 0..100 {
            assert_eq!(restarts.after(Duration::from_secs(59)), LONGEST);
        }
        assert_eq!(restarts.after(STABLE), FIRST);
        assert_eq!(restarts.after(Duration::ZERO), FIRST * 2);
    }
}
