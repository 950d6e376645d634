//! `config.toml` and what it names.

use edgewarden_names::GatewayName;

use super::words::{no_config, no_fleet, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::{ConfigState, Facts, Kind};

/// Checks of the area `config`: `config.toml` and the files that it names.
pub const CHECKS: &[Check] = &[
    Check {
        id: "config.present",
        title: "the configuration is there and can be read",
        remedy: "enrol this gateway: `edgewarden join --name NAME --trust-domain DOMAIN --fleet URL --fleet-root FILE --token-file FILE --operator-key FILE`",
        run: present,
    },
    Check {
        id: "config.valid",
        title: "the configuration has the right form and no unknown keys",
        remedy: "correct the place that the message names in `config.toml`; docs/formats.md lists every key",
        run: valid,
    },
    Check {
        id: "config.ranges",
        title: "values are in their ranges, and no certificate is to outlive its issuer",
        remedy: "correct the key that the message names in `config.toml`",
        run: ranges,
    },
    Check {
        id: "config.fleet",
        title: "a fleet, or a site's own CA, is configured",
        remedy: "`edgewarden join` enrols this gateway in a fleet; without one nothing is attested and nothing is deployed",
        run: fleet,
    },
    Check {
        id: "config.fleet_root",
        title: "the fleet's pinned root is a CA certificate of this trust domain",
        remedy: "fetch the fleet's `root.pem` again over a channel that you trust, and join again",
        run: fleet_root,
    },
    Check {
        id: "config.operator_keys",
        title: "at least one operator key is pinned, and each can be read",
        remedy: "put the operators' public keys (PEM, P-256) where `fleet.operator_keys` or `est.operator_keys` says, and restart the gateway",
        run: operator_keys,
    },
    Check {
        id: "config.protected",
        title: "only root can change the configuration, the pinned root and the operator keys",
        remedy: "`chown root: FILE && chmod go-w FILE` for each file that the message names",
        run: protected,
    },
    Check {
        id: "config.plain_http",
        title: "registries are asked in plain HTTP on this machine only",
        remedy: "give the registry a certificate and take it out of `runtime.plain_http_registries`",
        run: plain_http,
    },
];

fn present(facts: &Facts) -> Finding {
    match &facts.config.state {
        ConfigState::Missing(why) => Finding::fail(why.clone()),
        _ => Finding::pass(format!("`{}`", facts.config.path.display())),
    }
}

fn valid(facts: &Facts) -> Finding {
    match &facts.config.state {
        ConfigState::Missing(_) => no_config(),
        ConfigState::Invalid(why) => Finding::fail(why.trim().replace('\n', " ")),
        ConfigState::Range(_) => Finding::pass("its form is right"),
        ConfigState::Good(config) => {
            let name: &GatewayName = &config.gateway.name;
            Finding::pass(format!("gateway {name} of {}", config.gateway.trust_domain))
        }
    }
}

fn ranges(facts: &Facts) -> Finding {
    match &facts.config.state {
        ConfigState::Range(why) => Finding::fail(why.clone()),
        ConfigState::Good(config) => {
            let identity = &config.identity;
            Finding::pass(format!(
                "modules {} s and leaf devices {} s, within the issuing CA's {} s",
                identity.svid_lifetime_seconds,
                identity.leaf_lifetime_seconds,
                identity.issuing_ca_lifetime_seconds
            ))
        }
        _ => no_config(),
    }
}

fn fleet(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    match (&config.fleet, &config.est) {
        (Some(fleet), _) => Finding::pass(fleet.url.clone()),
        (None, Some(est)) => {
            Finding::pass(format!("the site's CA at {}; no fleet judges this gateway", est.url))
        }
        (None, None) => Finding::warn("the configuration names no fleet"),
    }
}

fn fleet_root(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    match &facts.config.root {
        None => no_fleet(),
        Some(Err(why)) => Finding::fail(why.clone()),
        Some(Ok((_, root))) => {
            let domain = config.gateway.trust_domain.id();
            let mut wrong = Vec::new();
            if !root.is_ca {
                wrong.push("it is not a CA's certificate".to_owned());
            }
            if root.uris != [domain.as_str()] {
                wrong.push(format!("it is of `{}`, not of `{domain}`", root.uris.join(" ")));
            }
            pass_unless(&wrong, format!("the CA of `{domain}`, serial {}", root.serial))
        }
    }
}

fn operator_keys(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    if config.fleet.is_none() && config.est.is_none() {
        return no_fleet();
    }
    let keys = &facts.config.operator_keys;
    if keys.is_empty() {
        return Finding::fail("none is pinned, so that no deployment is ever accepted");
    }
    let wrong = keys
        .iter()
        .filter_map(|(path, key)| key.as_ref().err().map(|why| format!("`{}`: {why}", path.display())));
    pass_unless(&wrong.collect::<Vec<_>>(), format!("{} pinned", keys.len()))
}

/// Write by the group or by others.
const WRITE_BY_OTHERS: u32 = 0o022;

fn protected(facts: &Facts) -> Finding {
    let mut paths = vec![facts.config.path.clone()];
    paths.extend(facts.config.path.parent().map(Into::into));
    if let Some(fleet) = facts.settings().and_then(|config| config.fleet.as_ref()) {
        paths.push(fleet.root.clone());
    }
    if let Some(config) = facts.settings() {
        paths.extend(config.est.iter().map(|est| est.trust_anchors.clone()));
        paths.extend(config.operator_keys().iter().cloned());
    }
    let mut wrong = Vec::new();
    for path in &paths {
        // That a file is missing is the finding of another check.
        let Some(node) = facts.node(path) else { continue };
        if node.kind == Kind::Link {
            wrong.push(format!("`{}` is a symbolic link", path.display()));
        } else if node.uid != 0 {
            wrong.push(format!("`{}` belongs to user {}", path.display(), node.uid));
        } else if node.mode & WRITE_BY_OTHERS != 0 {
            wrong.push(format!("`{}` can be written by others (mode {:04o})", path.display(), node.mode));
        }
    }
    pass_unless(&wrong, format!("{} files and folders", paths.len()))
}

fn plain_http(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let local = |registry: &str| {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let away = config.runtime.plain_http_registries.iter().filter(|registry| !local(registry));
    let wrong: Vec<String> = away
        .map(|registry| {
            format!("`{registry}` is asked in plain HTTP over a network: others see what runs here")
        })
        .collect();
    super::words::advise(&wrong, "none over a network")
}
