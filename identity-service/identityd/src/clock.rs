//! What time it is, for a machine that may wake with the wrong one.
//!
//! A clock that was set back revives expired certificates and tokens. So `identityd` keeps a floor on disk: the latest
//! time that it has seen while enrolled, or that the fleet signed (the start of the gateway CA's certificate). A wall
//! clock well below the floor is not believed: the floor stands in for it, and status and log say so.
//! The floor never passes the end of the gateway CA's certificate, so that one leap into the far future does not
//! outlast the next certificate from the fleet.

use std::time::Duration;

use edgewarden_names::UnixTime;
use serde::{Deserialize, Serialize};

use crate::state::Document;

/// How far the wall clock may be below the floor and still be believed.
const BACKSTEP_MAX: Duration = Duration::from_secs(300);
/// The floor is written anew when it is this far behind, so that a quiet gateway does not wear its flash.
const RAISE_STEP: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeFloor {
    pub floor: UnixTime,
}

impl Default for TimeFloor {
    fn default() -> Self {
        Self { floor: UnixTime(0) }
    }
}

impl Document for TimeFloor {
    const FILE: &'static str = "clock.json";
}

/// The time to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    pub now: UnixTime,
    /// True when the floor stands in for a wall clock that was set back.
    pub from_floor: bool,
}

impl TimeFloor {
    pub fn believe(&self, wall: UnixTime) -> Believed {
        if wall.plus(BACKSTEP_MAX) < self.floor {
            Believed { now: self.floor, from_floor: true }
        } else {
            Believed { now: wall, from_floor: false }
        }
    }

    /// The floor after the wall clock showed `wall`, or `None` when it is not worth a write.
    pub fn raised(&self, wall: UnixTime, ceiling: UnixTime) -> Option<Self> {
        let floor = wall.min(ceiling);
        (floor >= self.floor.plus(RAISE_STEP)).then_some(Self { floor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_stands_in_for_a_clock_that_was_set_back() {
        let floor = TimeFloor { floor: UnixTime(1_000_000) };
        for (wall, now, from_floor) in [
            (1_000_000, 1_000_000, false),
            (1_000_001, 1_000_001, false),
            (999_700, 999_700, false),
            (999_699, 1_000_000, true),
            (0, 1_000_000, true),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(floor.believe(UnixTime(wall)), Believed { now: UnixTime(now), from_floor }, "{wall}");
        }
    }

    #[test]
    fn the_floor_rises_in_steps_and_not_beyond_the_ceiling() {
        let floor = TimeFloor { floor: UnixTime(10_000) };
        for (wall, ceiling, expected) in [
            (10_000, 90_000, None),
            (10_599, 90_000, None),
            (10_600, 90_000, Some(10_600)),
            (9_000, 90_000, None),
            (4_000_000_000, 90_000, Some(90_000)),
            (4_000_000_000, 10_000, None),
        ] {
            let raised = floor.raised(UnixTime(wall), UnixTime(ceiling)).map(|raised| raised.floor.0);
            assert_eq!(raised, expected, "{wall} {ceiling}");
        }
    }
}
