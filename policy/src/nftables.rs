//! The kernel's part of an epoch: one nftables script that replaces the table `inet edgewarden` as a whole.
//!
//! Everything that comes from or goes to a module's interface (`ew<n>`) is dropped unless a set names it:
//! `flows` (module to module), `broker` (module to the gateway's MQTT port), `sources` (which address is behind
//! which interface). What touches no such interface is left to other tables.
//!
//! There is no blanket rule for established connections: each packet of a flow, in both directions, must be in
//! `flows`, so that a revoked flow ends with the epoch that allowed it. Dropped packets leave an entry in the
//! bounded set `denied`; those with a false source address in `spoofed`, by interface only, so that false addresses
//! cannot crowd out true ones.
//!
//! Injection: nothing but [`Interface`], addresses, port numbers and the epoch's number goes into the script.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use edgewarden_names::ModuleName;

use crate::epoch::CompiledEpoch;
use crate::principal::Principal;

/// Entries of `denied`: interface, source, destination, port (0 for what has none).
pub const DENIED_MAX: u32 = 4096;

/// The host end of a module's veth pair: `ew` and a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a module interface is `ew` and a number of at most 9 digits, not `{}`", .0.escape_debug())]
pub struct InterfaceError(Box<str>);

impl Interface {
    pub fn parse(name: &str) -> Result<Self, InterfaceError> {
        let digits = name.strip_prefix("ew").unwrap_or_default();
        if (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(name.into()))
        } else {
            Err(InterfaceError(name.chars().take(32).collect::<String>().into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a module's instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub module: ModuleName,
    pub interface: Interface,
    pub address: Ipv4Addr,
}

/// Where modules reach the gateway's broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySide {
    pub address: Ipv4Addr,
    pub mqtt_port: u16,
}

/// A script that is taken, by `nft -f -`, in one transaction: at no moment is there no rule.
///
/// It replaces the table with its sets: read `denied` and `spoofed` before.
pub fn ruleset(epoch: &CompiledEpoch, placements: &[Placement], gateway: &GatewaySide) -> String {
    let mut sources = BTreeSet::new();
    let mut broker = BTreeSet::new();
    for placement in placements {
        let Placement { module, interface, address } = placement;
        sources.insert(format!("{:?} . {address}", interface.as_str()));
        if epoch.may_connect(&Principal::Module(module.clone())).allowed {
            broker.insert(format!(
                "{:?} . {address} . {} . {}",
                interface.as_str(),
                gateway.address,
                gateway.mqtt_port
            ));
        }
    }
    let mut flows = BTreeSet::new();
    let mut replies = BTreeSet::new();
    for (from, to, port) in epoch.flows() {
        for client in placements.iter().filter(|placement| placement.module == from) {
            for server in placements.iter().filter(|placement| placement.module == to) {
                let (near, far) = (client.address, server.address);
                flows.insert(format!("{:?} . {near} . {far} . {port}", client.interface.as_str()));
                replies.insert(format!("{:?} . {far} . {near} . {port}", server.interface.as_str()));
            }
        }
    }
    script(
        epoch.epoch().0,
        &[("sources", &sources), ("broker", &broker), ("flows", &flows), ("replies", &replies)],
    )
}

/// The table that lets nothing through: for the time before the first epoch.
pub fn closed() -> String {
    let none = BTreeSet::new();
    script(0, &[("sources", &none), ("broker", &none), ("flows", &none), ("replies", &none)])
}

fn script(epoch: u64, sets: &[(&str, &BTreeSet<String>)]) -> String {
    let mut script = String::from("add table inet edgewarden\ndelete table inet edgewarden\n");
    // Writing to a `String` cannot fail.
    let _ = writeln!(script, "table inet edgewarden {{\n  comment \"epoch {epoch}\"");
    for (name, elements) in sets {
        let key = if *name == "sources" {
            "ifname . ipv4_addr"
        } else {
            "ifname . ipv4_addr . ipv4_addr . inet_service"
        };
        let _ = writeln!(script, "  set {name} {{\n    type {key}");
        if !elements.is_empty() {
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            let _ = writeln!(script, "    elements = {{ {} }}", elements.join(", "));
        }
        script.push_str("  }\n");
    }
    let _ = write!(
        script,
        "  set denied {{
    type ifname . ipv4_addr . ipv4_addr . inet_service
    flags dynamic, timeout
    size {DENIED_MAX}
    timeout 1h
    counter
  }}
  set spoofed {{
    type ifname
    flags dynamic, timeout
    size {DENIED_MAX}
    timeout 1h
    counter
  }}
"
    );
    script.push_str(CHAINS);
    script
}

/// A set that is full lets the `update` fail and the packet come to the drop that follows.
const CHAINS: &str = r#"  chain refuse {
    meta l4proto { tcp, udp } update @denied { iifname . ip saddr . ip daddr . th dport counter }
    meta l4proto != { tcp, udp } update @denied { iifname . ip saddr . ip daddr . 0 counter }
    drop
  }
  chain refuse_spoofed {
    update @spoofed { iifname counter }
    drop
  }
  chain from_module {
    meta nfproto != ipv4 drop
    iifname . ip saddr != @sources goto refuse_spoofed
    ct state invalid drop
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname != "ew*" oifname != "ew*" accept
    iifname "ew*" jump from_module
    meta l4proto tcp ct direction original iifname . ip saddr . ip daddr . th dport @flows accept
    meta l4proto tcp ct direction reply ct state established iifname . ip saddr . ip daddr . th sport @replies accept
    iifname "ew*" goto refuse
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "ew*" jump to_gateway
  }
  chain to_gateway {
    jump from_module
    meta l4proto tcp ct direction original iifname . ip saddr . ip daddr . th dport @broker accept
    goto refuse
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname != "ew*" accept
    meta l4proto tcp ct direction reply ct state established accept
    drop
  }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_module_interface_is_one() {
        for good in ["ew0", "ew1", "ew123456789"] {
            assert_eq!(Interface::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "ew",
            "eth0",
            "ew1 ",
            "ew1\"",
            "ewa",
            "ew-1",
            "ew1; flush ruleset",
            "ew1234567890",
            "ew１",
            "EW1",
            "ew*",
        ] {
            assert!(Interface::parse(bad).is_err(), "{bad}");
        }
    }
}
