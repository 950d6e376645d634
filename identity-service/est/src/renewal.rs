//! Times of asking for a certificate (RFC 7030 section 4.2.2). A state machine without clock, randomness or I/O of its
//! own: the wall clock comes with each call, and may jump either way.
//!
//! * The certificate that is held stays held until a checked one replaces it, whatever fails, and whatever the clock says.
//! * Asking begins at two thirds of a life, spread by jitter so that a fleet does not ask at one moment.
//! * What may pass is asked again with backoff; what somebody must change first is asked again rarely, and at once when
//!   [`Renewal::cause_changed`]. The nearer the end, the oftener, down to the first pause of the backoff.
//! * Pauses are short slices of a monotonic wait ([`RECHECK_MAX`]), so a jump of the wall clock is noticed soon.

use std::time::Duration;

use edgewarden_names::{Backoff, Refusal, UnixTime};

use crate::{EnrolledChain, EstError, Severity};

/// Longest [`Action::Wait`].
pub const RECHECK_MAX: Duration = Duration::from_secs(15 * 60);

/// Begin and pauses of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalPolicy {
    /// Percentage of a life that passes before renewal begins: 10 to 90.
    pub begin_percent: u8,
    /// First pause after a failure, doubled each time; also the least time between any two askings.
    pub pause_first: Duration,
    pub pause_max: Duration,
    /// Pause after a failure that somebody must do something about.
    pub pause_fatal: Duration,
}

impl Default for RenewalPolicy {
    fn default() -> Self {
        Self {
            begin_percent: 66,
            pause_first: Duration::from_secs(30),
            pause_max: Duration::from_secs(3600),
            pause_fatal: Duration::from_secs(6 * 3600),
        }
    }
}

impl RenewalPolicy {
    /// `true` when each value is in its range: 10 to 90 percent; 1 s ≤ first ≤ longest ≤ fatal ≤ 7 days.
    pub fn is_sound(&self) -> bool {
        (10..=90).contains(&self.begin_percent)
            && self.pause_first >= Duration::from_secs(1)
            && self.pause_first <= self.pause_max
            && self.pause_max <= self.pause_fatal
            && self.pause_fatal <= Duration::from_secs(7 * 24 * 3600)
    }
}

/// The caller's next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sleep so long by a monotonic clock, then call [`Renewal::next`] again. Never longer than [`RECHECK_MAX`].
    Wait(Duration),
    /// Ask for a first certificate, with the bootstrap credentials: none is held, or it is not valid now.
    Enroll,
    /// Ask to renew the certificate that is held.
    Reenroll,
}

/// The life of the certificate that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

impl Life {
    /// `true` from the begin to the end, both included.
    pub fn contains(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl From<&EnrolledChain> for Life {
    fn from(chain: &EnrolledChain) -> Self {
        Self { not_before: chain.not_before(), not_after: chain.not_after() }
    }
}

/// Validity of a certificate, and the time of its renewal.
#[derive(Debug, Clone, Copy)]
struct HeldCertificate {
    life: Life,
    renew_at: UnixTime,
}

/// Nothing is asked before `length` has passed since `from`.
#[derive(Debug, Clone, Copy)]
struct Pause {
    from: UnixTime,
    length: Duration,
}

/// The last failure; it stays until an asking succeeds, or none is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub at: UnixTime,
    pub severity: Severity,
    pub refusal: Refusal,
    /// Failures in a row, this one included.
    pub failures: u32,
}

/// The renewal of one certificate. Its owner calls [`Renewal::next`], carries out the action, and says how it went.
#[derive(Debug)]
pub struct Renewal {
    policy: RenewalPolicy,
    held: Option<HeldCertificate>,
    pause: Option<Pause>,
    trouble: Option<Trouble>,
    dice: Dice,
}

impl Renewal {
    /// `held` is the life of a certificate that was kept and is verified, `seed` is random: it spreads gateways that
    /// started at one moment. A policy out of range is replaced by the default one.
    pub fn new(policy: RenewalPolicy, held: Option<Life>, seed: u64) -> Self {
        let policy = if policy.is_sound() { policy } else { RenewalPolicy::default() };
        let mut renewal = Self { policy, held: None, pause: None, trouble: None, dice: Dice(seed) };
        renewal.held = held.map(|life| renewal.hold(life, life.not_before));
        renewal
    }

