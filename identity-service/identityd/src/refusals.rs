//! What was refused lately: for status, and for the audit log at a rate that a peer cannot drive up.

use std::collections::VecDeque;

use edgewarden_names::{Refusal, UnixTime};

use crate::audit::clip;

/// Refusals that status shows.
const SHOWN_MAX: usize = 32;
/// The same refusal is written once in this time.
const REPEAT_SECONDS: u64 = 60;
/// Entries that may be written at once, and then one more each second.
const BURST_MAX: u64 = 60;

#[derive(Debug)]
pub struct RefusalLog {
    shown: VecDeque<(UnixTime, Refusal)>,
    tokens: u64,
    filled: UnixTime,
    suppressed: u64,
}

/// Whether to write a refusal to the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// Write it; so many were not written since the last one that was.
    Write {
        suppressed: u64,
    },
    Suppressed,
}

impl RefusalLog {
    pub fn new(now: UnixTime) -> Self {
        Self { shown: VecDeque::new(), tokens: BURST_MAX, filled: now, suppressed: 0 }
    }

    /// Takes a refusal in, with its text bounded.
    pub fn note(&mut self, now: UnixTime, refusal: &Refusal) -> Noted {
        let refusal =
            Refusal { reason: refusal.reason, subject: clip(&refusal.subject), rule: clip(&refusal.rule) };
        let repeated = self.shown.iter().any(|(at, shown)| {
            *shown == refusal && now.0.saturating_sub(at.0) < REPEAT_SECONDS && *at <= now
        });
        self.tokens = self.tokens.saturating_add(now.0.saturating_sub(self.filled.0)).min(BURST_MAX);
        self.filled = now;
        if repeated || self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return Noted::Suppressed;
        }
        if self.shown.len() >= SHOWN_MAX {
            self.shown.pop_front();
        }
        self.shown.push_back((now, refusal));
        self.tokens = self.tokens.saturating_sub(1);
        Noted::Write { suppressed: std::mem::take(&mut self.suppressed) }
    }

    /// Oldest first.
    pub fn shown(&self) -> Vec<(UnixTime, Refusal)> {
        self.shown.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::Reason;

    fn refusal(subject: &str) -> Refusal {
        Refusal::new(Reason::PolicyDenied, subject, "no rule allows it")
    }

    #[test]
    fn repetition_is_counted_and_not_written() {
        let mut log = RefusalLog::new(UnixTime(100));
        for (at, subject, expected) in [
            (100, "a", Noted::Write { suppressed: 0 }),
            (100, "a", Noted::Suppressed),
            (159, "a", Noted::Suppressed),
            (159, "b", Noted::Write { suppressed: 2 }),
            (160, "a", Noted::Write { suppressed: 0 }),
            // The clock went back: better twice than not at all.
            (10, "b", Noted::Write { suppressed: 0 }),
        ] {
            assert_eq!(log.note(UnixTime(at), &refusal(subject)), expected, "{at} {subject}");
        }
    }

    #[test]
    fn a_flood_is_written_at_a_bounded_rate() {
        let mut log = RefusalLog::new(UnixTime(0));
        let written = |log: &mut RefusalLog, at: u64| {
            (0..1000)
                .filter(|n| log.note(UnixTime(at), &refusal(&format!("{at} {n}"))) != Noted::Suppressed)
                .count()
        };
        assert_eq!(written(&mut log, 0), 60);
        assert_eq!(written(&mut log, 1), 1);
        assert_eq!(written(&mut log, 11), 10);
        assert_eq!(written(&mut log, 1000), 60);
        assert_eq!(log.shown().len(), SHOWN_MAX);
    }
}
