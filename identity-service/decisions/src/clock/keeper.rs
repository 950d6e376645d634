//! Belief in a time: a state machine without clock and disk.
//!
//! The time since boot counts; the sources say where the counting began. A difference of up to [`NEAR`] is followed at
//! once. More is a leap, and doubted first:
//!
//! * The fleet's word counts at once when the wall clock agrees or there is only the floor; else when it has stayed for
//!   [`FLEET_FOR`], or for [`FLEET_AGAINST_SERVICE_FOR`] against a time service. What it contradicts is not believed.
//! * A leap that a time service vouches for is believed after [`SERVICE_FOR`].
//! * A leap that the machine's own clock shows too is believed after [`HARDWARE_FOR`].
//! * Any other is believed after [`ALONE_FOR`], unless the fleet has contradicted it in this boot, or at once when the
//!   operator says so.
//! * At boot the wall clock is believed from the floor up to [`AHEAD_AT_BOOT_MAX`] above it; else the floor stands in.
//! * Nothing leads below what the fleet signed. Before the gateway has joined, nothing hangs on the time.
//!
//! Trusts the time since boot and its own floor. Distrusts every other clock.

use std::time::Duration;

use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{DoubtedTime, TimeBy, TimeStatus};

use super::floor::Belief;
use super::readings::Readings;

/// Milliseconds by which clocks may differ and mean the same.
pub const NEAR: i64 = 300_000;
pub const SERVICE_FOR: i64 = 60_000;
pub const FLEET_FOR: i64 = 60_000;
pub const FLEET_AGAINST_SERVICE_FOR: i64 = 3_600_000;
/// Time for which the fleet's word weighs more than a time service, in milliseconds.
pub const FLEET_FRESH: i64 = 86_400_000;
pub const HARDWARE_FOR: i64 = 3_600_000;
pub const ALONE_FOR: i64 = 86_400_000;
/// Longer than the longest life of a gateway CA: a clock that is further ahead says nothing that could be of use.
pub const AHEAD_AT_BOOT_MAX: Duration = Duration::from_secs(400 * 86_400);
/// The machine's own clock counts seconds, and drifts.
const HARDWARE_NEAR: i64 = 60_000;
/// Smallest change that is worth telling the other daemons, in milliseconds.
const STEP_MIN: i64 = 500;

/// Facts about the time from the disk, and about the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub enrolled: bool,
    pub floor: UnixTime,
    pub signed: UnixTime,
}

/// Change of the belief, for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The wall clock leapt, and is not believed.
    Doubted { shows: UnixTime, believed: UnixTime },
    /// Another time is believed from now on.
    Believed { before: UnixTime, now: UnixTime, by: TimeBy },
    /// A small step of the wall clock was followed.
    Followed,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    offset: i64,
    since: i64,
    /// Somebody set the wall clock in this boot, or it is ahead: a dead battery's time is behind from the start.
    may_wait: bool,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    offset: i64,
    /// Of the words that agree, by the time since boot.
    first: i64,
    last: i64,
}

/// The belief in a time, with its doubts.
#[derive(Debug, Clone)]
pub struct TimeKeeper {
    offset: i64,
    by: TimeBy,
    /// Small steps are followed as far as [`NEAR`] from here: many of them are a leap too.
    anchor: i64,
    doubt: Option<Doubt>,
    fleet: Option<Word>,
    looked: bool,
}

/// A number of milliseconds since 1970 as a time.
pub fn at(millis: i64) -> UnixTime {
    UnixTime(u64::try_from(millis / 1000).unwrap_or(0))
}

fn millis(time: UnixTime) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX).saturating_mul(1000)
}

fn near(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= NEAR.unsigned_abs()
}

fn is_plausible(time: i64, known: &Known) -> bool {
    let floor = millis(known.floor);
    let most = millis(known.floor.plus(AHEAD_AT_BOOT_MAX));
    floor <= time.saturating_add(NEAR) && time <= most
}

