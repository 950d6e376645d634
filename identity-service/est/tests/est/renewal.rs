//! Years of renewals under a clock of our own, with faults.

use std::time::Duration;

use edgewarden_est::{Action, EstError, Life, RECHECK_MAX, Renewal, RenewalPolicy, Severity};
use edgewarden_names::{Reason, Refusal, UnixTime};
use proptest::prelude::*;

const START: u64 = 1_900_000_000;
const DAY: u64 = 86400;
const LIFE: u64 = 30 * DAY;
const YEARS_SECONDS: u64 = 10 * 365 * DAY;

fn error(severity: Severity) -> EstError {
    let mut error = EstError::from(Refusal::new(Reason::EstUnavailable, "est", "a test says so"));
    error.severity = severity;
    error
}

fn transient() -> EstError {
    error(Severity::Transient { retry_after: None })
}

fn life(from: u64) -> Life {
    Life { not_before: UnixTime(from), not_after: UnixTime(from + LIFE) }
}

/// Kind of trouble that a renewal meets, of the site's CA or of the clock.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Down,
    Busy {
        retry_after: u64,
    },
    Refuses,
    Undecided {
        after: u64,
    },
    /// The gateway's wall clock is off by so much.
    Clock {
        offset: i64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Peace before it, in seconds.
    peace: u64,
    fault: Fault,
    length: u64,
}

/// A gateway and its CA. `at` is true time; the gateway sees `at` plus the clock's error.
struct World {
    at: u64,
    fault: Option<Fault>,
    fault_ends: u64,
    renewal: Renewal,
    last_asking: Option<u64>,
    askings: u64,
    ever_usable: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            at: START,
            fault: None,
            fault_ends: START,
            renewal: Renewal::new(RenewalPolicy::default(), None, seed),
            last_asking: None,
            askings: 0,
            ever_usable: false,
        }
    }

    fn wall(&self) -> UnixTime {
        match self.fault {
            Some(Fault::Clock { offset }) => UnixTime(self.at.saturating_add_signed(offset)),
            _ => UnixTime(self.at),
        }
    }

    /// Carries out actions until `end`; checks after each what must always hold.
    fn run(&mut self, end: u64) {
        while self.at < end {
            if self.fault.is_some() && self.at >= self.fault_ends {
                self.fault = None;
            }
            let now = self.wall();
            let held = self.renewal.held();
            match self.renewal.next(now) {
                Action::Wait(pause) => {
                    assert!(!pause.is_zero() && pause <= RECHECK_MAX, "{pause:?}");
                    self.at += pause.as_secs().max(1);
                }
                Action::Enroll => {
                    assert!(
                        !self.renewal.is_usable(now),
                        "a valid certificate is renewed, not asked for anew"
                    );
                    self.ask(now);
                }
                Action::Reenroll => {
                    assert!(self.renewal.is_usable(now));
                    self.ask(now);
                }
            }
            if let Some(held) = held {
                let newer = self.renewal.held().unwrap();
                assert!(newer == held || newer.not_after > held.not_after, "a certificate was lost");
            }
            let clock_is_right = !matches!(self.fault, Some(Fault::Clock { .. }));
            if clock_is_right && self.ever_usable {
                assert!(self.renewal.is_usable(UnixTime(self.at)), "it lapsed at {}", self.at - START);
            }
            self.ever_usable |= clock_is_right && self.renewal.is_usable(UnixTime(self.at));
        }
    }

    fn ask(&mut self, now: UnixTime) {
        let least = RenewalPolicy::default().pause_first.as_secs();
        if let Some(last) = self.last_asking {
            // A clock that jumps forward ends a pause, once for each jump.
            let clock = matches!(self.fault, Some(Fault::Clock { .. }));
            let jumped = clock || (last <= self.fault_ends && self.at >= self.fault_ends);
            assert!(self.at - last >= least || jumped, "asked too often");
        }
        self.last_asking = Some(self.at);
        self.askings += 1;
        match self.fault {
            Some(Fault::Down) => self.renewal.failed(&transient(), now),
            Some(Fault::Busy { retry_after }) => {
                let retry_after = Some(Duration::from_secs(retry_after));
                self.renewal.failed(&error(Severity::Transient { retry_after }), now);
            }
            Some(Fault::Refuses) => self.renewal.failed(&error(Severity::Fatal), now),
            Some(Fault::Undecided { after }) => self.renewal.pending(Duration::from_secs(after), now),
            Some(Fault::Clock { .. }) | None => {
                // The CA's clock is right. What it issues is checked against the gateway's clock.
                let life = life(self.at - 60);
                if life.contains(now) {
                    self.renewal.succeeded(life, now);
                } else {
                    self.renewal.failed(&transient(), now);
                }
            }
        }
        // An asking takes time too.
        self.at += 1;
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Down),
        (1..2 * DAY).prop_map(|retry_after| Fault::Busy { retry_after: retry_after.min(DAY) }),
        Just(Fault::Refuses),
        (600..DAY).prop_map(|after| Fault::Undecided { after }),
        prop_oneof![
            Just(-i64::try_from(START).unwrap()),
            (-400_000_000_i64..400_000_000),
            (-3600_i64..3600),
            Just(i64::MAX / 4),
        ]
        .prop_map(|offset| Fault::Clock { offset }),
    ]
}

