//! Years of a machine whose clocks go wrong at random: leaps both ways, dead batteries, time services that come, go and
//! lie, a fleet that is away for weeks, kills and reboots. After each step the promises are checked.

use edgewarden_names::UnixTime;
use edgewarden_protocol::control::TimeBy;

use super::floor::{Belief, TimeFloor};
use super::keeper::{ALONE_FOR, Change, FLEET_FRESH, Known, NEAR, SERVICE_FOR, TimeKeeper, at};
use super::readings::Readings;

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;
const START: i64 = 1_800_000_000_000;
const LIFE: i64 = 400 * DAY;

/// xorshift64: the seed is the whole story.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn far(&mut self) -> i64 {
        let most =
            [10 * SECOND, HOUR, 3 * DAY, 60 * DAY, 3000 * DAY][usize::try_from(self.below(5)).unwrap()];
        let far = i64::try_from(self.below(u64::try_from(most).unwrap())).unwrap();
        if self.below(2) == 0 { far } else { -far }
    }
}

struct Machine {
    dice: Dice,
    truth: i64,
    booted: i64,
    boots: u64,
    /// Errors of the wall clock, and of the machine's own.
    wall: i64,
    battery: Option<i64>,
    service: bool,
    fleet: bool,
    keeper: TimeKeeper,
    disk: TimeFloor,
    /// Since when the wall clock has shown the same error, and every source that speaks has told the truth.
    wall_set: i64,
    honest: i64,
    counts: [u32; 8],
}

impl Machine {
    fn new(seed: u64) -> Self {
        let known = Known { enrolled: true, floor: at(START), signed: at(START) };
        let readings = Readings { boot: 1, wall: START, synchronised: false, hardware: None };
        Self {
            dice: Dice(seed),
            truth: START,
            booted: START - 1,
            boots: 1,
            wall: 0,
            battery: Some(0),
            service: false,
            fleet: false,
            keeper: TimeKeeper::start(&readings, &known, None),
            disk: TimeFloor::default().signed(at(START)),
            wall_set: START,
            honest: START,
            counts: [0; 8],
        }
    }

    fn seen(&self) -> Readings {
        Readings {
            boot: self.truth - self.booted,
            wall: (self.truth + self.wall).max(0),
            synchronised: self.service,
            hardware: self.battery.map(|error| (self.truth + error).max(0)),
        }
    }

    fn known(&self) -> Known {
        Known { enrolled: true, floor: self.disk.floor, signed: self.disk.signed }
    }

    fn now(&self) -> i64 {
        self.seen().boot + self.keeper.offset()
    }

