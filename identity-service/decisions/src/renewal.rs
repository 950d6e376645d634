//! Renewal of one certificate: a state machine without clock, disk or key.
//!
//! Two clocks count. The monotonic one measures: how long until renewal, how long to rest after a try. The wall clock
//! judges: what has expired, what is not valid yet. A wall clock that jumps can bring a renewal forward and never puts
//! it off. Whoever drives this asks again when a certificate, its issuer or the wall clock has changed, and at the
//! latest after [`Renewal::wake`].
//!
//! A try that failed leaves the held certificate in use until it expires. A failure that repetition cannot heal is not
//! repeated before its cause can have changed (another issuer), or an hour has passed.

use std::time::Duration;

use edgewarden_names::UnixTime;

/// The first rest after a failed try; it doubles up to the longest.
const BACKOFF_MIN: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Rest after a failure that repetition cannot heal, while its cause stays the same.
const FATAL_REST: Duration = Duration::from_secs(3600);
/// The least and the longest rest after a good try; between them, a twentieth of the certificate's life.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);
/// Issuers may reach back less far than a wall clock that was set back a little; that is no reason for another.
const NOT_YET_VALID_SLACK: Duration = Duration::from_secs(5);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Since the machine was switched on.
    pub monotonic: Duration,
    /// As believed ([`crate::clock`]).
    pub wall: UnixTime,
}

/// The issuer as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Another number for another certificate.
    pub generation: u64,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

impl Parent {
    fn can_sign(&self, wall: UnixTime) -> bool {
        self.not_before <= wall && wall < self.not_after
    }
}

/// Rule for the time of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// At half of life, give or take a tenth, so that instances do not renew in step.
    HalfLife,
    /// A CA: while it can still sign what lives `longest`, and at once when its own issuer is another. At the earliest
    /// after a sixteenth of its life, however short that is compared with `longest`.
    Issuer { longest: Duration },
}

/// Validity of a certificate, and the generation of the issuer that signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldCertificate {
    pub parent: u64,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

/// Kind of a failed try, which decides on the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It may heal by itself: a busy chip, an issuer that is not valid yet.
    Transient,
    /// The same again would fail again.
    Fatal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    monotonic: Duration,
    wall: UnixTime,
}

/// One identity's certificate over time.
#[derive(Debug, Clone)]
pub struct Renewal {
    plan: Plan,
    held: Option<HeldCertificate>,
    /// Counts certificates.
    generation: u64,
    due: Option<Due>,
    forced: bool,
    /// No renewal before, unless forced or without a valid certificate.
    rest_until: Duration,
    /// After a failure: no try before, unless forced.
    retry_at: Duration,
    failures: u32,
    /// The issuer under which trying again is in vain.
    in_vain: Option<u64>,
}

