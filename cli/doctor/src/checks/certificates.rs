//! Checks of the ends of certificates.

use std::time::Duration;

use edgewarden_names::UnixTime;

use super::words::{no_config, not_running, pass_unless, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `certificates`: their ends.
pub const CHECKS: &[Check] = &[
    Check {
        id: "certificates.root",
        title: "the fleet's root is valid for 90 days more",
        remedy: "give the fleet a new root, and join every gateway with it before the old one ends",
        run: root,
    },
    Check {
        id: "certificates.gateway_ca",
        title: "the gateway CA's certificate is valid for a day more",
        remedy: "`edgewarden renew`",
        run: gateway_ca,
    },
    Check {
        id: "certificates.issuing_ca",
        title: "the issuing CA's certificate is valid",
        remedy: "`edgewarden renew`, then `edgewarden status`; identityd makes a new issuing CA by itself",
        run: issuing_ca,
    },
    Check {
        id: "certificates.lattice",
        title: "no certificate outlives its issuer",
        remedy: "`edgewarden renew` lengthens the gateway CA; else shorten `identity.leaf_lifetime_seconds`",
        run: lattice,
    },
    Check {
        id: "certificates.modules",
        title: "no module's certificate has ended",
        remedy: "`edgewarden svid rotate` issues them anew",
        run: modules,
    },
];

const ROOT_LOW: Duration = Duration::from_secs(90 * 86400);
const GATEWAY_LOW: Duration = Duration::from_secs(86400);

/// Ended, soon to end, or fine.
fn ends(expires: UnixTime, now: UnixTime, low: Duration) -> Finding {
    let left = expires.after(now);
    if left.is_zero() {
        Finding::fail(format!("it ended {} ago", span(now.after(expires))))
    } else if left < low {
        Finding::warn(format!("it ends in {}", span(left)))
    } else {
        Finding::pass(format!("it ends in {}", span(left)))
    }
}

fn root(facts: &Facts) -> Finding {
    match &facts.config.root {
        Some(Ok((_, root))) if facts.now < root.not_before => Finding::fail(format!(
            "it begins in {}; compare the clocks",
            span(root.not_before.after(facts.now))
        )),
        Some(Ok((_, root))) => ends(root.not_after, facts.now, ROOT_LOW),
        _ => Finding::skip("there is no good root"),
    }
}

fn gateway_ca(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    if let Some(lease) = status.lease.filter(|lease| lease.overdue && facts.now < lease.ends) {
        let (since, left) = (facts.now.after(lease.renewal_due), lease.ends.after(facts.now));
        return Finding::warn(format!(
            "its renewal is due for {}, and has not come; it ends in {}",
            span(since),
            span(left)
        ));
    }
    match status.gateway_ca_expires {
        Some(expires) => ends(expires, facts.now, GATEWAY_LOW),
        None => Finding::skip("the gateway is not enrolled"),
    }
}

fn issuing_ca(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    if status.gateway_ca_expires.is_none_or(|end| end <= facts.now) {
        return Finding::skip("the gateway CA has no valid certificate to make one under");
    }
    match status.issuing_ca_expires {
        Some(expires) => ends(expires, facts.now, Duration::ZERO),
        None => Finding::fail("identityd has none, so that nothing is issued"),
    }
}

fn lattice(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let (Some(gateway), Some(issuing)) = (status.gateway_ca_expires, status.issuing_ca_expires) else {
        return Finding::skip("there are no issuers yet");
    };
    if issuing > gateway {
        return Finding::fail(format!(
            "the issuing CA outlives the gateway CA by {}",
            span(issuing.after(gateway))
        ));
    }
    let (leaf, left) =
        (Duration::from_secs(config.identity.leaf_lifetime_seconds.into()), gateway.after(facts.now));
    if leaf > left {
        return Finding::warn(format!(
            "leaf devices are to get {}, and the gateway CA ends in {}: theirs are cut short",
            span(leaf),
            span(left)
        ));
    }
    Finding::pass("leaf device within issuing CA within gateway CA")
}

fn modules(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let ended =
        status.identities.iter().filter(|identity| identity.expires.is_some_and(|end| end <= facts.now));
    let wrong: Vec<String> = ended.map(|identity| format!("`{}`", identity.id)).collect();
    pass_unless(&wrong, format!("{} identities", status.identities.len()))
}
