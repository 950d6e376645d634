//! Ration of notes on changes of the time: a clock that leaps to and fro does not fill the audit log.

use std::time::Duration;

use edgewarden_names::UnixTime;

use crate::refusals::Allowance;

/// Changes of one kind that may be written at once, and seconds until there is one more.
const ALLOWED: (u64, u64) = (8, 600);

/// One kind of change. By the time since boot: the other one is what is in doubt.
#[derive(Debug)]
pub struct Ration {
    allowance: Allowance,
    untold: u64,
}

impl Ration {
    /// Full.
    pub fn new() -> Self {
        Self { allowance: Allowance::new(ALLOWED, UnixTime(0)), untold: 0 }
    }

    /// The note on a change, with the number of those that were not written; or `None`.
    pub fn tell(&mut self, since_boot: Duration, detail: String) -> Option<String> {
        if !self.allowance.has(UnixTime(since_boot.as_secs())) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.allowance.take();
        Some(match std::mem::take(&mut self.untold) {
            0 => detail,
            count => format!("{detail} ({count} more changes of this kind were not written)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_written_at_a_rate_and_counted() {
        let mut ration = Ration::new();
        let start = Duration::from_secs(1_000_000);
        let mut tell = |seconds| ration.tell(start + Duration::from_secs(seconds), "x".into());
        let told = (0..100).filter_map(&mut tell).count();
        assert_eq!(told, 8);
        assert_eq!(tell(700), Some("x (92 more changes of this kind were not written)".into()));
        assert_eq!(tell(701), None);
    }
}
