//! Other trust domains.

use std::time::Duration;

use edgewarden_names::Reason;

use super::words::{not_running, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `federation`: other trust domains.
pub const CHECKS: &[Check] = &[
    Check {
        id: "federation.bundles",
        title: "of each other trust domain that the deployment names there is a bundle",
        remedy: "`edgewarden federation status` says what is in the way; `edgewarden federation refresh` asks now",
        run: bundles,
    },
    Check {
        id: "federation.endpoints",
        title: "the bundle endpoints of other trust domains answer, and their answers are taken",
        remedy: "`edgewarden federation status` says which does not and why; the last good bundle stays meanwhile",
        run: endpoints,
    },
];

/// A poll that fails is nothing yet.
const PATIENCE: Duration = Duration::from_secs(3600);

fn bundles(facts: &Facts) -> Finding {
    let Some(all) = &facts.daemons.federation else { return not_running("identityd") };
    if all.is_empty() {
        return Finding::skip("the deployment names none");
    }
    let without: Vec<String> = all
        .iter()
        .filter(|one| one.held.is_none())
        .map(|one| format!("`{}` has none", one.trust_domain))
        .collect();
    super::words::pass_unless(&without, format!("{} are held", all.len()))
}

fn endpoints(facts: &Facts) -> Finding {
    let Some(all) = &facts.daemons.federation else { return not_running("identityd") };
    if all.is_empty() {
        return Finding::skip("the deployment names none");
    }
    let said = all.iter().filter_map(|one| {
        let trouble = one.trouble.as_ref()?;
        let lasts = facts.now.after(trouble.since);
        // That one is away passes; that one is somebody else, or goes back, does not.
        let passes = trouble.refusal.reason == Reason::FederationUnavailable && lasts < PATIENCE;
        (!passes).then(|| format!("{} (for {})", trouble.refusal, span(lasts)))
    });
    super::words::advise(&said.collect::<Vec<_>>(), "they do")
}
