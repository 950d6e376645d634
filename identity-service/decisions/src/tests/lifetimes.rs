//! Ten years of renewals under a clock of our own, with faults: a fleet that is away for weeks, a busy TPM, wall clocks
//! that jump, restarts, verdicts that fail and heal. After each step the promises are checked.
//!
//! The shell is imitated (`identityd`'s `renew_alone`, [`crate::enrolment`] `accept`); the machine that decides when,
//! and the time floor, are the real ones. Certificates are their validity, clipped as `edgewarden_ca` does it.

use std::collections::VecDeque;
use std::time::Duration;

use edgewarden_names::UnixTime;

use crate::clock::{Change, Known, Readings, TimeFloor, TimeKeeper};
use crate::renewal::{Failure, HeldCertificate, Parent, Plan, Renewal, Tick};

const HOUR: u64 = 3600;
const DAY: u64 = 86400;
const TEN_YEARS: u64 = 10 * 365 * DAY;
const START: u64 = 1_800_000_000;
const GATEWAY_CA_LIFE: u64 = 30 * DAY;
const BACKDATE: u64 = 60;
/// The shell looks again at the latest after it. Longer than the real one, for speed: that makes the test harder.
const SLEEP_MAX: u64 = 600;
/// After a fault is over, things are right again within this time: the longest rest after failures, and the sleep.
const HEALED_WITHIN: u64 = 375 + SLEEP_MAX + 60;
const IDENTITIES: usize = 3;

/// xorshift64: the seed is the whole story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }

    fn die(&mut self) -> u32 {
        u32::try_from(self.roll() >> 32).unwrap()
    }
}

/// One certificate's renewal and its tries lately.
struct Tracked {
    renewal: Renewal,
    tries: VecDeque<u64>,
}

impl Tracked {
    fn new(plan: Plan) -> Self {
        Self { renewal: Renewal::new(plan), tries: VecDeque::new() }
    }

    fn tried(&mut self, at: u64, limit: usize, name: &str) {
        self.tries.push_back(at);
        while self.tries.front().is_some_and(|first| first + HOUR <= at) {
            self.tries.pop_front();
        }
        assert!(self.tries.len() <= limit, "a storm of {} tries in an hour for {name}", self.tries.len());
    }
}

#[derive(Default)]
struct Counts {
    births: u64,
    issued: u64,
    failed: u64,
    refused_by_time: u64,
    restarts: u64,
}

struct Life {
    dice: Dice,
    svid_seconds: u64,
    ca_seconds: u64,
    /// Seconds since the beginning, as they really pass.
    passed: u64,
    booted: u64,
    /// Error of the wall clock.
    error: i64,
    floor: TimeFloor,
    keeper: Option<TimeKeeper>,
    fleet_back: u64,
    tpm_back: u64,
    verdict_failed: bool,
    gateway_ca: Option<Parent>,
    issuing: Tracked,
    issuing_ca: Option<Parent>,
    identities: Vec<Tracked>,
    /// Under this issuing CA the last identity cannot be issued.
    hopeless_under: Option<u64>,
    /// Time at which something outside of the machine's power changed last.
    disturbed: u64,
    jumps: VecDeque<u64>,
    counts: Counts,
}

