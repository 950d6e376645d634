//! The time.

use edgewarden_names::UnixTime;

use super::span;
use crate::check::{Check, Finding};
use crate::facts::Facts;

pub const CHECKS: &[Check] = &[
    Check {
        id: "clock.plausible",
        title: "the clock shows a time in which this program exists",
        remedy: "`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'`",
        run: plausible,
    },
    Check {
        id: "clock.floor",
        title: "the clock was not set back below a time that identityd has seen",
        remedy: "`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'`; until then certificates are issued as of that time",
        run: floor,
    },
    Check {
        id: "clock.kept",
        title: "something keeps the clock right",
        remedy: "`apt install systemd-timesyncd && timedatectl set-ntp true`",
        run: |facts| match &facts.clock.kept_by {
            Some(keeper) => Finding::pass(format!("{keeper} does")),
            None => Finding::warn("no time service runs (chrony, ntpd, systemd-timesyncd, ptp4l)"),
        },
    },
    Check {
        id: "clock.hardware",
        title: "a clock runs while the machine is off",
        remedy: "fit a battery-backed clock, or make sure that the network's time is there before identityd starts",
        run: |facts| {
            if facts.clock.hardware_clock {
                Finding::pass("/sys/class/rtc/rtc0")
            } else {
                Finding::warn("there is none: after a power cut the clock begins at some wrong time")
            }
        },
    },
    Check {
        id: "clock.source",
        title: "the kernel counts time by a hardware counter",
        remedy: "see `dmesg | grep -i clocksource`: the kernel found its counters unstable",
        run: |facts| match facts.clock.source.as_deref() {
            None => Finding::skip("the kernel does not show it"),
            Some("jiffies" | "refined-jiffies") => {
                Finding::warn("it counts ticks, so that time stands still under load")
            }
            Some(source) => Finding::pass(source),
        },
    },
];

/// 2026-01-01 and 2100-01-01.
const SENSIBLE: (UnixTime, UnixTime) = (UnixTime(1_767_225_600), UnixTime(4_102_444_800));
/// What identityd still believes.
const BACKSTEP_SECONDS_MAX: u64 = 300;

fn plausible(facts: &Facts) -> Finding {
    if facts.now < SENSIBLE.0 {
        Finding::fail(format!("it shows {} s after 1970: it was never set", facts.now))
    } else if facts.now >= SENSIBLE.1 {
        Finding::fail(format!("it shows {} s after 1970: far in the future", facts.now))
    } else {
        Finding::pass(format!("{} s after 1970", facts.now))
    }
}

fn floor(facts: &Facts) -> Finding {
    match &facts.clock.floor {
        Err(why) => Finding::fail(why.clone())
            .remedy("restore `clock.json` from a backup; identityd does not start with a damaged one"),
        Ok(None) => Finding::skip("identityd has seen no time yet"),
        Ok(Some(floor)) if facts.now.0.saturating_add(BACKSTEP_SECONDS_MAX) < floor.0 => {
            Finding::fail(format!("it is {} behind it", span(floor.after(facts.now))))
        }
        Ok(Some(floor)) => Finding::pass(format!("seen last: {} ago", span(facts.now.after(*floor)))),
    }
}
