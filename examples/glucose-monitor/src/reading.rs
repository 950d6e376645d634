use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Longest text of a patient or a time.
const TEXT_BYTES_MAX: usize = 64;

/// Message of the sensor: one reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub patient: String,
    pub glucose_mg_dl: f64,
    /// Time of the measurement, `YYYY-MM-DDTHH:MM`.
    pub sampled: String,
    /// Time of publication: microseconds since 1970.
    pub published_us: u64,
}

/// Message of `analytics` to `alerts`, one line each; answered with [`ACKNOWLEDGED`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    pub patient: String,
    pub glucose_mg_dl: f64,
    pub level: String,
    pub trend: String,
    pub sampled: String,
    pub published_us: u64,
}

/// Answer of `alerts` to an [`Alarm`] that it has taken: one line.
pub const ACKNOWLEDGED: &str = "ok\n";

/// Message of `analytics` for the clinic, over some readings of one patient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub patient: String,
    pub count: u32,
    pub min: f64,
    pub mean: f64,
    pub max: f64,
    /// Share of readings from 70 to 180 mg/dL, 0 to 1.
    pub time_in_range: f64,
}

impl Reading {
    /// A reading that makes sense, or why it does not.
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        let reading: Self = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let text = |text: &str| {
            !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
        };
        if !text(&reading.patient) || !text(&reading.sampled) {
            return Err("a text is empty or too long".into());
        }
        // No living patient is outside; a sensor that says so is broken.
        if !(1.0..=1000.0).contains(&reading.glucose_mg_dl) {
            return Err(format!("{} mg/dL is not a glucose value", reading.glucose_mg_dl));
        }
        Ok(reading)
    }
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_parsed_strictly() {
        let good = r#"{"patient":"a","glucose_mg_dl":52.5,"sampled":"2026-01-12T06:00","published_us":1}"#;
        assert_eq!(Reading::parse(good.as_bytes()).unwrap().patient, "a");
        for bad in [
            good.replace("52.5", "0"),
            good.replace("52.5", "-5"),
            good.replace("52.5", "1e9"),
            good.replace("52.5", "null"),
            good.replace("\"a\"", "\"\""),
            good.replace("\"a\"", "\"a\\nALARM\""),
            good.replace("\"a\"", &format!("{:?}", "a".repeat(65))),
            good.replace('}', ",\"extra\":1}"),
            good.replace(",\"published_us\":1", ""),
            String::new(),
        ] {
            assert!(Reading::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
