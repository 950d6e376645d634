use std::time::Duration;

/// Waits between tries that fail: the first one, doubled with each failure up to the longest. Whoever is one of many cuts
/// each with [`Backoff::spread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Without a failure yet.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn step(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    /// The wait after this many failures in a row. After none it is the first one.
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Between half of `wait` and all of it, so that many do not come back at once. `random` is evenly distributed.
    pub fn spread(wait: Duration, random: u8) -> Duration {
        wait / 2 + wait / 512 * u32::from(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn steps_double_to_the_longest_and_start_again() {
        let mut backoff = Backoff::new(SECOND, 8 * SECOND);
        for expected in [1, 2, 4, 8, 8, 8] {
            assert_eq!(backoff.step(), SECOND * expected);
        }
        assert_eq!(backoff.after(u32::MAX), 8 * SECOND);
        backoff.reset();
        assert_eq!(backoff.step(), SECOND);
        assert_eq!(Backoff::new(SECOND, SECOND / 2).after(0), SECOND / 2, "never over the longest");
    }

    #[test]
    fn a_spread_wait_lies_between_its_half_and_all_of_it() {
        for random in 0..=u8::MAX {
            let wait = Backoff::spread(SECOND, random);
            assert!(wait >= SECOND / 2 && wait <= SECOND, "{wait:?} {random}");
        }
    }
}