fn trial() -> impl Strategy<Value = Trial> {
    (2 * DAY..60 * DAY, fault(), 60..5 * DAY).prop_map(|(peace, fault, length)| Trial {
        peace,
        fault,
        length,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Faults of up to five days with two days of peace between them never let the certificate lapse.
    #[test]
    fn ten_years_of_faults_and_no_lapse(seed in any::<u64>(), trials in prop::collection::vec(trial(), 60..140)) {
        let mut world = World::new(seed);
        world.run(START + DAY);
        prop_assert!(world.ever_usable);
        for trial in trials {
            if world.at > START + YEARS_SECONDS {
                break;
            }
            let begins = world.at + trial.peace;
            world.run(begins);
            world.fault = Some(trial.fault);
            world.fault_ends = world.at + trial.length;
            let ends = world.fault_ends;
            world.run(ends);
        }
        world.fault = None;
        let end = (START + YEARS_SECONDS).max(world.at + DAY);
        world.run(end);
        // Years without faults renew every 17 to 20 days; faults add retries, but no storm.
        prop_assert!(world.askings >= 10 * 365 / 30, "{}", world.askings);
        prop_assert!(world.askings <= 60_000, "{}", world.askings);
    }

    /// However long it went on, and whatever it was: once it is over, a certificate is there within a day.
    #[test]
    fn after_any_fault_there_is_a_certificate_again(
        seed in any::<u64>(), held in any::<bool>(), fault in fault(), length in 60..400 * DAY,
    ) {
        let mut world = World::new(seed);
        if held {
            world.run(START + DAY);
        }
        world.ever_usable = false;
        world.fault = Some(fault);
        world.fault_ends = world.at + length;
        while world.at < world.fault_ends {
            world.ever_usable = false;
            let step = (world.at + 3600).min(world.fault_ends);
            world.run_without_lapse_check(step);
        }
        world.fault = None;
        let end = world.at + DAY + 2 * RECHECK_MAX.as_secs();
        world.run_without_lapse_check(end);
        prop_assert!(world.renewal.is_usable(UnixTime(world.at)));
        prop_assert!(world.renewal.trouble().is_none());
    }

    #[test]
    fn no_values_panic(
        seed in any::<u64>(), times in prop::collection::vec(any::<u64>(), 1..40), lives in any::<(u64, u64)>(), secs in any::<u64>(),
    ) {
        let life = Life { not_before: UnixTime(lives.0), not_after: UnixTime(lives.1) };
        let mut renewal = Renewal::new(RenewalPolicy::default(), Some(life), seed);
        for (at, time) in times.into_iter().enumerate() {
            let now = UnixTime(time);
            match at % 5 {
                0 => drop(renewal.next(now)),
                1 => renewal.failed(&error(Severity::Transient { retry_after: Some(Duration::from_secs(secs)) }), now),
                2 => renewal.pending(Duration::from_secs(secs), now),
                3 => renewal.succeeded(life, now),
                _ => renewal.failed(&error(Severity::Fatal), now),
            }
        }
    }
}

impl World {
    fn run_without_lapse_check(&mut self, end: u64) {
        while self.at < end {
            self.ever_usable = false;
            let step = (self.at + 1).min(end);
            self.run(step);
        }
    }
}

/// Time of the first asking after all waiting.
fn asks_at(renewal: &mut Renewal, mut now: u64) -> u64 {
    loop {
        match renewal.next(UnixTime(now)) {
            Action::Wait(pause) => now += pause.as_secs().max(1),
            _ => return now,
        }
    }
}

#[test]
fn renewal_begins_at_two_thirds_and_not_at_one_moment() {
    let begins: Vec<u64> = (0..200)
        .map(|seed| {
            asks_at(&mut Renewal::new(RenewalPolicy::default(), Some(life(START)), seed), START + 1) - START
        })
        .collect();
    assert!(begins.iter().all(|at| (LIFE * 56 / 100 - 1..=LIFE * 66 / 100 + 1).contains(at)));
    let spread = begins.iter().max().unwrap() - begins.iter().min().unwrap();
    assert!(spread > LIFE / 20, "{spread}");
}

#[test]
fn failures_are_asked_again_ever_more_rarely_but_oftener_near_the_end() {
    let mut renewal = Renewal::new(RenewalPolicy::default(), None, 1);
    let (mut now, mut pauses) = (START, Vec::new());
    for _ in 0..12 {
        renewal.failed(&transient(), UnixTime(now));
        let next = asks_at(&mut renewal, now);
        pauses.push(next - now);
        now = next;
    }
    assert!((15..=30).contains(&pauses[0]) || pauses[0] == 30, "{pauses:?}");
    assert!(pauses.iter().all(|pause| (30..=3600).contains(pause)), "{pauses:?}");
    assert!(pauses[11] >= 1800, "{pauses:?}");
    // Four minutes before the end, even a fatal failure is asked again after one minute at most.
    let mut renewal = Renewal::new(RenewalPolicy::default(), Some(life(START)), 1);
    let late = START + LIFE - 240;
    renewal.failed(&error(Severity::Fatal), UnixTime(late));
    assert!(asks_at(&mut renewal, late) - late <= 60);
}

#[test]
fn a_fatal_failure_stays_visible_and_is_asked_again_at_once_when_its_cause_may_be_gone() {
    let mut renewal = Renewal::new(RenewalPolicy::default(), Some(life(START)), 3);
    let due = asks_at(&mut renewal, START + 1);
    renewal.failed(&error(Severity::Fatal), UnixTime(due));
    renewal.failed(&error(Severity::Fatal), UnixTime(due));
    let trouble = renewal.trouble().unwrap();
    assert_eq!((trouble.severity, trouble.failures, trouble.at), (Severity::Fatal, 2, UnixTime(due)));
    assert!(matches!(renewal.next(UnixTime(due)), Action::Wait(_)));
    assert!(asks_at(&mut renewal, due) - due >= 3 * 3600);
    assert!(renewal.is_usable(UnixTime(due)));
    renewal.failed(&error(Severity::Fatal), UnixTime(due));
    renewal.cause_changed();
    assert_eq!(renewal.next(UnixTime(due)), Action::Reenroll);
    renewal.succeeded(life(due), UnixTime(due));
    assert!(renewal.trouble().is_none());
}

#[test]
fn a_server_that_asks_for_patience_gets_it_unless_the_certificate_would_end() {
    let patience = |seconds| error(Severity::Transient { retry_after: Some(Duration::from_secs(seconds)) });
    let mut renewal = Renewal::new(RenewalPolicy::default(), None, 5);
    renewal.failed(&patience(7200), UnixTime(START));
    assert_eq!(asks_at(&mut renewal, START) - START, 7200);
    let mut renewal = Renewal::new(RenewalPolicy::default(), Some(life(START)), 5);
    let late = START + LIFE - 4000;
    renewal.failed(&patience(86400), UnixTime(late));
    assert_eq!(asks_at(&mut renewal, late) - late, 1000);
}

#[test]
fn a_certificate_that_is_dated_back_or_very_short_does_not_make_a_storm() {
    let mut renewal = Renewal::new(RenewalPolicy::default(), None, 7);
    // Valid for a year, of which all but an hour has passed when it is issued.
    let backdated = Life { not_before: UnixTime(START - 365 * DAY), not_after: UnixTime(START + 3600) };
    renewal.succeeded(backdated, UnixTime(START));
    assert!(asks_at(&mut renewal, START) - START >= 3600 * 56 / 100);
    let short = Life { not_before: UnixTime(START), not_after: UnixTime(START + 10) };
    renewal.succeeded(short, UnixTime(START));
    assert!(asks_at(&mut renewal, START) - START >= 30);
}

#[test]
fn a_clock_that_jumps_is_noticed_and_loses_nothing() {
    let mut renewal = Renewal::new(RenewalPolicy::default(), Some(life(START)), 11);
    assert!(matches!(renewal.next(UnixTime(START + 1)), Action::Wait(_)));
    // Forward past the end: not usable, asked for anew. Back again: usable, as if nothing had been.
    let beyond = UnixTime(START + LIFE + 1);
    assert!(!renewal.is_usable(beyond));
    assert_eq!(renewal.next(beyond), Action::Enroll);
    renewal.failed(&transient(), beyond);
    assert!(renewal.is_usable(UnixTime(START + 2)));
    assert!(matches!(renewal.next(UnixTime(START + 2)), Action::Wait(_)));
    // Nothing is due and nothing was wrong but the clock, so there is nothing to be shown.
    assert!(renewal.trouble().is_some());
    assert!(matches!(renewal.next(UnixTime(START + 3600)), Action::Wait(_)));
    assert!(renewal.trouble().is_none());
    // A pause that was begun under the wrong clock does not last until that time comes.
    assert!(asks_at(&mut renewal, START + 3600) <= START + LIFE * 66 / 100 + 3600);
    // Before its beginning it is not usable either.
    assert!(!renewal.is_usable(UnixTime(0)));
}

#[test]
fn a_policy_out_of_range_is_not_followed() {
    let good = RenewalPolicy::default();
    assert!(good.is_sound());
    for policy in [
        RenewalPolicy { begin_percent: 0, ..good },
        RenewalPolicy { begin_percent: 100, ..good },
        RenewalPolicy { pause_first: Duration::ZERO, ..good },
        RenewalPolicy { pause_max: Duration::from_secs(1), ..good },
        RenewalPolicy { pause_fatal: Duration::from_secs(1), ..good },
        RenewalPolicy { pause_fatal: Duration::MAX, ..good },
    ] {
        assert!(!policy.is_sound(), "{policy:?}");
    }
}
