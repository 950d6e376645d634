//! Checks that the policy that was decided is the one that is enforced.

use edgewarden_names::Epoch;

use super::words::not_running;
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `policy`: the decided one is the enforced one.
pub const CHECKS: &[Check] = &[
    Check {
        id: "policy.deployment",
        title: "a signed deployment is in force",
        remedy: "`edgewarden-fleet deploy FILE --key KEY --select LABEL=VALUE`, or `edgewarden deployment apply FILE` on a site without a network",
        run: deployment,
    },
    Check {
        id: "policy.packet_filter",
        title: "runtimed enforces the policy epoch in force",
        remedy: "`systemctl restart edgewarden-runtimed`; its log says why the epoch was not applied",
        run: |facts| match &facts.daemons.runtime {
            Some(runtime) => enforced(facts, "runtimed", runtime.epoch),
            None => not_running("runtimed"),
        },
    },
    Check {
        id: "policy.broker",
        title: "gatewayd enforces the policy epoch in force",
        remedy: "`systemctl restart edgewarden-gatewayd`; its log says why the epoch was not applied",
        run: |facts| match &facts.daemons.gateway {
            Some(gateway) => enforced(facts, "gatewayd", gateway.epoch),
            None => not_running("gatewayd"),
        },
    },
    Check {
        id: "policy.rules",
        title: "the kernel has the packet filter's rules",
        remedy: "`systemctl restart edgewarden-runtimed` puts them back; find out who removed the table `inet edgewarden`",
        run: rules,
    },
    Check {
        id: "policy.undisturbed",
        title: "nobody else changes what is enforced: rules, interfaces, routes, limits, mounts",
        remedy: "`edgewarden audit show` names who it was; have it leave the table `inet edgewarden` and the interfaces `ew*` alone",
        run: undisturbed,
    },
    Check {
        id: "policy.trusted",
        title: "the enforcers have not closed for want of a good verdict",
        remedy: "`edgewarden renew`",
        run: trusted,
    },
];

fn deployment(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    match (&status.deployment, &facts.daemons.deployment) {
        (None, _) => Finding::warn("there is none: no module runs"),
        (Some((name, version)), in_force) => {
            let signer = in_force.as_ref().map_or("unknown", |in_force| in_force.signed_by.as_str());
            Finding::pass(format!("{name} version {version}, signed by {signer}"))
        }
    }
}

fn enforced(facts: &Facts, who: &str, epoch: Option<Epoch>) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    match (status.epoch, epoch) {
        (None, _) => Finding::skip("no policy is in force"),
        (Some(decided), Some(epoch)) if decided == epoch => Finding::pass(format!("epoch {epoch}")),
        (Some(decided), Some(epoch)) => {
            Finding::fail(format!("{who} enforces epoch {epoch}, in force is epoch {decided}"))
        }
        (Some(decided), None) => Finding::fail(format!("{who} enforces none, in force is epoch {decided}")),
    }
}

/// Age in seconds from which on a repair is history.
const LATELY_SECONDS: u64 = 86_400;

fn undisturbed(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let enforcement = &runtime.enforcement;
    if let Some(lost) = &enforcement.lost {
        return Finding::fail(lost.to_string()).remedy(lost.reason.next_step());
    }
    match &enforcement.last {
        Some(last) if facts.now.0.saturating_sub(last.at.0) < LATELY_SECONDS => {
            let times = enforcement.repairs;
            Finding::warn(format!("it was changed and put back {times} times, at last: {}", last.what))
        }
        _ => Finding::pass("everything is in place"),
    }
}

const TABLE: &str = "table inet edgewarden";

fn rules(facts: &Facts) -> Finding {
    if facts.daemons.runtime.is_none() {
        return not_running("runtimed");
    }
    match &facts.programs.tables {
        Some(Ok(tables)) if tables.lines().any(|line| line.trim() == TABLE) => Finding::pass(TABLE),
        Some(Ok(_)) => Finding::fail(format!("there is no `{TABLE}`: nothing keeps modules apart")),
        _ => Finding::skip("`nft` does not answer"),
    }
}

fn trusted(facts: &Facts) -> Finding {
    match &facts.daemons.gateway {
        None => not_running("gatewayd"),
        Some(gateway) if gateway.trusted => Finding::pass("they are open"),
        // Before the gateway has joined there is nothing that could be trusted.
        Some(_) if facts.daemons.identity.as_ref().is_none_or(|status| status.verdict.is_none()) => {
            Finding::skip("the gateway is not enrolled")
        }
        Some(_) => Finding::fail("identityd says that the verdict forbids issuing: clients are turned away"),
    }
}
