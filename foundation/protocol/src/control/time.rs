//! The time that all daemons go by, and whose word it is.

use edgewarden_names::UnixTime;
use serde::{Deserialize, Serialize};

/// The time that all daemons go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStatus {
    pub now: UnixTime,
    pub by: TimeBy,
    /// `None` while the system clock shows the same.
    pub doubted: Option<DoubtedTime>,
}

/// The source whose word on the time is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeBy {
    /// Nobody's: what was known before the machine was switched off.
    Floor,
    /// The system clock's alone.
    WallClock,
    /// The system clock's, and a time service keeps it.
    TimeService,
    /// The fleet's.
    Fleet,
    Operator,
    /// The machine's own clock, and the system clock.
    HardwareClock,
    /// The system clock's, after it had been doubted for a day.
    Patience,
}

impl TimeBy {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Floor => "nobody: it counts on from the latest time that was known",
            Self::WallClock => "the system clock alone",
            Self::TimeService => "a time service",
            Self::Fleet => "the fleet",
            Self::Operator => "the operator",
            Self::HardwareClock => "the machine's own clock",
            Self::Patience => "the system clock, which has shown it for a day",
        }
    }
}

/// A system clock that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoubtedTime {
    pub shows: UnixTime,
    /// The time that it will show when it is believed for want of anything better; `None`: never.
    pub believed_from: Option<UnixTime>,
}

/// The time for the other daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldTime {
    /// Time of day less time since boot (CLOCK_BOOTTIME), in milliseconds since 1970.
    pub offset_millis: i64,
    /// The fleet's word would help.
    pub unsure: bool,
}
