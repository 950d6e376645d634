//! The time.

use edgewarden_names::UnixTime;
use edgewarden_protocol::control::TimeBy;

use super::words::{not_running, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `clock`.
pub const CHECKS: &[Check] = &[
    Check {
        id: "clock.plausible",
        title: "the clock shows a time in which this program exists",
        remedy: "`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'`",
        run: plausible,
    },
    Check {
        id: "clock.floor",
        title: "the clock is not behind the latest time that identityd has known",
        remedy: "`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'`; until then the daemons go by that time",
        run: floor,
    },
    Check {
        id: "clock.believed",
        title: "the system clock shows the time that the daemons go by",
        remedy: "`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'`; if the system clock is right, `edgewarden clock accept`",
        run: believed,
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
/// Seconds behind the floor that identityd still believes.
const BACKSTEP_SECONDS_MAX: u64 = 300;

fn plausible(facts: &Facts) -> Finding {
    let shows = facts.clock.wall;
    if shows < SENSIBLE.0 && facts.clock.hardware_clock {
        Finding::fail(format!("it shows {shows} s after 1970: it was never set, or the battery of the machine's clock is dead"))
            .remedy("`timedatectl set-ntp true`, or `date --set 'YYYY-MM-DD hh:mm:ss'` and `hwclock --systohc`; when it happens again after a power cut, replace the battery")
    } else if shows < SENSIBLE.0 {
        Finding::fail(format!("it shows {shows} s after 1970: it was never set"))
    } else if shows >= SENSIBLE.1 {
        Finding::fail(format!("it shows {shows} s after 1970: far in the future"))
    } else {
        Finding::pass(format!("{shows} s after 1970"))
    }
}

fn floor(facts: &Facts) -> Finding {
    match &facts.clock.floor {
        Err(why) => Finding::fail(why.clone())
            .remedy("restore `clock.json` from a backup; identityd does not start with a damaged one"),
        Ok(None) => Finding::skip("identityd has seen no time yet"),
        Ok(Some(floor)) if facts.clock.wall.0.saturating_add(BACKSTEP_SECONDS_MAX) < floor.0 => {
            Finding::fail(format!("it is {} behind it", span(floor.after(facts.clock.wall))))
        }
        Ok(Some(floor)) => Finding::pass(format!("seen last: {} ago", span(facts.clock.wall.after(*floor)))),
    }
}

fn believed(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let time = &status.time;
    match &time.doubted {
        Some(doubted) if doubted.shows > time.now => Finding::fail(format!(
            "it is {} ahead of it, and is not believed",
            span(doubted.shows.after(time.now))
        )),
        Some(doubted) => Finding::fail(format!(
            "it is {} behind it, and is not believed",
            span(time.now.after(doubted.shows))
        )),
        None if time.by == TimeBy::Floor => Finding::warn(
            "nobody has said yet what time it is; the daemons count on from the latest time that was known",
        ),
        None => Finding::pass(format!("by {}", time.by.text())),
    }
}
