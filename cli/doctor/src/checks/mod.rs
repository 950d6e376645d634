//! The checks, one file an area. Pure: everything they know is in [`Facts`](crate::Facts).

mod attestation;
mod certificates;
mod clock;
mod config;
mod daemons;
mod disk;
mod est;
mod federation;
mod fleet;
mod kernel;
mod keystore;
mod messages;
mod modules;
mod network;
mod permissions;
mod policy;
mod programs;
mod registry;
mod systemd;

use std::sync::LazyLock;
use std::time::Duration;

use crate::check::{Check, Finding};

/// Every check. What others stand on comes first.
pub static CHECKS: LazyLock<Vec<Check>> = LazyLock::new(|| {
    [
        config::CHECKS,
        permissions::CHECKS,
        programs::CHECKS,
        kernel::CHECKS,
        disk::CHECKS,
        clock::CHECKS,
        systemd::CHECKS,
        daemons::CHECKS,
        keystore::CHECKS,
        attestation::CHECKS,
        certificates::CHECKS,
        policy::CHECKS,
        modules::CHECKS,
        messages::CHECKS,
        network::CHECKS,
        fleet::CHECKS,
        est::CHECKS,
        federation::CHECKS,
        registry::CHECKS,
    ]
    .concat()
});

fn no_config() -> Finding {
    Finding::skip("there is no good configuration")
}

fn no_fleet() -> Finding {
    Finding::skip("no fleet is configured")
}

fn not_running(daemon: &str) -> Finding {
    Finding::skip(format!("{daemon} does not answer"))
}

/// `45 s`, `52 min`, `26 h`, `29 d`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// `640 KiB`, `12 MiB`, `3 GiB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} bytes"),
        1024..=1_048_575 => format!("{} KiB", bytes >> 10),
        1_048_576..=10_737_418_239 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// Passes when nothing is wrong; else says what is.
fn judge(wrong: &[String], fine: impl Into<String>) -> Finding {
    if wrong.is_empty() { Finding::pass(fine) } else { Finding::fail(wrong.join("; ")) }
}

/// The same, for what is no reason to stop.
fn advise(wrong: &[String], fine: impl Into<String>) -> Finding {
    if wrong.is_empty() { Finding::pass(fine) } else { Finding::warn(wrong.join("; ")) }
}
