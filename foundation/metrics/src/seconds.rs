//! Histogram of durations, in seconds.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds, in seconds. A TPM takes up to seconds for a signature, a software keystore a tenth of a millisecond.
const BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// A histogram of durations.
#[derive(Debug)]
pub struct Seconds {
    histogram: Histogram,
    count: Counter,
}

impl Default for Seconds {
    fn default() -> Self {
        Self { histogram: Histogram::new(BOUNDS), count: Counter::default() }
    }
}

impl Seconds {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        self.histogram.observe(took.as_secs_f64());
        self.count.inc();
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    pub(crate) fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}