impl Renewal {
    /// Without a certificate.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            held: None,
            generation: 0,
            due: None,
            forced: false,
            rest_until: Duration::ZERO,
            retry_at: Duration::ZERO,
            failures: 0,
            in_vain: None,
        }
    }

    /// The certificate in use.
    pub fn held(&self) -> Option<&HeldCertificate> {
        self.held.as_ref()
    }

    /// Number of certificates so far.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Wants a certificate at the next opportunity, whatever is held and whatever failed before.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// The certificate is out of use.
    pub fn withdraw(&mut self) {
        self.held = None;
        self.due = None;
    }

    /// True when the held certificate has expired and must not be in use any more.
    pub fn has_expired(&self, wall: UnixTime) -> bool {
        self.held.is_some_and(|held| held.not_after <= wall)
    }

    /// Should a certificate be made now?
    pub fn wants(&self, tick: Tick, parent: &Parent) -> bool {
        if !parent.can_sign(tick.wall) {
            return false;
        }
        if self.forced {
            return true;
        }
        if self.retry_at > tick.monotonic && self.in_vain.is_none_or(|issuer| issuer == parent.generation) {
            return false;
        }
        let Some(held) = self.held.filter(|held| tick.wall < held.not_after) else { return true };
        if held.not_before > tick.wall.plus(NOT_YET_VALID_SLACK) {
            return true;
        }
        let same_parent = held.parent == parent.generation;
        if matches!(self.plan, Plan::Issuer { .. }) && !same_parent {
            return true;
        }
        // Another one would end with the same issuer, not later.
        if same_parent && held.not_after >= parent.not_after {
            return false;
        }
        let due = self.due.is_none_or(|due| due.monotonic <= tick.monotonic || due.wall <= tick.wall);
        due && self.rest_until <= tick.monotonic
    }

    /// A certificate was made. `jitter` is any random number.
    pub fn issued(&mut self, tick: Tick, held: HeldCertificate, jitter: u32) {
        let life = held.not_after.after(tick.wall);
        let wait = match self.plan {
            Plan::HalfLife => percent(life, 40_u32.saturating_add(jitter % 21)),
            Plan::Issuer { longest } => life.saturating_sub(longest).max(life / 16),
        };
        self.held = Some(held);
        self.generation = self.generation.saturating_add(1);
        self.due = Some(Due { monotonic: tick.monotonic.saturating_add(wait), wall: tick.wall.plus(wait) });
        self.forced = false;
        self.failures = 0;
        self.in_vain = None;
        self.retry_at = Duration::ZERO;
        self.rest_until = tick.monotonic.saturating_add((life / 20).clamp(REST_MIN, REST_MAX));
    }

    /// A try failed, under this issuer.
    pub fn failed(&mut self, tick: Tick, parent: u64, failure: Failure, jitter: u32) {
        self.forced = false;
        self.failures = self.failures.saturating_add(1);
        let rest = match failure {
            Failure::Transient => {
                let doublings = self.failures.saturating_sub(1).min(16);
                BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX)
            }
            Failure::Fatal => FATAL_REST,
        };
        self.in_vain = (failure == Failure::Fatal).then_some(parent);
        self.retry_at = tick.monotonic.saturating_add(percent(rest, 75_u32.saturating_add(jitter % 51)));
    }

    /// Time until the latest next look, if nothing changes meanwhile; `None`: only a change can matter.
    pub fn wake(&self, tick: Tick, parent: Option<&Parent>) -> Option<Duration> {
        let expiry = self.held.map(|held| held.not_after.after(tick.wall));
        let Some(parent) = parent.filter(|parent| parent.can_sign(tick.wall)) else { return expiry };
        if self.forced {
            return Some(Duration::ZERO);
        }
        let resting = self.retry_at.saturating_sub(tick.monotonic);
        let Some(held) = self.held else { return Some(resting) };
        if held.parent == parent.generation && held.not_after >= parent.not_after {
            return expiry;
        }
        let due = self.due.map_or(Duration::ZERO, |due| {
            due.monotonic.saturating_sub(tick.monotonic).min(due.wall.after(tick.wall))
        });
        let rested = resting.max(self.rest_until.saturating_sub(tick.monotonic));
        Some(due.max(rested).min(held.not_after.after(tick.wall)))
    }
}

