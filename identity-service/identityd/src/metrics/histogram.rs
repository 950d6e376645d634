//! A histogram in the sense of Prometheus: counts of observations up to each bound, their number and their sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds with their texts. The last bucket, without a bound, is the rest.
pub(super) const BOUNDS: [(Duration, &str); 14] = [
    (Duration::from_micros(100), "0.0001"),
    (Duration::from_micros(250), "0.00025"),
    (Duration::from_micros(500), "0.0005"),
    (Duration::from_millis(1), "0.001"),
    (Duration::from_micros(2_500), "0.0025"),
    (Duration::from_millis(5), "0.005"),
    (Duration::from_millis(10), "0.01"),
    (Duration::from_millis(25), "0.025"),
    (Duration::from_millis(50), "0.05"),
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(250), "0.25"),
    (Duration::from_secs(1), "1"),
    (Duration::from_millis(2_500), "2.5"),
    (Duration::from_secs(10), "10"),
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let at = BOUNDS.iter().position(|(bound, _)| took <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts up to each bound, all, and the sum in seconds. The counts rise whatever is observed meanwhile.
    pub fn read(&self) -> (Vec<u64>, u64, f64) {
        let mut all = 0_u64;
        let mut counts = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            all = all.saturating_add(bucket.load(Ordering::Relaxed));
            counts.push(all);
        }
        counts.pop();
        (counts, all, Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_buckets_of_their_bounds() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 1_000, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let (counts, all, sum) = histogram.read();
        assert_eq!(counts, [2, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!(all, 6);
        assert!((sum - 20.001_202).abs() < 1e-9, "{sum}");
        for pair in BOUNDS.windows(2) {
            assert!(pair[0].0 < pair[1].0);
        }
        for (bound, text) in BOUNDS {
            assert!((text.parse::<f64>().unwrap() - bound.as_secs_f64()).abs() < 1e-12, "{text}");
        }
    }
}