impl TimeKeeper {
    /// `belief` is what was believed earlier in this boot.
    pub fn start(seen: &Readings, known: &Known, belief: Option<&Belief>) -> Self {
        let (offset, by) = match belief {
            _ if !known.enrolled => (seen.offset(), TimeBy::WallClock),
            Some(belief) => (belief.offset_millis, belief.by),
            None if is_plausible(seen.wall, known) => (seen.offset(), TimeBy::WallClock),
            // All of this boot came after it.
            None => (millis(known.floor), TimeBy::Floor),
        };
        Self { offset, by, anchor: offset, doubt: None, fleet: None, looked: false }
    }

    /// Time of day less time since boot, in milliseconds.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Source of the time that is believed.
    pub fn by(&self) -> TimeBy {
        self.by
    }

    fn now(&self, seen: &Readings) -> i64 {
        seen.boot.saturating_add(self.offset)
    }

    /// Would another source's word help?
    pub fn is_unsure(&self) -> bool {
        self.doubt.is_some() || !matches!(self.by, TimeBy::TimeService | TimeBy::Fleet | TimeBy::Operator)
    }

    fn believe(&mut self, offset: i64, by: TimeBy, seen: &Readings) -> Change {
        let before = at(self.now(seen));
        self.offset = offset;
        self.anchor = offset;
        self.by = by;
        if near(offset, seen.offset()) {
            self.doubt = None;
        }
        Change::Believed { before, now: at(self.now(seen)), by }
    }

    /// Looks at the clocks: at least once in some seconds.
    pub fn look(&mut self, seen: &Readings, known: &Known) -> Vec<Change> {
        let first = !std::mem::replace(&mut self.looked, true);
        let wall = seen.offset();
        let mut changes = Vec::new();
        if !known.enrolled {
            let word = self.fresh_word(seen).filter(|word| !near(word.offset, wall));
            let (offset, by) = word.map_or((wall, TimeBy::WallClock), |word| (word.offset, TimeBy::Fleet));
            if near(offset, self.offset) {
                (self.offset, self.anchor, self.by, self.doubt) = (offset, offset, by, None);
            } else {
                changes.push(self.believe(offset, by, seen));
            }
            return changes;
        }
        if self.now(seen) < millis(known.signed) {
            changes.push(self.believe(millis(known.signed).saturating_sub(seen.boot), TimeBy::Floor, seen));
        }
        if let Some(offset) = self.fleet_wins(seen) {
            changes.push(self.believe(offset, TimeBy::Fleet, seen));
        }
        if near(wall, self.anchor) {
            changes.extend(self.follow(wall, seen));
            return changes;
        }
        if self.by == TimeBy::Floor && is_plausible(seen.wall, known) {
            changes.push(self.believe(wall, TimeBy::WallClock, seen));
            return changes;
        }
        if !self.doubt.is_some_and(|doubt| near(doubt.offset, wall)) {
            let may_wait = !first || self.by != TimeBy::Floor || wall > self.offset;
            self.doubt = Some(Doubt { offset: wall, since: seen.boot, may_wait });
            changes.push(Change::Doubted { shows: at(seen.wall), believed: at(self.now(seen)) });
        }
        if let Some(by) = self.support(seen, known) {
            changes.push(self.believe(wall, by, seen));
        }
        changes
    }

    fn follow(&mut self, wall: i64, seen: &Readings) -> Option<Change> {
        let step = self.offset.abs_diff(wall) >= STEP_MIN.unsigned_abs();
        self.offset = wall;
        self.doubt = None;
        if self.by == TimeBy::Floor {
            self.by = TimeBy::WallClock;
        }
        if seen.synchronised {
            self.anchor = wall;
            if self.by != TimeBy::Fleet {
                self.by = TimeBy::TimeService;
            }
        }
        step.then_some(Change::Followed)
    }

    fn fresh_word(&self, seen: &Readings) -> Option<Word> {
        self.fleet.filter(|word| seen.boot.saturating_sub(word.last) <= FLEET_FRESH)
    }

