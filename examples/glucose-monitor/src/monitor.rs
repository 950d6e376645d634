//! Assessment of readings. Thresholds: international consensus on time in range (Battelino et al., Diabetes Care 2019):
//! below 54 mg/dL is a level 2 low, above 250 a level 2 high, 70 to 180 is the target.

use std::collections::{BTreeMap, VecDeque};

use crate::reading::{Alarm, Reading, Summary};
use crate::trace::minutes;

const DANGEROUS_LOW: f64 = 54.0;
const LOW: f64 = 70.0;
const TARGET_HIGH: f64 = 180.0;
const DANGEROUS_HIGH: f64 = 250.0;

/// Most patients that are watched at once.
const PATIENTS_MAX: usize = 256;
/// Readings that a trend looks back on: a quarter of an hour of a sensor that reads every three minutes.
const TREND_READINGS: usize = 6;
/// Readings by which a repetition is known: more than the broker has under way to us at once.
const SEEN_READINGS: usize = 256;
/// While a danger lasts, an alarm is repeated every so many readings.
const REPEAT_READINGS: u32 = 5;

/// Class of a glucose value (Battelino et al., Diabetes Care 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    DangerousLow,
    Low,
    InRange,
    High,
    DangerousHigh,
}

impl Level {
    /// The class of a value in mg/dL.
    pub fn of(glucose_mg_dl: f64) -> Self {
        match glucose_mg_dl {
            g if g < DANGEROUS_LOW => Self::DangerousLow,
            g if g < LOW => Self::Low,
            g if g <= TARGET_HIGH => Self::InRange,
            g if g <= DANGEROUS_HIGH => Self::High,
            _ => Self::DangerousHigh,
        }
    }

    /// True below 54 and above 250 mg/dL.
    pub fn is_dangerous(self) -> bool {
        matches!(self, Self::DangerousLow | Self::DangerousHigh)
    }

    /// The class as messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DangerousLow => "dangerous-low",
            Self::Low => "low",
            Self::InRange => "in-range",
            Self::High => "high",
            Self::DangerousHigh => "dangerous-high",
        }
    }
}

/// Direction and speed of a glucose value, in the steps that sensors show as arrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trend {
    Unknown,
    FallingFast,
    Falling,
    Steady,
    Rising,
    RisingFast,
}

impl Trend {
    /// mg/dL a minute, in the steps that sensors show as arrows.
    fn of(rate: f64) -> Self {
        match rate {
            r if r <= -2.0 => Self::FallingFast,
            r if r <= -1.0 => Self::Falling,
            r if r < 1.0 => Self::Steady,
            r if r < 2.0 => Self::Rising,
            _ => Self::RisingFast,
        }
    }

    /// The trend as messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::FallingFast => "falling-fast",
            Self::Falling => "falling",
            Self::Steady => "steady",
            Self::Rising => "rising",
            Self::RisingFast => "rising-fast",
        }
    }
}

/// Outcome of one reading: an alarm, a summary, both or neither.
#[derive(Debug, Default, PartialEq)]
pub struct Assessment {
    /// The reading was assessed before: QoS 1 may deliver it again, byte for byte.
    pub repeated: bool,
    pub alarm: Option<Alarm>,
    pub summary: Option<Summary>,
}

/// Watches patients. No I/O, no clock.
#[derive(Debug)]
pub struct Monitor {
    summary_every: u32,
    patients: BTreeMap<String, Patient>,
}

#[derive(Debug, Default)]
struct Patient {
    /// Minutes and values, newest last.
    recent: VecDeque<(i64, f64)>,
    /// Times at which the newest readings were sampled and published, newest last.
    seen: VecDeque<(String, u64)>,
    danger: Option<Level>,
    readings_in_danger: u32,
    count: u32,
    in_range: u32,
    sum: f64,
    min: f64,
    max: f64,
}

impl Monitor {
    /// A monitor that sums up after every `summary_every` readings of a patient.
    pub fn new(summary_every: u32) -> Self {
        Self { summary_every: summary_every.max(1), patients: BTreeMap::new() }
    }