    /// The action at `now`. Calling it again without an outcome gives the same answer.
    pub fn next(&mut self, now: UnixTime) -> Action {
        if let Some(pause) = &mut self.pause {
            // The clock went back: what is left cannot be known, so the pause begins again.
            pause.from = pause.from.min(now);
            let left = pause.length.saturating_sub(now.after(pause.from));
            if !left.is_zero() {
                return Action::Wait(left.min(RECHECK_MAX));
            }
            self.pause = None;
        }
        match &self.held {
            Some(held) if held.life.contains(now) => {
                let left = held.renew_at.after(now);
                if left.is_zero() {
                    return Action::Reenroll;
                }
                // Nothing is due: what went wrong was the clock, and it has been put right.
                self.trouble = None;
                Action::Wait(left.min(RECHECK_MAX))
            }
            _ => Action::Enroll,
        }
    }

    /// A checked certificate is held from now on.
    pub fn succeeded(&mut self, life: Life, now: UnixTime) {
        // From now on, not from its beginning: one that was dated back by much would be renewed at once, for ever.
        self.held = Some(self.hold(life, life.not_before.max(now)));
        self.trouble = None;
        self.pause = Some(Pause { from: now, length: self.policy.pause_first });
    }

    /// An asking failed. The certificate that is held stays.
    pub fn failed(&mut self, error: &EstError, now: UnixTime) {
        let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures).saturating_add(1);
        let length = match error.severity {
            Severity::Fatal => self.dice.upper_half(self.policy.pause_fatal),
            Severity::Transient { retry_after } => {
                let backoff = Backoff::new(self.policy.pause_first, self.policy.pause_max);
                self.dice.upper_half(backoff.after(failures)).max(retry_after.unwrap_or_default())
            }
        };
        self.rest(length, now);
        let refusal = error.refusal.clone();
        self.trouble = Some(Trouble { at: now, severity: error.severity, refusal, failures });
    }

    /// The CA has not decided: the same request again after a while. Not a failure.
    pub fn pending(&mut self, after: Duration, now: UnixTime) {
        self.rest(after, now);
    }

    /// Ends the pause: what stood in the way may be gone, by a new configuration, new anchors, an operator who says so.
    pub fn cause_changed(&mut self) {
        self.pause = None;
    }

    /// The last failure, while it stands.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Validity of the certificate that is held.
    pub fn held(&self) -> Option<Life> {
        self.held.map(|held| held.life)
    }

    /// `true` while the certificate that is held is valid at `now`. Service stops when it is not.
    pub fn is_usable(&self, now: UnixTime) -> bool {
        self.held.is_some_and(|held| held.life.contains(now))
    }

    fn hold(&mut self, life: Life, from: UnixTime) -> HeldCertificate {
        let length = life.not_after.0.saturating_sub(from.0);
        let begin = length / 100 * u64::from(self.policy.begin_percent);
        // Earlier by up to a tenth.
        let jitter = self.dice.below(length / 10);
        HeldCertificate { life, renew_at: UnixTime(from.0.saturating_add(begin.saturating_sub(jitter))) }
    }

    /// Pauses for `length`; but for not more than a quarter of what is left of a valid certificate, lest it ends
    /// while we wait, and never for less than the first pause.
    fn rest(&mut self, length: Duration, now: UnixTime) {
        let least = self.policy.pause_first;
        let length = match &self.held {
            Some(held) if held.life.contains(now) => length.min(held.life.not_after.after(now) / 4),
            _ => length,
        };
        self.pause = Some(Pause { from: now, length: length.max(least) });
    }
}

/// SplitMix64: even enough to spread askings, and a test can repeat it. Nothing secret hangs on it.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll().checked_rem(end).unwrap_or(0)
    }

    /// Between half of `length` and all of it.
    fn upper_half(&mut self, length: Duration) -> Duration {
        let half = length / 2;
        let milliseconds = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
        half.saturating_add(Duration::from_millis(self.below(milliseconds.saturating_add(1))))
    }
}
