//! What was refused lately: for status, and for the audit log at a rate that a peer cannot drive up.

use std::collections::{HashMap, VecDeque};

use edgewarden_names::{Refusal, UnixTime};

use crate::audit::clip;

/// Refusals that status shows.
const SHOWN_MAX: usize = 32;
/// The same refusal is written once in this time.
const REPEAT_SECONDS: u64 = 60;
/// Entries that may be written at once, and how long it takes until there is one more. The log is a few files that go
/// round: what peers can put into it in a week must not be all that is in it.
const BURST_MAX: u64 = 60;
const INTERVAL_SECONDS: u64 = 30;
/// The same for one subject, so that a noisy one does not keep others' refusals out.
const SUBJECT_BURST_MAX: u64 = 16;
const SUBJECT_INTERVAL_SECONDS: u64 = 300;
/// Subjects that are told apart. Those who have not been refused for longest are forgotten.
const SUBJECTS_MAX: usize = 256;

#[derive(Debug)]
pub struct RefusalLog {
    shown: VecDeque<(UnixTime, Refusal)>,
    all: Allowance,
    subjects: HashMap<String, Allowance>,
    suppressed: u64,
}

/// A token bucket by the wall clock; a clock that goes back gives nothing.
#[derive(Debug)]
struct Allowance {
    left: u64,
    most: u64,
    interval: u64,
    filled: UnixTime,
}

impl Allowance {
    fn new(most: u64, interval: u64, now: UnixTime) -> Self {
        Self { left: most, most, interval, filled: now }
    }

    fn has(&mut self, now: UnixTime) -> bool {
        let more = now.0.saturating_sub(self.filled.0) / self.interval.max(1);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(self.most);
            // What is left of an interval counts for the next.
            self.filled = UnixTime(self.filled.0.saturating_add(more.saturating_mul(self.interval)));
        } else if now < self.filled {
            self.filled = now;
        }
        self.left > 0
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
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
        let all = Allowance::new(BURST_MAX, INTERVAL_SECONDS, now);
        Self { shown: VecDeque::new(), all, subjects: HashMap::new(), suppressed: 0 }
    }

    /// Takes a refusal in, with its text bounded.
    pub fn note(&mut self, now: UnixTime, refusal: &Refusal) -> Noted {
        let refusal =
            Refusal { reason: refusal.reason, subject: clip(&refusal.subject), rule: clip(&refusal.rule) };
        let repeated = self.shown.iter().any(|(at, shown)| {
            *shown == refusal && now.0.saturating_sub(at.0) < REPEAT_SECONDS && *at <= now
        });
        if repeated || !self.take(now, &refusal.subject) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Noted::Suppressed;
        }
        if self.shown.len() >= SHOWN_MAX {
            self.shown.pop_front();
        }
        self.shown.push_back((now, refusal));
        Noted::Write { suppressed: std::mem::take(&mut self.suppressed) }
    }

    fn take(&mut self, now: UnixTime, subject: &str) -> bool {
        if !self.all.has(now) {
            return false;
        }
        if !self.subjects.contains_key(subject) {
            if self.subjects.len() >= SUBJECTS_MAX {
                let oldest = self.subjects.iter().min_by_key(|(_, allowance)| allowance.filled);
                if let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) {
                    self.subjects.remove(&oldest);
                }
            }
            let new = Allowance::new(SUBJECT_BURST_MAX, SUBJECT_INTERVAL_SECONDS, now);
            self.subjects.insert(subject.into(), new);
        }
        let Some(allowance) = self.subjects.get_mut(subject) else { return false };
        if !allowance.has(now) {
            return false;
        }
        allowance.take();
        self.all.take();
        true
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
        assert_eq!(written(&mut log, 29), 0);
        assert_eq!(written(&mut log, 30), 1);
        assert_eq!(written(&mut log, 359), 10);
        assert_eq!(written(&mut log, 360), 1);
        assert_eq!(written(&mut log, 10_000), 60);
        assert_eq!(log.shown().len(), SHOWN_MAX);
        assert!(log.subjects.len() <= SUBJECTS_MAX);
    }

    /// A process that is started anew for each refused call has another text each time.
    #[test]
    fn a_noisy_subject_keeps_nobody_elses_refusals_out_and_does_not_fill_the_log() {
        use crate::audit::folder::{FILE_BYTES_MAX, FILES_MAX};
        const ENTRY_BYTES: u64 = 1024;

        let mut log = RefusalLog::new(UnixTime(0));
        let week = 7 * 24 * 3600;
        let (mut noisy, mut others) = (0, 0);
        for at in (0..week).step_by(10) {
            for n in 0..20 {
                let rule = format!("process {at} {n} is none of the module's");
                let one = Refusal::new(Reason::CallerNotModule, "noisy-1", rule);
                noisy += u64::from(log.note(UnixTime(at), &one) != Noted::Suppressed);
            }
            if at % 3600 == 0 {
                others += u64::from(log.note(UnixTime(at), &refusal("quiet-1")) != Noted::Suppressed);
            }
        }
        assert_eq!(others, week / 3600);
        let held = FILE_BYTES_MAX * u64::try_from(FILES_MAX).unwrap();
        assert!(noisy > 1000 && noisy * ENTRY_BYTES < held / 2, "{noisy} entries");
    }
}
