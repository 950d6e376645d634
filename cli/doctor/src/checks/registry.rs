//! The registries of the deployment.

use super::words::advise;
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `registry`: the deployment's registries.
pub const CHECKS: &[Check] = &[Check {
    id: "registry.reachable",
    title: "each registry of the deployment still has its image",
    remedy: "see `curl -v https://REGISTRY/v2/`; what runs goes on, but nothing new can be pulled",
    run: reachable,
}];

fn reachable(facts: &Facts) -> Finding {
    let registries = &facts.fleet.registries;
    if registries.is_empty() {
        return Finding::skip("there is no deployment");
    }
    let away = registries.iter().filter_map(|(host, answer)| answer.as_ref().err().map(|why| (host, why)));
    let wrong: Vec<String> = away.map(|(host, why)| format!("{host}: {why}")).collect();
    advise(&wrong, registries.keys().cloned().collect::<Vec<_>>().join(", "))
}
