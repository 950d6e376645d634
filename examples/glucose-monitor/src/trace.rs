//! Recorded readings: CSV with the columns `time` (`YYYY-MM-DDTHH:MM`) and `glucose_mg_dl`.

use std::path::Path;

const TRACE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One recorded reading; `sampled` is `YYYY-MM-DDTHH:MM`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub sampled: String,
    pub glucose_mg_dl: f64,
}

/// Reads a CSV file of at most 16 MiB. The error names the file and, where there is one, the line.
pub fn read(path: &Path) -> Result<Vec<Sample>, String> {
    let place = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("cannot read `{place}`: {error}"))?.len();
    if size > TRACE_BYTES_MAX {
        return Err(format!("`{place}` has {size} bytes, over the limit of {TRACE_BYTES_MAX}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{place}`: {error}"))?;
    parse(&text).map_err(|error| format!("`{place}`: {error}"))
}

fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let mut lines = text.lines();
    if lines.next() != Some("time,glucose_mg_dl") {
        return Err("the first line is not `time,glucose_mg_dl`".into());
    }
    let mut samples = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let sample =
            line.split_once(',').filter(|(time, _)| minutes(time).is_some()).and_then(|(time, value)| {
                Some(Sample { sampled: time.into(), glucose_mg_dl: value.parse().ok()? })
            });
        samples.push(sample.ok_or_else(|| format!("line {number} is not a time and a number"))?);
    }
    if samples.is_empty() { Err("it has no readings".into()) } else { Ok(samples) }
}

/// Minutes of a time `YYYY-MM-DDTHH:MM`, for differences: days since 1970 in the Gregorian calendar.
pub fn minutes(time: &str) -> Option<i64> {
    let (date, clock) = time.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (hour, minute) = clock.split_once(':')?;
    let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute);
    if !fits {
        return None;
    }
    // Counts from March, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    Some(days * 1440 + hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(minutes("1970-01-01T00:00"), Some(0));
        assert_eq!(minutes("1970-01-02T01:01"), Some(1501));
        assert_eq!(minutes("2026-01-12T06:03").unwrap() - minutes("2026-01-12T06:00").unwrap(), 3);
        assert_eq!(minutes("2024-03-01T00:00").unwrap() - minutes("2024-02-28T00:00").unwrap(), 2880);
        assert_eq!(minutes("2026-01-01T00:00").unwrap() - minutes("2025-12-31T23:57").unwrap(), 3);
        for bad in
            ["", "2026-01-12", "2026-01-12 06:00", "2026-13-01T00:00", "2026-01-01T24:00", "x-1-1T0:0", "T:"]
        {
            assert_eq!(minutes(bad), None, "{bad}");
        }
    }

    #[test]
    fn traces_are_read_strictly() {
        let good = "time,glucose_mg_dl\n2026-01-12T06:00,152.1\n";
        assert_eq!(
            parse(good).unwrap(),
            [Sample { sampled: "2026-01-12T06:00".into(), glucose_mg_dl: 152.1 }]
        );
        for bad in [
            "",
            "time,glucose_mg_dl\n",
            "2026-01-12T06:00,152.1\n",
            &good.replace("152.1", "high"),
            &good.replace(',', ";"),
            &good.replace("06:00", "noon"),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
