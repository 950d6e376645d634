//! The time that is on disk.
//!
//! A clock that was set back revives expired certificates and tokens. So there is a floor: the latest time that was
//! believed while enrolled, or that the fleet signed (the start of the gateway CA's certificate). It never passes the end
//! of the gateway CA's certificate, so that one false belief does not outlast the next certificate from the fleet; it
//! falls with the belief that had raised it, and never below what was signed.

use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_protocol::control::TimeBy;
use edgewarden_protocol::document::Document;
use serde::{Deserialize, Serialize};

/// The floor is written anew when it is this far behind, so that a quiet gateway does not wear its flash.
const RAISE_STEP: Duration = Duration::from_secs(600);
const BOOT_BYTES_MAX: usize = 64;

/// The lowest time to believe, and the last belief.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeFloor {
    pub floor: UnixTime,
    /// The start of the gateway CA's certificate: a time that has surely come.
    #[serde(default = "never")]
    pub signed: UnixTime,
    /// Belief in the boot that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub belief: Option<Belief>,
}

/// The time in one boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Belief {
    pub boot: String,
    /// Time of day less time since boot, in milliseconds.
    pub offset_millis: i64,
    pub by: TimeBy,
}

fn never() -> UnixTime {
    UnixTime(0)
}

impl Default for TimeFloor {
    fn default() -> Self {
        Self { floor: never(), signed: never(), belief: None }
    }
}

impl Document for TimeFloor {
    const FILE: &'static str = "clock.json";

    fn check(&self) -> Result<(), String> {
        match &self.belief {
            Some(belief) if belief.boot.len() > BOOT_BYTES_MAX => Err("the boot's name is too long".into()),
            _ => Ok(()),
        }
    }
}

impl TimeFloor {
    /// The floor after `now` was believed, or `None` when it is not worth a write.
    pub fn raised(&self, now: UnixTime, ceiling: UnixTime) -> Option<Self> {
        let floor = now.min(ceiling);
        (floor >= self.floor.plus(RAISE_STEP)).then(|| Self { floor, ..self.clone() })
    }

    /// The floor under a certificate newer than the one held, whose beginning is its issuer's signed word on the time. It
    /// outweighs a floor that may come from a clock that had leapt ahead.
    #[must_use]
    pub fn signed(&self, not_before: UnixTime) -> Self {
        Self { floor: not_before, signed: not_before, belief: self.belief.clone() }
    }

    /// With what is believed from now on; a floor above it came from a belief that was false.
    #[must_use]
    pub fn believed(&self, now: UnixTime, belief: Option<Belief>) -> Self {
        Self { floor: self.floor.min(now).max(self.signed), belief, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(floor: u64, signed: u64) -> TimeFloor {
        TimeFloor { floor: UnixTime(floor), signed: UnixTime(signed), belief: None }
    }

    #[test]
    fn the_floor_rises_in_steps_and_not_beyond_the_ceiling() {
        for (now, ceiling, expected) in [
            (10_000, 90_000, None),
            (10_599, 90_000, None),
            (10_600, 90_000, Some(10_600)),
            (9_000, 90_000, None),
            (4_000_000_000, 90_000, Some(90_000)),
            (4_000_000_000, 10_000, None),
        ] {
            let raised = floor(10_000, 1).raised(UnixTime(now), UnixTime(ceiling));
            assert_eq!(raised.map(|raised| raised.floor.0), expected, "{now} {ceiling}");
        }
    }

    #[test]
    fn the_floor_falls_with_a_false_belief_and_not_below_what_was_signed() {
        for (now, expected) in
            [(20_000, 10_000), (10_000, 10_000), (9_000, 9_000), (4_999, 5_000), (0, 5_000)]
        {
            assert_eq!(floor(10_000, 5_000).believed(UnixTime(now), None).floor.0, expected, "{now}");
        }
        assert_eq!(floor(10_000, 5_000).signed(UnixTime(7_000)), floor(7_000, 7_000));
    }

    #[test]
    fn a_document_of_before_is_read_and_a_strange_one_is_not() {
        let old: TimeFloor = serde_json::from_str(r#"{"floor":7}"#).unwrap();
        assert_eq!(old, floor(7, 0));
        assert!(serde_json::from_str::<TimeFloor>(r#"{"floor":7,"more":1}"#).is_err());
        let belief = Some(Belief { boot: "x".repeat(65), offset_millis: 0, by: TimeBy::Fleet });
        assert!(TimeFloor { belief, ..old }.check().is_err());
    }
}