fn percent(of: Duration, percent: u32) -> Duration {
    of.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic: u64, wall: u64) -> Tick {
        Tick { monotonic: Duration::from_secs(monotonic), wall: UnixTime(wall) }
    }

    fn parent(generation: u64, not_after: u64) -> Parent {
        Parent { generation, not_before: UnixTime(1_000), not_after: UnixTime(not_after) }
    }

    fn held(parent: u64, not_before: u64, not_after: u64) -> HeldCertificate {
        HeldCertificate { parent, not_before: UnixTime(not_before), not_after: UnixTime(not_after) }
    }

    #[test]
    fn renewal_is_at_half_of_life_give_or_take_a_tenth() {
        let issuer = parent(1, 1_000_000);
        let mut seen = std::collections::BTreeSet::new();
        for jitter in 0..1000 {
            let mut renewal = Renewal::new(Plan::HalfLife);
            renewal.issued(at(0, 2_000), held(1, 1_940, 3_000), jitter);
            let due = (0..1000).find(|after| renewal.wants(at(*after, 2_000 + after), &issuer)).unwrap();
            assert!((400..=600).contains(&due), "{due}");
            assert_eq!(renewal.wake(at(0, 2_000), Some(&issuer)), Some(Duration::from_secs(due)));
            assert_eq!(renewal.wake(at(0, 2_000), None), Some(Duration::from_secs(1000)));
            seen.insert(due);
        }
        assert_eq!(seen.len(), 21, "every step is used");
    }

    #[test]
    fn either_clock_brings_a_renewal_and_neither_puts_it_off() {
        let issuer = parent(1, 1_000_000);
        let mut renewal = Renewal::new(Plan::HalfLife);
        renewal.issued(at(0, 50_000), held(1, 49_940, 53_600), 10);
        for (name, tick, expected) in [
            ("early", at(100, 50_100), false),
            ("in time", at(1_800, 51_800), true),
            ("the wall clock leapt", at(100, 52_000), true),
            ("the wall clock stood still", at(1_800, 50_000), true),
            ("the wall clock went back a little", at(100, 49_936), false),
            ("the wall clock went back before its beginning", at(100, 49_000), true),
            ("it leapt past the end, while resting", at(2, 60_000), true),
            ("the issuer is not valid yet", at(1_800, 999), false),
            ("the issuer is no longer valid", at(1_800, 1_000_000), false),
        ] {
            assert_eq!(renewal.wants(tick, &issuer), expected, "{name}");
        }
        // No use: the next would end with the same issuer.
        assert!(!renewal.wants(at(1_800, 51_800), &parent(1, 53_600)));
        assert!(renewal.wants(at(1_800, 51_800), &parent(2, 53_600)));
    }

    #[test]
    fn failures_rest_longer_each_time_and_hopeless_ones_until_the_issuer_is_another() {
        let issuer = parent(1, 1_000_000);
        let mut renewal = Renewal::new(Plan::HalfLife);
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..9 {
            renewal.failed(at(now, 2_000), 1, Failure::Transient, 25);
            let rest = (0..1000).find(|rest| renewal.wants(at(now + rest, 2_000), &issuer)).unwrap();
            rests.push(rest);
            now += rest;
        }
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        renewal.failed(at(now, 2_000), 1, Failure::Fatal, 25);
        assert!(!renewal.wants(at(now + 3_599, 2_000), &issuer));
        assert!(renewal.wants(at(now + 3_600, 2_000), &issuer));
        assert!(renewal.wants(at(now, 2_000), &parent(2, 1_000_000)), "the cause can have changed");
        renewal.force();
        assert!(renewal.wants(at(now, 2_000), &issuer), "somebody asked for it");
        renewal.failed(at(now, 2_000), 1, Failure::Fatal, 25);
        assert!(!renewal.wants(at(now, 2_000), &issuer), "one try for one request");
    }

    #[test]
    fn a_ca_follows_its_issuer_and_its_children() {
        let mut renewal = Renewal::new(Plan::Issuer { longest: Duration::from_secs(700) });
        renewal.issued(at(0, 2_000), held(1, 1_940, 2_800), 0);
        let issuer = parent(1, 1_000_000);
        assert!(!renewal.wants(at(99, 2_099), &issuer));
        assert!(renewal.wants(at(100, 2_100), &issuer), "it could not sign for 700 seconds any more");
        assert!(renewal.wants(at(10, 2_010), &parent(2, 1_000_000)), "its issuer is another");
        assert!(!renewal.wants(at(100, 2_100), &parent(1, 2_800)), "a new one would live no longer");
        let mut short = Renewal::new(Plan::Issuer { longest: Duration::from_secs(700) });
        short.issued(at(0, 2_000), held(1, 1_940, 2_160), 0);
        assert!(!short.wants(at(9, 2_009), &issuer), "however short, it is not renewed without rest");
        assert!(short.wants(at(10, 2_010), &issuer));
    }
}
