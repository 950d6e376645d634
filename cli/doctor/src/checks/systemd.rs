//! The units.

use super::words::pass_unless;
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `systemd`: the daemons' units.
pub const CHECKS: &[Check] = &[
    Check {
        id: "systemd.units",
        title: "where systemd runs, it knows the three daemons",
        remedy: "install the files of `systemd/` into /etc/systemd/system, then `systemctl daemon-reload`",
        run: |facts| {
            units_without(facts, |unit| (!unit.present).then(|| format!("there is no `{}`", unit.name)))
        },
    },
    Check {
        id: "systemd.enabled",
        title: "where systemd runs, it starts the three daemons with the machine",
        remedy: "`systemctl enable --now edgewarden-identityd edgewarden-runtimed edgewarden-gatewayd`",
        run: |facts| {
            let known = |unit: &crate::facts::Unit| {
                (unit.present && !unit.enabled).then(|| format!("`{}` is not enabled", unit.name))
            };
            units_without(facts, known)
        },
    },
];

fn units_without(facts: &Facts, fault: impl Fn(&crate::facts::Unit) -> Option<String>) -> Finding {
    if !facts.systemd.runs {
        return Finding::skip("systemd does not run here; `edgewarden up` supervises the daemons");
    }
    let wrong: Vec<String> = facts.systemd.units.iter().filter_map(fault).collect();
    pass_unless(&wrong, "all three")
}
