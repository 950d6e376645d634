//! Times for people.

use edgewarden_names::UnixTime;
use time::OffsetDateTime;
use time::macros::format_description;

/// Date and time in UTC: `2026-11-21 05:14:16Z`.
pub fn date(at: UnixTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    i64::try_from(at.0)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(format).ok())
        .unwrap_or_else(|| at.to_string())
}

/// Time since `at` in one unit: `12 s`, `5 min`, `3 h`, `2 d`.
pub fn age(at: UnixTime, now: UnixTime) -> String {
    span(now.after(at).as_secs())
}

/// A duration in one unit, rounded down: `12 s`, `5 min`, `3 h`, `2 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(date(UnixTime(0)), "1970-01-01 00:00:00Z");
        assert_eq!(date(UnixTime(u64::MAX)), u64::MAX.to_string());
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (172_800, "2 d")] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(age(UnixTime(10), UnixTime(5)), "0 s");
    }
}