    /// The offset to believe by the fleet's word, if that is another than is believed.
    fn fleet_wins(&mut self, seen: &Readings) -> Option<i64> {
        let word = self.fresh_word(seen)?;
        if near(word.offset, self.offset) {
            self.by = TimeBy::Fleet;
            return None;
        }
        let wall = seen.offset();
        let agreed = near(word.offset, wall);
        let needed = if agreed || self.by == TimeBy::Floor {
            0
        } else if seen.synchronised && near(wall, self.offset) {
            FLEET_AGAINST_SERVICE_FOR
        } else {
            FLEET_FOR
        };
        let held = word.last.saturating_sub(word.first);
        // The wall clock counts finer than the fleet says it.
        (held >= needed).then_some(if agreed { wall } else { word.offset })
    }

    /// The source that vouches for the leap that is doubted.
    fn support(&self, seen: &Readings, known: &Known) -> Option<TimeBy> {
        let doubt = self.doubt?;
        if seen.wall.saturating_add(NEAR) < millis(known.signed) {
            return None;
        }
        let contradicts = |word: Word| !near(word.offset, doubt.offset);
        if self.fresh_word(seen).is_some_and(contradicts) {
            return None;
        }
        let age = seen.boot.saturating_sub(doubt.since);
        if seen.synchronised && age >= SERVICE_FOR {
            return Some(TimeBy::TimeService);
        }
        if self.fleet.is_some_and(contradicts) || !doubt.may_wait {
            return None;
        }
        let shows = |time: i64| {
            seen.hardware.is_some_and(|hardware| hardware.abs_diff(time) <= HARDWARE_NEAR.unsigned_abs())
        };
        if age >= HARDWARE_FOR && shows(seen.wall) && !shows(self.now(seen)) {
            return Some(TimeBy::HardwareClock);
        }
        (age >= ALONE_FOR).then_some(TimeBy::Patience)
    }

    /// The fleet says that its time is `offset` before the time since boot.
    pub fn hear(&mut self, offset: i64, seen: &Readings, known: &Known) -> Result<Vec<Change>, Refusal> {
        let says = seen.boot.saturating_add(offset);
        if says.saturating_add(NEAR) < millis(known.signed) {
            let rule = format!("it says {}, and has signed a certificate of {}", at(says), known.signed);
            return Err(Refusal::new(Reason::ClockDoubted, "fleet's time", rule));
        }
        let same = self.fresh_word(seen).filter(|word| near(word.offset, offset));
        let first = same.map_or(seen.boot, |word| word.first);
        self.fleet = Some(Word { offset, first, last: seen.boot });
        Ok(self.look(seen, known))
    }

    /// The operator says that the wall clock is right.
    pub fn accept(&mut self, seen: &Readings, known: &Known) -> Result<Vec<Change>, Refusal> {
        if known.enrolled && seen.wall.saturating_add(NEAR) < millis(known.signed) {
            let rule = format!(
                "it shows {}, and the gateway CA's certificate begins at {}",
                at(seen.wall),
                known.signed
            );
            return Err(Refusal::new(Reason::ClockDoubted, "system clock", rule));
        }
        // A word of the fleet from now on counts again.
        self.fleet = None;
        Ok(vec![self.believe(seen.offset(), TimeBy::Operator, seen)])
    }

