//! The kernel's part of an epoch: one nftables script that replaces the table `inet edgewarden` as a whole.
//!
//! Everything that comes from or goes to a module's interface (`ew<n>`) is dropped unless a set names it:
//! `flows` (module to module), `broker` (module to the gateway's MQTT port), `sources` (which address is behind
//! which interface). What touches no such interface is left to other tables.
//!
//! There is no blanket rule for established connections: each packet of a flow, in both directions, must be in
//! `flows`, so that a revoked flow ends with the epoch that allowed it. Dropped packets leave an entry in the
//! bounded set `denied`; those with a false source address in `spoofed`, by interface only, so that false addresses
//! cannot crowd out true ones; those of a module that has too many flows open in `flooded`, by interface.
//!
//! A second table of the same name stands in each module's own network namespace ([`walls`]), where nothing that is done
//! to the gateway's rule sets reaches it: whoever removes the first table opens no flow. It remembers no connections, so
//! it has none to run out of; a flow's direction shows by its first packet, the one TCP segment with SYN and without ACK.
//! What it drops at the source leaves an entry in its own `denied`.
//!
//! Injection: nothing but [`Interface`], addresses, port numbers and the epoch's number goes into the script.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use edgewarden_names::{ModuleName, Principal};

use crate::epoch::CompiledEpoch;

/// Entries of `denied`: interface, source, destination, port (0 for what has none).
pub const DENIED_MAX: u32 = 4096;

/// The table's name, in the gateway's namespace and in each module's.
pub const TABLE: &str = "edgewarden";

/// Flows that one module may have open, with those that the kernel has not forgotten yet.
pub const MODULE_FLOWS_MAX: u32 = 2048;
/// Flows that one module may have open on a gateway with the smallest connection table.
pub const MODULE_FLOWS_MIN: u32 = 64;
/// Modules that the connection table is shared among at least.
const SHARES_MIN: NonZeroU32 = NonZeroU32::new(8).unwrap();

/// One module's share of a connection table of `entries`: all modules together leave half of it to the gateway itself.
pub fn flows_max(entries: u32, modules: usize) -> u32 {
    let modules = u32::try_from(modules).unwrap_or(u32::MAX);
    let shares = NonZeroU32::new(modules).map_or(SHARES_MIN, |modules| modules.max(SHARES_MIN));
    (entries / 2 / shares).clamp(MODULE_FLOWS_MIN, MODULE_FLOWS_MAX)
}

/// The host end of a module's veth pair: `ew` and a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(Box<str>);

/// A name that is not `ew` and one to nine digits; its first 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a module interface is `ew` and a number of at most 9 digits, not `{}`", .0.escape_debug())]
pub struct InterfaceError(Box<str>);

impl Interface {
    /// Accepts `ew` and one to nine digits.
    pub fn parse(name: &str) -> Result<Self, InterfaceError> {
        let digits = name.strip_prefix("ew").unwrap_or_default();
        if (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(name.into()))
        } else {
            Err(InterfaceError(name.chars().take(32).collect::<String>().into()))
        }
    }

    /// The interface's name, such as `ew7`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Interface and address of a module's instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub module: ModuleName,
    pub interface: Interface,
    pub address: Ipv4Addr,
}

/// Address and port of the gateway's broker for modules, and what each module may have open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySide {
    pub address: Ipv4Addr,
    pub mqtt_port: u16,
    /// Flows that each module may have open; `None` for a kernel that cannot count them.
    pub flows_max: Option<u32>,
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
        gateway.flows_max,
    )
}

/// The table that lets nothing through: for the time before the first epoch.
pub fn closed() -> String {
    let none = BTreeSet::new();
    script(0, &[("sources", &none), ("broker", &none), ("flows", &none), ("replies", &none)], None)
}

/// The table for each module's own namespace: what the module may open and who may open what at it.
pub fn walls(
    epoch: &CompiledEpoch,
    placements: &[Placement],
    gateway: &GatewaySide,
) -> BTreeMap<ModuleName, String> {
    let mut ends: BTreeMap<&ModuleName, (&Placement, Ends)> =
        placements.iter().map(|placement| (&placement.module, (placement, Ends::default()))).collect();
    for (module, (_, ends)) in &mut ends {
        if epoch.may_connect(&Principal::Module((*module).clone())).allowed {
            ends.reach.insert((gateway.address, gateway.mqtt_port));
        }
    }
    for (from, to, port) in epoch.flows() {
        let address = |module| ends.get(module).map(|(placement, _)| placement.address);
        if let (Some(near), Some(far)) = (address(&from), address(&to)) {
            if let Some((_, ends)) = ends.get_mut(&from) {
                ends.reach.insert((far, port));
            }
            if let Some((_, ends)) = ends.get_mut(&to) {
                ends.callers.insert((near, port));
            }
        }
    }
    ends.into_iter()
        .map(|(module, (placement, ends))| (module.clone(), ends.wall(placement.address)))
        .collect()
}