    fn believed(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Believed { now, by, .. } = change {
                let belief =
                    Belief { boot: self.boots.to_string(), offset_millis: self.keeper.offset(), by: *by };
                self.disk = self.disk.believed(*now, Some(belief));
                self.counts[7] += 1;
            }
        }
    }

    fn look(&mut self) {
        let (seen, known) = (self.seen(), self.known());
        let before = self.now();
        let changes = self.keeper.look(&seen, &known);
        let moved = (self.now() - before).abs();
        let told = changes.iter().any(|change| matches!(change, Change::Believed { .. }));
        assert!(told || moved <= 2 * NEAR, "the time moved by {moved} without a word");
        self.believed(&changes);
        if let Some(raised) = self.disk.raised(at(self.now()), UnixTime(u64::MAX)) {
            self.disk = raised;
        }
    }

    fn hear(&mut self) {
        if self.fleet {
            let (seen, known) = (self.seen(), self.known());
            if let Ok(changes) = self.keeper.hear(self.truth - seen.boot, &seen, &known) {
                self.believed(&changes);
            }
        }
    }

    fn set_wall(&mut self, error: i64) {
        self.wall = error;
        self.wall_set = self.truth;
    }

    fn start(&mut self) {
        let (seen, known) = (self.seen(), self.known());
        let belief = self.disk.belief.clone().filter(|belief| belief.boot == self.boots.to_string());
        self.keeper = TimeKeeper::start(&seen, &known, belief.as_ref());
        // Words are not on disk.
        self.honest = self.truth;
    }

    fn event(&mut self) {
        let kind = self.dice.below(14);
        match kind {
            // A leap, and one that comes back at once.
            0 => {
                let far = self.dice.far();
                self.set_wall(far);
                // A service that kept the clock does not vouch for what somebody else sets.
                self.service = false;
            }
            1 => {
                let (before, service, offset) = (self.wall, self.service, self.keeper.offset());
                let floor = self.keeper.by() == TimeBy::Floor;
                let far = self.dice.far();
                let fleet = std::mem::replace(&mut self.fleet, false);
                self.set_wall(far);
                for _ in 0..15 {
                    self.truth += SECOND;
                    self.look();
                }
                let moved = (self.keeper.offset() - offset).abs();
                let right = (self.now() - self.truth).abs() <= 3 * NEAR;
                let leapt = (far - before).abs() > NEAR;
                assert!(
                    floor || right || !leapt || moved <= 2 * NEAR,
                    "15 seconds moved the time by {moved}"
                );
                self.fleet = fleet;
                self.set_wall(before);
                self.service = service;
            }
            // A time service sets the clock right, or goes.
            2..=4 => {
                self.set_wall(0);
                self.service = true;
            }
            5 => self.service = false,
            6 | 7 => self.fleet = true,
            8 => self.fleet = false,
            // kill -9.
            9 | 10 => self.start(),
            // A reboot: the wall clock comes from the battery.
            11 => {
                self.truth += HOUR;
                self.booted = self.truth - 5 * SECOND;
                self.boots += 1;
                self.service = false;
                if self.dice.below(4) == 0 {
                    self.battery =
                        [None, Some(0), Some(self.dice.far())][usize::try_from(self.dice.below(3)).unwrap()];
                }
                let wall = self.battery.map_or(-self.truth, |error| error);
                self.set_wall(wall);
                self.start();
            }
            // The fleet signs another certificate.
            12 if self.fleet => self.disk = self.disk.signed(at(self.truth - HOUR)),
            _ => {}
        }
        self.counts[usize::try_from(kind % 7).unwrap()] += 1;
        if self.service && self.wall.abs() > NEAR {
            self.honest = self.truth;
        }
    }

    fn check(&self) {
        let seen = self.seen();
        let now = self.now();
        let signed = i64::try_from(self.disk.signed.0).unwrap() * 1000;
        assert!(now + NEAR + SECOND >= signed, "the time is before what the fleet signed");
        assert!(self.disk.floor >= self.disk.signed);
        let stood = self.truth - self.wall_set;
        let error = (now - self.truth).abs();
        // Sources that tell the truth are believed in the end, whatever was before.
        if self.fleet && self.heard_for() > 2 * HOUR {
            assert!(error <= 3 * NEAR, "the fleet says the truth, and the time is wrong by {error}");
        }
        let contradicted = self.fleet || stood < FLEET_FRESH;
        if self.service && self.wall == 0 && stood > FLEET_FRESH + SERVICE_FOR + HOUR && contradicted {
            assert!(error <= 3 * NEAR, "a service keeps the clock right, and the time is wrong by {error}");
        }
        // Nobody is locked out: whoever sets a clock and waits is believed, or told that he is not.
        let status = self.keeper.status(&seen, &self.known());
        if let Some(doubted) = status.doubted
            && let Some(from) = doubted.believed_from
        {
            assert!(
                from <= at(seen.wall)
                    .plus(std::time::Duration::from_millis(u64::try_from(ALONE_FOR + HOUR).unwrap()))
            );
        }
    }

    /// Time that the fleet has been there without a pause.
    fn heard_for(&self) -> i64 {
        self.truth - self.honest
    }

    fn live(mut self) -> [u32; 8] {
        let mut fleet_before = false;
        while self.truth < START + LIFE {
            if self.dice.below(40) == 0 {
                self.event();
            }
            if self.fleet != fleet_before {
                self.honest = self.truth;
                fleet_before = self.fleet;
            }
            let step = [30 * SECOND, 10 * 60 * SECOND, HOUR][usize::try_from(self.dice.below(3)).unwrap()];
            // The shell asks the fleet each 20 seconds while it is unsure.
            for part in 0..4 {
                self.truth += step / 4;
                self.look();
                if part % 2 == 0 || self.keeper.is_unsure() {
                    self.hear();
                }
            }
            self.check();
        }
        self.counts
    }
}

#[test]
fn years_of_clocks_that_go_wrong() {
    for seed in [1, 7, 0x00ed_9e3a, 2_026, 99, 123_456_789] {
        let counts = Machine::new(seed).live();
        assert!(counts[7] > 10, "other times were believed: {counts:?}");
        assert!(counts[..7].iter().all(|count| *count > 5), "{counts:?}");
    }
}
