//! Host names that a deployment grants to a module, for certificates of its servers.

use std::collections::BTreeSet;

use edgewarden_names::ModuleName;

use crate::module::Module;

pub const SERVER_NAMES_MAX: usize = 16;

/// Names that no deployment can grant: that of `gatewayd`'s own certificate, and the one that means every machine
/// itself.
const TAKEN: [&str; 2] = ["gateway", "localhost"];

/// Each is a host name, belongs to one module, and means nobody else: a module with another's name would be taken for it.
pub(crate) fn check(modules: &[Module]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut taken: BTreeSet<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    taken.extend(ModuleName::RESERVED);
    taken.extend(TAKEN);
    for module in modules {
        let wrong = |rule: String| Err(format!("module `{}`: {rule}", module.name));
        if module.server_names.len() > SERVER_NAMES_MAX {
            return wrong(format!("more than {SERVER_NAMES_MAX} server names"));
        }
        if !module.iotedge && !module.server_names.is_empty() {
            return wrong("server names are for modules with `iotedge = true`".into());
        }
        for name in &module.server_names {
            if !is_host_name(name) {
                return wrong(format!("`{}` is not a host name in lower case", name.escape_debug()));
            }
            // The first label too: resolvers search domains.
            let first = name.split_once('.').map_or(name.as_str(), |(first, _)| first);
            if taken.contains(name.as_str()) || TAKEN.contains(&first) || name.ends_with(".localhost") {
                return wrong(format!("the server name `{name}` means somebody else"));
            }
            if !seen.insert(name.as_str()) {
                return wrong(format!("the server name `{name}` is there twice"));
            }
        }
    }
    Ok(())
}

/// RFC 1123 section 2.1, in lower case, not to be taken for an address.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        matches!(label.len(), 1..=63)
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
    };
    let numeric = name.split('.').next_back().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    name.len() <= 253 && !numeric && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(names: &[&str]) -> Vec<Module> {
        let image = format!("r/a@sha256:{}", "ab".repeat(32));
        let one = |name: &str, names: &[&str]| {
            let value =
                serde_json::json!({"name": name, "image": image, "iotedge": true, "server_names": names});
            serde_json::from_value(value).unwrap()
        };
        vec![one("alerts", names), one("analytics", &["twice"])]
    }

    #[test]
    fn a_name_is_a_host_name_that_means_this_module_alone() {
        for names in [&[][..], &["hub", "alerts.plant.example", "a-1.b2", "xn--bcher-kva.example"]] {
            assert_eq!(check(&modules(names)), Ok(()), "{names:?}");
        }
        let long = "a.".repeat(126) + "ab";
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a b",
            "*.plant.example",
            "a/b",
            "bücher",
            "a\0",
            "10.77.0.1",
            "1",
            "::1",
            &long,
            "gateway",
            "gateway.plant.example",
            "localhost",
            "a.localhost",
            "identityd",
            "analytics",
            "alerts",
            "twice",
        ] {
            assert!(check(&modules(&[name])).is_err(), "{name:?}");
        }
        assert!(check(&modules(&["a", "a"])).is_err());
        let many: Vec<_> = (0..=SERVER_NAMES_MAX).map(|n| format!("n{n}")).collect();
        assert!(check(&modules(&many.iter().map(String::as_str).collect::<Vec<_>>())).is_err());
        let mut closed = modules(&["hub"]);
        closed[0].iotedge = false;
        assert!(check(&closed).is_err());
    }
}