/// The wall of a module that nothing is known of yet: its own loopback interface and nothing else.
pub fn closed_wall(address: Ipv4Addr) -> String {
    Ends::default().wall(address)
}

/// The other ends of a module's flows.
#[derive(Debug, Default)]
struct Ends {
    /// Destinations that the module may open: address and port.
    reach: BTreeSet<(Ipv4Addr, u16)>,
    /// Flows that others may open to the module: their address and its port.
    callers: BTreeSet<(Ipv4Addr, u16)>,
}

impl Ends {
    fn wall(&self, address: Ipv4Addr) -> String {
        let mut script = replacing();
        let _ = writeln!(script, "table inet {TABLE} {{");
        for (name, ends) in [("reach", &self.reach), ("callers", &self.callers)] {
            let elements: Vec<String> =
                ends.iter().map(|(address, port)| format!("{address} . {port}")).collect();
            let _ = writeln!(script, "  set {name} {{\n    type ipv4_addr . inet_service");
            if !elements.is_empty() {
                let _ = writeln!(script, "    elements = {{ {} }}", elements.join(", "));
            }
            script.push_str("  }\n");
        }
        let _ = write!(
            script,
            "  set denied {{
    type ipv4_addr . inet_service
    flags dynamic, timeout
    size {DENIED_MAX}
    timeout 1h
    counter
  }}
  chain refuse {{
    meta l4proto {{ tcp, udp }} update @denied {{ ip daddr . th dport counter }}
    meta l4proto != {{ tcp, udp }} update @denied {{ ip daddr . 0 counter }}
    drop
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname \"lo\" accept
    meta nfproto != ipv4 drop
    ip daddr . tcp dport @reach accept
    ip daddr . tcp sport != @callers goto refuse
    tcp flags & (syn | ack) != syn accept
    goto refuse
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname \"lo\" accept
    ip daddr != {address} drop
    ip saddr . tcp dport @callers accept
    ip saddr . tcp sport != @reach drop
    tcp flags & (syn | ack) != syn accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
  }}
}}
"
        );
        script
    }
}

/// Makes the table when it is not there, so that its removal cannot fail; what follows is in the same transaction.
fn replacing() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn script(epoch: u64, sets: &[(&str, &BTreeSet<String>)], flows_max: Option<u32>) -> String {
    let mut script = replacing();
    // Writing to a `String` cannot fail.
    let _ = writeln!(script, "table inet {TABLE} {{\n  comment \"epoch {epoch}\"");
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
"
    );
    for name in ["spoofed", "flooded"] {
        let _ = write!(
            script,
            "  set {name} {{
    type ifname
    flags dynamic, timeout
    size {DENIED_MAX}
    timeout 1h
    counter
  }}
"
        );
    }
    if let Some(most) = flows_max {
        let _ = write!(
            script,
            "  set open {{
    type ifname
    flags dynamic
    size {DENIED_MAX}
  }}
  chain refuse_flooding {{
    update @flooded {{ iifname counter }}
    drop
  }}
  chain permit {{
    ct state new add @open {{ iifname ct count over {most} }} goto refuse_flooding
    accept
  }}
"
        );
    } else {
        script.push_str("  chain permit {\n    accept\n  }\n");
    }
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
    meta l4proto tcp ct direction original iifname . ip saddr . ip daddr . th dport @flows goto permit
    meta l4proto tcp ct direction reply ct state established iifname . ip saddr . ip daddr . th sport @replies accept
    iifname "ew*" goto refuse
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "ew*" jump to_gateway
  }
  chain to_gateway {
    jump from_module
    meta l4proto tcp ct direction original iifname . ip saddr . ip daddr . th dport @broker goto permit
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

    #[test]
    fn a_module_has_its_share_of_the_connection_table() {
        for (entries, modules, expected) in [
            (262_144, 1, MODULE_FLOWS_MAX),
            (262_144, 128, 1024),
            (65_536, 10, MODULE_FLOWS_MAX),
            (16_384, 10, 819),
            (4096, 128, MODULE_FLOWS_MIN),
            (0, 0, MODULE_FLOWS_MIN),
        ] {
            assert_eq!(flows_max(entries, modules), expected, "{entries} / {modules}");
        }
    }
}
