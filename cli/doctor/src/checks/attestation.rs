//! Checks of the boot's measurements and of the fleet's verdict.

use edgewarden_evidence::HashAlg;
use edgewarden_protocol::enrol::VerdictState;

use super::words::{not_running, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `attestation`: the boot's measurements and the fleet's verdict.
pub const CHECKS: &[Check] = &[
    Check {
        id: "attestation.event_log",
        title: "the boot's event log is there",
        remedy: "turn on measured boot in the firmware; `ls -l /sys/kernel/security/tpm0/` shows whether Linux got the log",
        run: |facts| match &facts.boot.event_log {
            None => no_tpm(),
            Some(Ok(log)) => Finding::pass(format!("{} bytes", log.len())),
            Some(Err(why)) => Finding::fail(why.clone()),
        },
    },
    Check {
        id: "attestation.event_log_form",
        title: "the event log can be read to its end",
        remedy: "update the firmware; `tpm2_eventlog FILE` shows what other programs make of the log",
        run: |facts| match &facts.boot.parsed {
            None => no_tpm(),
            Some(Ok(log)) => Finding::pass(format!("{} events", log.events().len())),
            Some(Err(why)) => Finding::fail(why.clone()),
        },
    },
    Check {
        id: "attestation.event_log_sha256",
        title: "the event log has SHA-256 digests",
        remedy: "turn on the TPM's SHA-256 bank in the firmware and restart the machine",
        run: sha256,
    },
    Check {
        id: "attestation.joined",
        title: "the gateway is enrolled",
        remedy: "`edgewarden join …` with a token from `edgewarden-fleet token create --gateway NAME`",
        run: joined,
    },
    Check {
        id: "attestation.verdict",
        title: "the fleet's verdict on this boot is fresh",
        remedy: "`edgewarden renew`",
        run: verdict,
    },
    Check {
        id: "attestation.renewal",
        title: "the gateway renews in time",
        remedy: "`edgewarden renew` says why not",
        run: renewal,
    },
];

fn no_tpm() -> Finding {
    Finding::skip("there is no TPM, or no log to read")
}

fn sha256(facts: &Facts) -> Finding {
    let Some(Ok(log)) = &facts.boot.parsed else { return no_tpm() };
    let measured = facts.boot.sha256_events;
    if !log.banks().contains(&HashAlg::Sha256) {
        Finding::fail("it was written without them")
    } else if measured == 0 {
        Finding::fail("nothing was measured into the SHA-256 bank")
    } else {
        Finding::pass(format!("{measured} measurements"))
    }
}

fn joined(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    match &status.verdict {
        Some(_) => Finding::pass(format!("{} in {}", status.gateway, status.trust_domain)),
        None => match &status.est {
            Some(est) if est.certified => Finding::pass(format!(
                "{} in {}, by the site's CA; no fleet judges this boot",
                status.gateway, status.trust_domain
            )),
            Some(_) => Finding::fail("the site's CA has not certified it yet")
                .remedy("`edgewarden est status` says what is in the way; `edgewarden est enroll` asks now"),
            None => Finding::fail("no fleet has judged it yet"),
        },
    }
}

fn verdict(facts: &Facts) -> Finding {
    let Some(verdict) = facts.daemons.identity.as_ref().and_then(|status| status.verdict.as_ref()) else {
        return Finding::skip("the gateway is not enrolled, or identityd does not answer");
    };
    let age = span(facts.now.after(verdict.at));
    match verdict.state {
        VerdictState::Fresh => {
            let reference = verdict.reference.as_deref().unwrap_or("none");
            Finding::pass(format!("{age} old, hardware: {}, reference: {reference}", verdict.hardware))
        }
        VerdictState::Stale => Finding::warn(format!("it is {age} old, and too old to be fresh")),
        VerdictState::Failed => {
            let failed: Vec<String> = verdict
                .checks
                .iter()
                .filter(|check| !check.passed)
                .map(|check| format!("{}: {}", check.name, check.detail))
                .collect();
            Finding::fail(format!("the gateway is not what it should be: {}", failed.join("; ")))
                .remedy("`edgewarden renew` asks again; if the change of the boot was meant, the operator accepts it with `edgewarden-fleet reference accept`")
        }
        VerdictState::Unknown => Finding::warn("it is unknown"),
    }
}

/// runtimed renews at half of the certificate's life; well after that something is in its way.
const OVERDUE: (u64, u64) = (3, 5);

fn renewal(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let (Some(verdict), Some(expires)) = (&status.verdict, status.gateway_ca_expires) else {
        return Finding::skip("there is nothing to renew");
    };
    if expires <= facts.now {
        return Finding::skip("it ended: see the check `certificates.gateway_ca`");
    }
    let life = expires.after(verdict.at);
    let due = verdict.at.0.saturating_add(life.as_secs() / OVERDUE.1 * OVERDUE.0);
    let age = span(facts.now.after(verdict.at));
    if facts.now.0 > due {
        Finding::warn(format!("the last renewal was {age} ago, of a certificate for {}", span(life)))
    } else {
        Finding::pass(format!("last {age} ago"))
    }
}
