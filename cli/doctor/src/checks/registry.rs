//! The registries of the deployment.

use super::words::{advise, no_config, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::{Facts, Kind};

/// Checks of the area `registry`: the deployment's registries, and the logins for them.
pub const CHECKS: &[Check] = &[
    Check {
        id: "registry.reachable",
        title: "each registry of the deployment still has its image",
        remedy: "see `curl -v https://REGISTRY/v2/`; what runs goes on, but nothing new can be pulled",
        run: reachable,
    },
    Check {
        id: "registry.secrets",
        title: "only root can read the logins for registries and proxies",
        remedy: "`chown root: FILE && chmod 0600 FILE` for each file that the message names; else registries that want a login are not asked (docs/registries.md)",
        run: secrets,
    },
];

/// Any access by group or others.
const NOT_OWNER: u32 = 0o077;

fn reachable(facts: &Facts) -> Finding {
    let registries = &facts.fleet.registries;
    if registries.is_empty() {
        return Finding::skip("there is no deployment");
    }
    let away = registries.iter().filter_map(|(host, answer)| answer.as_ref().err().map(|why| (host, why)));
    let wrong: Vec<String> = away.map(|(host, why)| format!("{host}: {why}")).collect();
    advise(&wrong, registries.keys().cloned().collect::<Vec<_>>().join(", "))
}

fn secrets(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let mut wrong = Vec::new();
    let mut files = 0;
    for path in config.runtime.secret_files() {
        files += 1;
        let shown = path.display();
        match facts.node(path) {
            None => wrong.push(format!("`{shown}` is not there")),
            Some(node) if node.kind != Kind::File => wrong.push(format!("`{shown}` is not a regular file")),
            Some(node) if node.uid != 0 => wrong.push(format!("`{shown}` belongs to user {}", node.uid)),
            Some(node) if node.mode & NOT_OWNER != 0 => {
                wrong.push(format!("`{shown}` is open to others (mode {:04o})", node.mode));
            }
            Some(_) => {}
        }
    }
    pass_unless(&wrong, format!("{files} files"))
}