    /// The time for status, with a doubt if there is one.
    pub fn status(&self, seen: &Readings, known: &Known) -> TimeStatus {
        let doubted = self.doubt.map(|doubt| {
            let contradicted = self.fleet.is_some_and(|word| !near(word.offset, doubt.offset));
            let too_early = seen.wall.saturating_add(NEAR) < millis(known.signed);
            let waits = doubt.may_wait && !contradicted && !too_early;
            let believed_from = doubt.since.saturating_add(ALONE_FOR).saturating_add(doubt.offset);
            DoubtedTime { shows: at(seen.wall), believed_from: waits.then(|| at(believed_from)) }
        });
        TimeStatus { now: at(self.now(seen)), by: self.by, doubted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: i64 = 100_000;
    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const TRUE: i64 = 1_800_000_000_000;

    fn known() -> Known {
        let day = |days: i64| at(TRUE - days * DAY);
        Known { enrolled: true, floor: day(0), signed: day(10) }
    }

    fn seen(after: i64, error: i64) -> Readings {
        Readings { boot: BOOT + after, wall: TRUE + after + error, synchronised: false, hardware: None }
    }

    fn kept(after: i64, error: i64) -> Readings {
        Readings { synchronised: true, ..seen(after, error) }
    }

    fn started() -> TimeKeeper {
        let mut keeper = TimeKeeper::start(&seen(0, 0), &known(), None);
        assert_eq!(keeper.look(&seen(0, 0), &known()), []);
        keeper
    }

    fn error(keeper: &TimeKeeper) -> i64 {
        keeper.offset - (TRUE - BOOT)
    }

    #[test]
    fn a_leap_of_fifteen_seconds_duration_moves_nothing_whoever_vouches_for_it() {
        for far in [HOUR, DAY, 40 * DAY, -HOUR, -DAY, -40 * DAY, -1_800_000_000_000] {
            for service in [false, true] {
                let mut keeper = started();
                for second in 0..15 {
                    let seen = Readings { synchronised: service, ..seen(second * 1000, far) };
                    keeper.look(&seen, &known());
                    assert_eq!(error(&keeper), 0, "{far}");
                }
                keeper.look(&seen(15_000, 0), &known());
                assert!(keeper.doubt.is_none() && error(&keeper) == 0);
            }
        }
    }

    #[test]
    fn a_leap_is_believed_when_the_rules_say_so_and_not_before() {
        for (name, far, synchronised, hardware, expected, by) in [
            ("a time service", DAY, true, None, Some(SERVICE_FOR), TimeBy::TimeService),
            ("the machine's clock", DAY, false, Some(DAY), Some(HARDWARE_FOR), TimeBy::HardwareClock),
            ("nobody", DAY, false, None, Some(ALONE_FOR), TimeBy::Patience),
            // No help, and no hindrance.
            ("the machine's clock does not", DAY, false, Some(0), Some(ALONE_FOR), TimeBy::Patience),
            ("a time service, back", -DAY, true, None, Some(SERVICE_FOR), TimeBy::TimeService),
            ("before what was signed", -13 * DAY, true, None, None, TimeBy::WallClock),
        ] {
            let mut keeper = started();
            let mut found = None;
            for after in (0..=2 * DAY).step_by(10_000) {
                let hardware = hardware.map(|error: i64| TRUE + after + error);
                keeper.look(&Readings { synchronised, hardware, ..seen(after, far) }, &known());
                if error(&keeper) != 0 && found.is_none() {
                    found = Some(after);
                }
            }
            assert_eq!(found, expected, "{name}");
            assert_eq!(keeper.by(), by, "{name}");
        }
    }

    #[test]
    fn the_fleet_outweighs_every_clock_of_the_machine_and_a_leap_of_its_own_is_doubted_too() {
        let truth = TRUE - BOOT;
        // It confirms, so that a service that says something else is not believed.
        let mut keeper = started();
        keeper.hear(truth, &seen(0, 0), &known()).unwrap();
        assert_eq!(keeper.by(), TimeBy::Fleet);
        for after in (0..FLEET_FRESH).step_by(60_000) {
            keeper.look(&kept(after, DAY), &known());
            assert_eq!(error(&keeper), 0);
        }
        // It says the same as a wall clock that has just been set right: at once.
        let mut keeper = TimeKeeper::start(&seen(0, DAY), &known(), None);
        keeper.look(&seen(1000, 0), &known());
        assert_eq!(error(&keeper), DAY);
        keeper.hear(truth, &seen(2000, 0), &known()).unwrap();
        assert_eq!(error(&keeper), 0);
        // Alone: when it stays with it.
        let mut keeper = started();
        for (after, expected) in [(0, 0), (20_000, 0), (59_000, 0), (60_000, DAY)] {
            keeper.hear(truth + DAY, &seen(after, 0), &known()).unwrap();
            assert_eq!(error(&keeper), expected, "{after}");
        }
        // Against a time service that agrees with what is believed: after an hour.
        let mut keeper = started();
        for after in (0..HOUR).step_by(20_000) {
            keeper.hear(truth + DAY, &kept(after, 0), &known()).unwrap();
            assert_eq!(error(&keeper), 0);
        }
        keeper.hear(truth + DAY, &kept(HOUR, 0), &known()).unwrap();
        assert_eq!(error(&keeper), DAY);
        // Never before what it signed.
        let refused = started().hear(truth - 11 * DAY, &seen(0, 0), &known()).unwrap_err();
        assert_eq!(refused.reason, Reason::ClockDoubted);
    }

    #[test]
    fn a_machine_that_wakes_in_1970_counts_on_from_its_floor_until_something_better_comes() {
        let dead = |after: i64| Readings {
            boot: BOOT + after,
            wall: after,
            synchronised: false,
            hardware: Some(after),
        };
        let mut keeper = TimeKeeper::start(&dead(0), &known(), None);
        for after in (0..10 * DAY).step_by(60_000) {
            keeper.look(&dead(after), &known());
            let now = keeper.now(&dead(after));
            assert!(now - TRUE == BOOT + after, "time goes on from the floor, with the time since boot");
        }
        assert_eq!(keeper.by(), TimeBy::Floor);
        // A wall clock set forward is all there is, and believed.
        keeper.look(&seen(10 * DAY + 1000, 0), &known());
        assert_eq!((keeper.by(), error(&keeper)), (TimeBy::WallClock, 0));
        // Two years ahead at boot is not.
        let far = |after| seen(after, 730 * DAY);
        let mut keeper = TimeKeeper::start(&far(0), &known(), None);
        keeper.look(&far(0), &known());
        assert_eq!(keeper.by(), TimeBy::Floor);
        assert!(keeper.status(&far(0), &known()).doubted.unwrap().believed_from.is_some());
    }

    #[test]
    fn the_operator_is_believed_at_once_and_a_restart_changes_no_belief() {
        let mut keeper = started();
        keeper.look(&seen(1000, 40 * DAY), &known());
        let belief = Belief { boot: "b".into(), offset_millis: keeper.offset(), by: keeper.by() };
        let mut again = TimeKeeper::start(&seen(2000, 40 * DAY), &known(), Some(&belief));
        again.look(&seen(2000, 40 * DAY), &known());
        assert_eq!(error(&again), 0, "kill -9 makes no leap true");
        again.accept(&seen(3000, 40 * DAY), &known()).unwrap();
        assert_eq!((error(&again), again.by()), (40 * DAY, TimeBy::Operator));
        assert!(again.accept(&seen(4000, -11 * DAY), &known()).is_err());
    }

    #[test]
    fn many_small_steps_are_a_leap() {
        let mut keeper = started();
        for step in 1..100 {
            keeper.look(&seen(step * 1000, step * 100_000), &known());
            assert!(error(&keeper) <= NEAR);
        }
        assert!(keeper.doubt.is_some());
    }

    #[test]
    fn before_it_has_joined_a_gateway_follows_its_wall_clock() {
        let known = Known { enrolled: false, floor: UnixTime(0), signed: UnixTime(0) };
        let mut keeper = TimeKeeper::start(&seen(0, DAY), &known, None);
        keeper.look(&seen(0, 0), &known);
        assert_eq!(error(&keeper), 0);
        keeper.look(&seen(0, -DAY), &known);
        assert_eq!(error(&keeper), -DAY);
        keeper.hear(TRUE - BOOT, &seen(0, -DAY), &known).unwrap();
        assert_eq!(error(&keeper), 0);
    }
}