    /// Assesses one reading. Of more patients than a limit, the further ones have no outcome.
    pub fn assess(&mut self, reading: &Reading) -> Assessment {
        if !self.patients.contains_key(&reading.patient) && self.patients.len() >= PATIENTS_MAX {
            return Assessment::default();
        }
        let patient = self.patients.entry(reading.patient.clone()).or_default();
        if !patient.is_new(reading) {
            return Assessment { repeated: true, ..Assessment::default() };
        }
        let level = Level::of(reading.glucose_mg_dl);
        let trend = patient.trend(reading);
        let alarm = patient.alarms(level).then(|| Alarm {
            patient: reading.patient.clone(),
            glucose_mg_dl: reading.glucose_mg_dl,
            level: level.as_str().into(),
            trend: trend.as_str().into(),
            sampled: reading.sampled.clone(),
            published_us: reading.published_us,
        });
        patient.count(reading.glucose_mg_dl, level);
        let summary = (patient.count >= self.summary_every).then(|| patient.summary(&reading.patient));
        Assessment { repeated: false, alarm, summary }
    }
}

impl Patient {
    fn is_new(&mut self, reading: &Reading) -> bool {
        let key = (reading.sampled.clone(), reading.published_us);
        let new = !self.seen.contains(&key);
        if new {
            self.seen.push_back(key);
            if self.seen.len() > SEEN_READINGS {
                self.seen.pop_front();
            }
        }
        new
    }

    fn trend(&mut self, reading: &Reading) -> Trend {
        let Some(now) = minutes(&reading.sampled) else { return Trend::Unknown };
        // A trace that begins anew, or a sensor whose clock was set back.
        if self.recent.back().is_some_and(|(last, _)| *last >= now) {
            self.recent.clear();
        }
        self.recent.push_back((now, reading.glucose_mg_dl));
        if self.recent.len() > TREND_READINGS {
            self.recent.pop_front();
        }
        match self.recent.front() {
            Some((then, value)) if *then < now => {
                #[expect(clippy::cast_precision_loss, reason = "minutes between readings")]
                let elapsed = (now - then) as f64;
                Trend::of((reading.glucose_mg_dl - value) / elapsed)
            }
            _ => Trend::Unknown,
        }
    }

    /// At the beginning of a danger, and again while it lasts.
    fn alarms(&mut self, level: Level) -> bool {
        if !level.is_dangerous() {
            self.danger = None;
            return false;
        }
        if self.danger != Some(level) {
            (self.danger, self.readings_in_danger) = (Some(level), 0);
        }
        let now = self.readings_in_danger.is_multiple_of(REPEAT_READINGS);
        self.readings_in_danger = self.readings_in_danger.wrapping_add(1);
        now
    }

    fn count(&mut self, value: f64, level: Level) {
        if self.count == 0 {
            (self.min, self.max, self.sum, self.in_range) = (value, value, 0.0, 0);
        }
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.in_range += u32::from(level == Level::InRange);
    }

