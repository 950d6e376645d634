//! Prints answers: a table for people, JSON for scripts.

use serde::Serialize;

use crate::exit::Problem;

/// Form of answers on standard output, of the option `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// Certificates, of `svid fetch`.
    Pem,
}

/// One JSON document on one line.
pub fn json(value: &impl Serialize) -> Result<(), Problem> {
    println!("{}", serde_json::to_string(value).map_err(Problem::failed)?);
    Ok(())
}

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    print!("{}", edgewarden_terminal::table(head, rows));
}

/// Time left until `then`: `in 29 d`, `in 52 min`, `passed`.
pub fn until(then: edgewarden_names::UnixTime, now: edgewarden_names::UnixTime) -> String {
    let seconds = then.after(now).as_secs();
    match seconds {
        0 => "passed".into(),
        1..=119 => format!("in {seconds} s"),
        120..=7199 => format!("in {} min", seconds / 60),
        7200..=172_799 => format!("in {} h", seconds / 3600),
        _ => format!("in {} d", seconds / 86400),
    }
}

/// Date and time in UTC: `2026-11-21 06:13:40Z`.
pub fn at(time: edgewarden_names::UnixTime) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let seconds = i64::try_from(time.0).ok();
    let moment = seconds.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.and_then(|moment| moment.format(FORM).ok()).unwrap_or_else(|| time.to_string())
}
