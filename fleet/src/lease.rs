//! Lives of gateway CA certificates: a site that is offline for months has a longer lease, as the operator says.
//!
//! A gateway judges itself what it may do meanwhile: by its verdict, its measured boot, its deployment.

use std::time::Duration;

use edgewarden_names::UnixTime;
use serde::{Deserialize, Serialize};

use crate::selection::Labels;

/// Life of a gateway CA certificate that no [`Lease`] is about.
pub const ORDINARY: Duration = Duration::from_secs(30 * 86_400);
const DAYS_MAX: u16 = 365;
const LEASES_MAX: usize = 64;

/// Entry `[[lease]]` of `fleet.toml`: the life of some gateways' CA certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Life of a gateway CA's certificate, 1 to 365 days.
    pub days: u16,
    /// The gateways that have all of these labels; without any: every gateway.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Checks the number of leases and the days of each. The error is the broken limit, in words.
pub fn check(leases: &[Lease]) -> Result<(), String> {
    if leases.len() > LEASES_MAX {
        return Err(format!("at most {LEASES_MAX} entries of `lease`"));
    }
    match leases.iter().find(|lease| !(1..=DAYS_MAX).contains(&lease.days)) {
        Some(lease) => Err(format!("`days` of a lease is 1 to {DAYS_MAX}, not {}", lease.days)),
        None => Ok(()),
    }
}

/// The life of a certificate for a gateway with these labels: by the first entry that is about it.
pub fn lifetime(leases: &[Lease], labels: &Labels) -> Duration {
    let is_about = |lease: &&Lease| lease.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    let found = leases.iter().find(is_about);
    found.map_or(ORDINARY, |lease| Duration::from_secs(u64::from(lease.days) * 86_400))
}

/// Validity of the gateway CA certificate that a gateway was given last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// From then on its renewal is late: gateways ask for it after the first third, as they say themselves.
    pub overdue: UnixTime,
    pub ends: UnixTime,
}

/// State of a gateway CA certificate at one moment, see [`Certificate::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateState {
    Good,
    /// Its renewal is overdue.
    Expiring,
    Expired,
}

impl CertificateState {
    /// The same word as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
        }
    }
}

impl Certificate {
    /// Validity from `from` to `ends`, with a renewal that is overdue shortly after the first third.
    pub fn lasting(from: UnixTime, ends: UnixTime) -> Self {
        let life = ends.after(from);
        // A hundredth is for the renewal itself.
        Self { overdue: from.plus(life / 3 + life / 100), ends }
    }

    /// State of this certificate at `now`.
    pub fn state(&self, now: UnixTime) -> CertificateState {
        if self.ends <= now {
            CertificateState::Expired
        } else if self.overdue <= now {
            CertificateState::Expiring
        } else {
            CertificateState::Good
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn the_first_entry_that_is_about_a_gateway_counts() {
        let lease = |days, pairs: &[(&str, &str)]| Lease { days, labels: labels(pairs) };
        let leases = [lease(365, &[("site", "island"), ("link", "none")]), lease(90, &[("site", "island")])];
        for (pairs, days) in [
            (&[("site", "island"), ("link", "none"), ("x", "y")][..], 365),
            (&[("site", "island"), ("link", "dsl")], 90),
            (&[("site", "plant")], 30),
            (&[], 30),
        ] {
            assert_eq!(lifetime(&leases, &labels(pairs)).as_secs() / 86_400, days, "{pairs:?}");
        }
        assert_eq!(lifetime(&[lease(7, &[])], &labels(&[])).as_secs() / 86_400, 7, "for every gateway");
    }

    #[test]
    fn a_certificate_is_said_to_run_out_after_its_first_third() {
        let certificate = Certificate::lasting(UnixTime(1000), UnixTime(1300));
        for (now, state) in [
            (0, CertificateState::Good),
            (1102, CertificateState::Good),
            (1103, CertificateState::Expiring),
            (1299, CertificateState::Expiring),
            (1300, CertificateState::Expired),
            (u64::MAX, CertificateState::Expired),
        ] {
            assert_eq!(certificate.state(UnixTime(now)), state, "{now}");
        }
        let never_good = Certificate::lasting(UnixTime(9), UnixTime(1));
        assert_eq!(never_good.state(UnixTime(5)), CertificateState::Expired);
    }

    #[test]
    fn a_lease_has_limits() {
        let lease = |days| Lease { days, labels: Labels::new() };
        for (leases, good) in [
            (vec![lease(1), lease(365)], true),
            (vec![lease(0)], false),
            (vec![lease(366)], false),
            (vec![lease(30); LEASES_MAX + 1], false),
        ] {
            assert_eq!(check(&leases).is_ok(), good);
        }
        for text in ["days = 3\nlabel = {}", "days = -1", "days = 70000", "labels = {}", "days = \"1\""] {
            assert!(toml::from_str::<Lease>(text).is_err(), "{text}");
        }
    }
}