impl Life {
    fn new(seed: u64, svid_life: u64, ca_life: u64) -> Self {
        let longest = Duration::from_secs(svid_life.max(7 * DAY).min(ca_life / 2));
        Self {
            dice: Dice(seed),
            svid_seconds: svid_life,
            ca_seconds: ca_life,
            passed: 0,
            booted: 0,
            error: 0,
            floor: TimeFloor::default(),
            keeper: None,
            fleet_back: 0,
            tpm_back: 0,
            verdict_failed: false,
            gateway_ca: None,
            issuing: Tracked::new(Plan::Issuer { longest }),
            issuing_ca: None,
            identities: (0..IDENTITIES).map(|_| Tracked::new(Plan::HalfLife)).collect(),
            hopeless_under: None,
            disturbed: 0,
            jumps: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    fn truth(&self) -> UnixTime {
        UnixTime(START + self.passed)
    }

    fn wall(&self) -> UnixTime {
        UnixTime(self.truth().0.saturating_add_signed(self.error))
    }

    fn tick(&self) -> Tick {
        Tick { monotonic: Duration::from_secs(self.passed - self.booted), wall: self.believed() }
    }

    fn readings(&self) -> Readings {
        let millis = |seconds: u64| i64::try_from(seconds).unwrap() * 1000;
        let boot = millis(self.passed - self.booted);
        // A time service keeps the clock while it is right.
        Readings { boot, wall: millis(self.wall().0), synchronised: self.error == 0, hardware: None }
    }

    fn known(&self) -> Known {
        let TimeFloor { floor, signed, .. } = self.floor;
        Known { enrolled: self.gateway_ca.is_some(), floor, signed }
    }

    fn believed(&self) -> UnixTime {
        let keeper = self.keeper.as_ref();
        keeper.map_or(self.wall(), |keeper| crate::clock::at(self.readings().boot + keeper.offset()))
    }

    fn look(&mut self) {
        let (seen, known) = (self.readings(), self.known());
        let keeper = self.keeper.get_or_insert_with(|| TimeKeeper::start(&seen, &known, None));
        let changes = keeper.look(&seen, &known);
        if changes.iter().any(|change| matches!(change, Change::Believed { .. })) {
            self.floor = self.floor.believed(self.believed(), None);
            self.disturbed = self.passed;
            self.jumps.push_back(self.passed);
        }
    }

    fn trusted(&self) -> bool {
        self.gateway_ca.is_some() && !self.verdict_failed
    }

    /// The fleet is asked each hour; it certifies anew after half of the life, and heals a failed verdict.
    fn ask_fleet(&mut self) {
        if self.passed < self.fleet_back || self.passed < self.tpm_back {
            return;
        }
        let now = self.truth().0;
        let fresh = self.gateway_ca.is_some_and(|held| now < held.not_before.0 + GATEWAY_CA_LIFE / 2);
        if fresh && !self.verdict_failed {
            return;
        }
        let not_before = UnixTime(now - HOUR);
        let not_after = UnixTime(now + GATEWAY_CA_LIFE);
        let accepts = |at: UnixTime| not_before <= at && at < not_after;
        if !accepts(self.tick().wall) {
            self.counts.refused_by_time += 1;
            return;
        }
        let generation = self.gateway_ca.map_or(1, |held| held.generation + 1);
        self.gateway_ca = Some(Parent { generation, not_before, not_after });
        self.floor = self.floor.signed(not_before);
        self.verdict_failed = false;
        self.disturbed = self.passed;
    }

    fn raise_floor(&mut self) {
        if let Some(held) = self.gateway_ca
            && let Some(raised) = self.floor.raised(self.believed(), held.not_after)
        {
            self.floor = raised;
        }
    }

    /// Causes one of the faults, about once in some days each.
    fn fault(&mut self) {
        let hours = |dice: &mut Dice, max| (1 + dice.below(max)) * HOUR;
        match self.dice.below(24 * 60) {
            0 => self.fleet_back = self.passed + hours(&mut self.dice, 6 * 7 * 24),
            1..=4 => self.tpm_back = self.passed + hours(&mut self.dice, 3),
            5..=7 => self.jump(true),
            8..=10 => self.jump(false),
            11..=14 => self.restart(),
            15 => {
                self.verdict_failed = true;
                self.withdraw();
            }
            16 => self.hopeless_under = self.issuing_ca.map(|held| held.generation),
            // The time service sets the clock right again.
            17..=60 if self.error != 0 => {
                self.error = 0;
                self.jumped();
            }
            _ => return,
        }
        self.disturbed = self.passed;
    }

    fn jump(&mut self, ahead: bool) {
        let far = [60, 2 * HOUR, 2 * DAY, 40 * DAY][usize::try_from(self.dice.below(4)).unwrap()];
        let far = i64::try_from(self.dice.below(far)).unwrap();
        self.error = if ahead { self.error + far } else { self.error - far };
        self.jumped();
    }

    fn jumped(&mut self) {
        self.jumps.push_back(self.passed);
        self.disturbed = self.passed;
    }

    fn restart(&mut self) {
        self.booted = self.passed;
        self.keeper = None;
        self.issuing.renewal = Renewal::new(self.plan());
        self.issuing_ca = None;
        for identity in &mut self.identities {
            identity.renewal = Renewal::new(Plan::HalfLife);
        }
        self.counts.restarts += 1;
    }

    fn plan(&self) -> Plan {
        Plan::Issuer { longest: Duration::from_secs(self.svid_seconds.max(7 * DAY).min(self.ca_seconds / 2)) }
    }

    fn withdraw(&mut self) {
        self.issuing.renewal.withdraw();
        self.issuing_ca = None;
        for identity in &mut self.identities {
            identity.renewal.withdraw();
        }
    }

    /// The service's work when it is woken.
    fn renew(&mut self) {
        let tick = self.tick();
        for identity in &mut self.identities {
            if identity.renewal.has_expired(tick.wall) {
                identity.renewal.withdraw();
            }
        }
        let Some(gateway_ca) = self.gateway_ca.filter(|_| !self.verdict_failed) else { return };
        if gateway_ca.not_after <= tick.wall {
            return;
        }
        while self.jumps.front().is_some_and(|jump| jump + HOUR <= self.passed) {
            self.jumps.pop_front();
        }
        // A jump brings two tries at most: one to it, and one back.
        let extra = 2 * self.jumps.len() + 4;
        if self.issuing.renewal.wants(tick, &gateway_ca) {
            self.issuing.tried(self.passed, 20 + extra, "the issuing CA");
            if self.passed < self.tpm_back {
                self.issuing.renewal.failed(tick, gateway_ca.generation, Failure::Transient, self.dice.die());
                self.counts.failed += 1;
            } else {
                let held = certificate(&gateway_ca, tick.wall, self.ca_seconds);
                self.issuing.renewal.issued(tick, held, self.dice.die());
                let generation = (self.counts.restarts << 32) + self.issuing.renewal.generation();
                self.issuing_ca =
                    Some(Parent { generation, not_before: held.not_before, not_after: held.not_after });
                self.counts.births += 1;
            }
        }
        let Some(issuing_ca) = self.issuing_ca else { return };
        for (n, identity) in self.identities.iter_mut().enumerate() {
            if !identity.renewal.wants(tick, &issuing_ca) {
                continue;
            }
            if n == IDENTITIES - 1 && self.hopeless_under == Some(issuing_ca.generation) {
                identity.tried(self.passed, 60 + extra, "one that cannot be");
                identity.renewal.failed(tick, issuing_ca.generation, Failure::Fatal, self.dice.die());
                self.counts.failed += 1;
                continue;
            }
            identity.tried(self.passed, 60 + extra, "an identity");
            let held = certificate(&issuing_ca, tick.wall, self.svid_seconds);
            assert!(held.not_after <= gateway_ca.not_after.max(issuing_ca.not_after));
            identity.renewal.issued(tick, held, self.dice.die());
            self.counts.issued += 1;
        }
    }

    fn check(&self) {
        let now = self.tick().wall;
        for identity in &self.identities {
            assert!(!identity.renewal.has_expired(now), "an expired certificate is in use");
            assert!(identity.renewal.held().is_none() || self.trusted(), "in use without trust");
        }
        let settled = self.passed >= self.disturbed + HEALED_WITHIN
            && self.passed >= self.tpm_back + HEALED_WITHIN
            && self.trusted();
        let issuer = self.gateway_ca.is_some_and(|held| held.not_before <= now && now < held.not_after);
        if !settled || !issuer {
            return;
        }
        let issuing_ca = self.issuing_ca.unwrap();
        for (n, identity) in self.identities.iter().enumerate() {
            if n == IDENTITIES - 1 && self.hopeless_under == Some(issuing_ca.generation) {
                continue;
            }
            let held = identity.renewal.held().unwrap_or_else(|| panic!("no certificate for identity {n}"));
            assert!(now < held.not_after, "identity {n} has none that is valid");
            assert!(held.not_before.0 <= now.0 + 5, "identity {n} has one of the future");
        }
    }

    fn wake(&self) -> u64 {
        let tick = self.tick();
        let identities = self.identities.iter();
        let identities = identities.filter_map(|one| one.renewal.wake(tick, self.issuing_ca.as_ref()));
        let wake = identities.chain(self.issuing.renewal.wake(tick, self.gateway_ca.as_ref())).min();
        wake.map_or(SLEEP_MAX, |wake| wake.as_secs() + u64::from(wake.subsec_nanos() > 0)).clamp(1, SLEEP_MAX)
    }

    fn live(mut self, length: u64) -> Counts {
        let mut hour = 0;
        while self.passed < length {
            while hour <= self.passed {
                self.ask_fleet();
                self.fault();
                hour += HOUR;
            }
            self.look();
            self.raise_floor();
            self.renew();
            self.check();
            let next = self.wake().min(hour - self.passed);
            self.passed += next;
        }
        self.counts
    }
}

/// As `edgewarden_ca` clips a child: within its parent.
fn certificate(parent: &Parent, now: UnixTime, life: u64) -> HeldCertificate {
    let held = HeldCertificate {
        parent: parent.generation,
        not_before: UnixTime((now.0 - BACKDATE).max(parent.not_before.0)),
        not_after: UnixTime((now.0 + life).min(parent.not_after.0)),
    };
    assert!(held.not_before <= now && now < held.not_after, "a certificate that is not valid now");
    assert!(
        held.not_after <= parent.not_after && parent.not_before <= held.not_before,
        "it outlives its parent"
    );
    held
}

#[test]
fn ten_years_of_renewals_with_faults() {
    for (seed, svid_life, ca_life, length) in [
        (0x00ed_9e3a, 3600, 8 * DAY, TEN_YEARS),
        (7, 3600, 60 * DAY, TEN_YEARS / 5),
        (2_026, 1800, DAY, TEN_YEARS / 5),
    ] {
        let counts = Life::new(seed, svid_life, ca_life).live(length);
        assert!(counts.issued > 3 * length / HOUR / 2, "{} certificates", counts.issued);
        assert!(counts.births > 50 && counts.failed > 20 && counts.restarts > 10, "{}", counts.births);
        assert!(counts.refused_by_time > 0, "the fleet's word was once refused for a wrong clock");
    }
}