    fn summary(&mut self, patient: &str) -> Summary {
        let count = self.count;
        let summary = Summary {
            patient: patient.into(),
            count,
            min: self.min,
            mean: rounded(self.sum / f64::from(count)),
            max: self.max,
            time_in_range: rounded(f64::from(self.in_range) / f64::from(count)),
        };
        self.count = 0;
        summary
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(minute: u32, glucose_mg_dl: f64) -> Reading {
        Reading {
            patient: "p".into(),
            glucose_mg_dl,
            sampled: format!("2026-01-12T{:02}:{:02}", minute / 60, minute % 60),
            published_us: u64::from(minute),
        }
    }

    #[test]
    fn levels() {
        use Level as L;
        for (value, level) in [
            (39.0, L::DangerousLow),
            (53.9, L::DangerousLow),
            (54.0, L::Low),
            (69.9, L::Low),
            (70.0, L::InRange),
            (180.0, L::InRange),
            (180.1, L::High),
            (250.0, L::High),
            (250.1, L::DangerousHigh),
        ] {
            assert_eq!(Level::of(value), level, "{value}");
        }
    }

    #[test]
    fn an_alarm_comes_at_once_and_is_repeated_while_the_danger_lasts() {
        let mut monitor = Monitor::new(1000);
        let values = [60.0, 53.0, 52.0, 51.0, 50.0, 49.0, 48.0, 60.0, 53.0, 251.0, 250.0];
        let alarms: Vec<usize> = values
            .iter()
            .enumerate()
            .filter(|(n, value)| {
                monitor.assess(&reading(u32::try_from(*n).unwrap() * 3, **value)).alarm.is_some()
            })
            .map(|(n, _)| n)
            .collect();
        // 53 (first), 48 (sixth in a row), 53 again after 60, and the high.
        assert_eq!(alarms, [1, 6, 8, 9]);
    }

    #[test]
    fn the_alarm_tells_the_trend() {
        let mut monitor = Monitor::new(1000);
        let mut last = None;
        for (n, value) in [100.0, 93.0, 86.0, 79.0, 72.0, 65.0, 53.0].into_iter().enumerate() {
            last = monitor.assess(&reading(u32::try_from(n).unwrap() * 3, value)).alarm;
        }
        let alarm = last.unwrap();
        assert_eq!((alarm.level.as_str(), alarm.trend.as_str()), ("dangerous-low", "falling-fast"));
        // The day begins anew: nothing to compare with.
        let next_day = Reading { published_us: 1, ..reading(0, 300.0) };
        assert_eq!(monitor.assess(&next_day).alarm.unwrap().trend, "unknown");
        for (rate, trend) in [
            (-3.0, Trend::FallingFast),
            (-1.5, Trend::Falling),
            (0.0, Trend::Steady),
            (1.5, Trend::Rising),
            (2.0, Trend::RisingFast),
        ] {
            assert_eq!(Trend::of(rate), trend);
        }
    }

    #[test]
    fn summaries_count_each_reading_once() {
        let mut monitor = Monitor::new(4);
        let mut summaries = Vec::new();
        for (n, value) in [60.0, 100.0, 140.0, 200.0, 90.0, 90.0, 90.0, 90.0].into_iter().enumerate() {
            summaries.extend(monitor.assess(&reading(u32::try_from(n).unwrap(), value)).summary);
        }
        let first =
            Summary { patient: "p".into(), count: 4, min: 60.0, mean: 125.0, max: 200.0, time_in_range: 0.5 };
        assert_eq!(summaries[0], first);
        assert_eq!((summaries[1].min, summaries[1].max, summaries[1].time_in_range), (90.0, 90.0, 1.0));
        assert_eq!(summaries.len(), 2);
    }

    #[test]
    fn a_reading_that_comes_again_is_assessed_once() {
        let mut monitor = Monitor::new(3);
        let low = reading(0, 40.0);
        assert!(monitor.assess(&low).alarm.is_some());
        for _ in 0..20 {
            let again = monitor.assess(&low);
            assert!(again.repeated && again.alarm.is_none() && again.summary.is_none());
        }
        monitor.assess(&reading(3, 41.0));
        assert!(monitor.assess(&low).repeated, "also after others");
        // The next day at the same time, and another patient.
        let later = Reading { published_us: low.published_us + 1, ..low.clone() };
        assert_eq!(monitor.assess(&later).summary.unwrap().count, 3);
        assert!(monitor.assess(&Reading { patient: "other".into(), ..low }).alarm.is_some());
    }

    #[test]
    fn patients_are_bounded() {
        let mut monitor = Monitor::new(1);
        for n in 0..1000 {
            let mut reading = reading(0, 40.0);
            reading.patient = format!("p{n}");
            assert_eq!(monitor.assess(&reading).alarm.is_some(), n < PATIENTS_MAX);
        }
    }

    /// The traces of this example hold what their README says.
    #[test]
    fn the_traces_alarm_as_they_should() {
        for (name, level) in [
            ("adult-001", None),
            ("adolescent-001", Some("dangerous-low")),
            ("child-001", Some("dangerous-high")),
        ] {
            let file = format!("{}/traces/{name}.csv", env!("CARGO_MANIFEST_DIR"));
            let mut monitor = Monitor::new(60);
            let mut levels = std::collections::BTreeSet::new();
            for sample in crate::trace::read(std::path::Path::new(&file)).unwrap() {
                let reading = Reading {
                    patient: name.into(),
                    glucose_mg_dl: sample.glucose_mg_dl,
                    sampled: sample.sampled,
                    published_us: 0,
                };
                levels.extend(monitor.assess(&reading).alarm.map(|alarm| alarm.level));
            }
            assert_eq!(levels.into_iter().collect::<Vec<_>>(), Vec::from_iter(level), "{name}");
        }
    }
}
