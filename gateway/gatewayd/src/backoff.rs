use std::time::Duration;

/// Waits that double up to a limit, each cut by a random part so that many gateways do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between half and all of the step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.longest);
        let mut random = [0];
        // Without randomness the whole step is waited: slower, not wrong.
        aws_lc_rs::rand::fill(&mut random).map_or(step, |()| step / 2 + step / 512 * u32::from(random[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_to_the_limit_and_start_again() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 8 * second);
        for longest in [1, 2, 4, 8, 8, 8] {
            let wait = backoff.next();
            assert!(wait >= second * longest / 2 && wait <= second * longest, "{wait:?} {longest}");
        }
        backoff.reset();
        assert!(backoff.next() <= second);
    }
}
