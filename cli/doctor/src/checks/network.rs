//! Ports and routes of the gateway itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::words::{no_config, not_running, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `network`: ports and routes.
pub const CHECKS: &[Check] = &[
    Check {
        id: "network.leaf_mqtt",
        title: "leaf devices can connect (MQTT)",
        remedy: "`ss -ltnp` shows who has the port; else change `mqtt.leaf_listen` and restart gatewayd",
        run: |facts| match facts.settings() {
            Some(config) => listens(facts, config.mqtt.leaf_listen),
            None => no_config(),
        },
    },
    Check {
        id: "network.leaf_enrolment",
        title: "leaf devices can enrol (HTTPS)",
        remedy: "`ss -ltnp` shows who has the port; else change `mqtt.leaf_enrol_listen` and restart gatewayd",
        run: |facts| match facts.settings() {
            Some(config) => listens(facts, config.mqtt.leaf_enrol_listen),
            None => no_config(),
        },
    },
    Check {
        id: "network.module_mqtt",
        title: "modules can connect (MQTT)",
        remedy: "`systemctl restart edgewarden-runtimed edgewarden-gatewayd`: the first puts the address in place, the second listens there",
        run: module_mqtt,
    },
    Check {
        id: "network.module_network",
        title: "the module network is an IPv4 network with room",
        remedy: "set `runtime.module_network` to a free private network of /8 to /24, such as `10.77.0.0/24`",
        run: module_network,
    },
    Check {
        id: "network.overlap",
        title: "the module network overlaps no route of the machine",
        remedy: "choose another `runtime.module_network`, and restart the gateway",
        run: overlap,
    },
];

fn listens(facts: &Facts, wanted: SocketAddr) -> Finding {
    if facts.daemons.gateway.is_none() {
        return not_running("gatewayd");
    }
    let listening = match &facts.network.listening {
        Ok(listening) => listening,
        Err(why) => return Finding::skip(why.clone()),
    };
    // The unspecified IPv6 address takes IPv4 as well, as Linux is set by default.
    let fits = |found: &&SocketAddr| {
        found.port() == wanted.port() && (found.ip() == wanted.ip() || found.ip().is_unspecified())
    };
    match listening.iter().find(fits) {
        Some(found) => Finding::pass(format!("{found}")),
        None => Finding::fail(format!("nothing listens on {wanted}")),
    }
}

/// The network's first address and length.
fn network(text: &str) -> Option<(Ipv4Addr, u32)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (Ipv4Addr, u32) = (address.parse().ok()?, length.parse().ok()?);
    let inside = address.to_bits() & mask(length) == address.to_bits();
    ((8..=24).contains(&length) && inside).then_some((address, length))
}

fn mask(length: u32) -> u32 {
    u32::MAX.unbounded_shl(32_u32.saturating_sub(length))
}

fn module_network(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let text = &config.runtime.module_network;
    match network(text) {
        Some((address, _)) if !address.is_private() => Finding::warn(format!(
            "`{text}` is not a private network: its owners cannot be reached from here"
        )),
        Some(_) => Finding::pass(text.clone()),
        None => Finding::fail(format!("`{text}` is not an IPv4 network of /8 to /24")),
    }
}

fn module_mqtt(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    match network(&config.runtime.module_network) {
        Some((first, _)) => {
            let own = Ipv4Addr::from_bits(first.to_bits().saturating_add(1));
            listens(facts, SocketAddr::new(IpAddr::V4(own), config.mqtt.module_port))
        }
        None => Finding::skip("there is no module network"),
    }
}

fn overlap(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let Some((first, length)) = network(&config.runtime.module_network) else {
        return Finding::skip("there is no module network");
    };
    let routes = match &facts.network.routes {
        Ok(routes) => routes,
        Err(why) => return Finding::skip(why.clone()),
    };
    // The default route overlaps everything and means nothing; our own interfaces lie inside by design.
    let foreign = routes.iter().filter(|route| route.length > 0 && !own(&route.interface));
    let meets = foreign.filter(|route| {
        let shared = mask(length.min(route.length));
        first.to_bits() & shared == route.network.to_bits() & shared
    });
    let wrong: Vec<String> = meets
        .map(|route| format!("{}/{} is reached by {}", route.network, route.length, route.interface))
        .collect();
    pass_unless(&wrong, config.runtime.module_network.clone())
}

/// `ew<n>`
fn own(interface: &str) -> bool {
    interface.strip_prefix("ew").is_some_and(|number| number.parse::<u8>().is_ok())
}
