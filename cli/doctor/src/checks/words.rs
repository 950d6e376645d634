//! Findings and quantities in words, as several areas say them.

use std::time::Duration;

use crate::check::Finding;

pub(super) fn no_config() -> Finding {
    Finding::skip("there is no good configuration")
}

pub(super) fn no_fleet() -> Finding {
    Finding::skip("no fleet is configured")
}

pub(super) fn not_running(daemon: &str) -> Finding {
    Finding::skip(format!("{daemon} does not answer"))
}

/// `45 s`, `52 min`, `26 h`, `29 d`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// `640 KiB`, `12 MiB`, `3 GiB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} bytes"),
        1024..=1_048_575 => format!("{} KiB", bytes >> 10),
        1_048_576..=10_737_418_239 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// Passes when nothing is wrong; else says what is.
pub(super) fn pass_unless(wrong: &[String], fine: impl Into<String>) -> Finding {
    if wrong.is_empty() { Finding::pass(fine) } else { Finding::fail(wrong.join("; ")) }
}

/// The same, for what is no reason to stop.
pub(super) fn advise(wrong: &[String], fine: impl Into<String>) -> Finding {
    if wrong.is_empty() { Finding::pass(fine) } else { Finding::warn(wrong.join("; ")) }
}
