//! The fleet's server.

use std::time::Duration;

use super::words::{no_config, no_fleet, not_running, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `fleet`: the fleet's server.
pub const CHECKS: &[Check] = &[
    Check {
        id: "fleet.reachable",
        title: "the fleet's server takes connections",
        remedy: "see `ip route get ADDRESS` and `getent hosts NAME`; the gateway goes on without the fleet meanwhile",
        run: |facts| match (&facts.fleet.reachable, facts.settings()) {
            (_, None) => no_config(),
            (None, Some(_)) => no_fleet(),
            (Some(Ok(())), _) => Finding::pass("it does"),
            (Some(Err(why)), _) => Finding::fail(why.clone()),
        },
    },
    Check {
        id: "fleet.certificate",
        title: "the server proves to be the fleet, by a certificate under the pinned root that lasts",
        remedy: "compare the fleet's `root.pem` with the pinned one and both clocks; `systemctl restart edgewarden-fleet` makes a new certificate",
        run: certificate,
    },
    Check {
        id: "fleet.contact",
        title: "runtimed heard from the fleet in the last five minutes",
        remedy: "the message says what the fleet answered; `edgewarden-fleet device list` shows the other side",
        run: contact,
    },
];

const CERTIFICATE_LOW: Duration = Duration::from_secs(86400);
/// The fleet holds a request for 30 seconds, so that a good link is never silent for longer.
const SILENCE_MAX: Duration = Duration::from_secs(300);

fn certificate(facts: &Facts) -> Finding {
    match &facts.fleet.certificate {
        None => Finding::skip("the server is not reached, or there is no good root"),
        Some(Err(why)) => Finding::fail(why.clone()),
        Some(Ok(expires)) => {
            let left = expires.after(facts.now);
            let said = format!("it ends in {}", span(left));
            if left < CERTIFICATE_LOW { Finding::warn(said) } else { Finding::pass(said) }
        }
    }
}

fn contact(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let fleet = &runtime.fleet;
    match (&fleet.url, &fleet.last_contact, &fleet.error) {
        (None, ..) => no_fleet(),
        (_, _, Some(error)) => Finding::warn(format!("the last attempt failed: {error}")),
        (_, None, None) => Finding::skip("it was not asked yet"),
        (_, Some(at), None) => {
            let silence = facts.now.after(*at);
            let said = format!("{} ago", span(silence));
            if silence > SILENCE_MAX { Finding::warn(said) } else { Finding::pass(said) }
        }
    }
}
