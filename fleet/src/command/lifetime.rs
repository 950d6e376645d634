//! Lifetimes on the command line.

use std::time::Duration;

/// Duration from a number and one of `s`, `m`, `h`, `d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as `30m`, `1h` or `2d`");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(parse("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        for bad in
            ["", "1", "h", "-1h", "1w", "1.5h", "1hh", "99999999999999999999d", "18446744073709551615d", "é"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
