//! The kernel's part of an epoch: one nftables script that replaces the table `inet edgewarden` as a whole.

use std::net::Ipv4Addr;

use edgewarden_names::ModuleName;

use crate::epoch::CompiledEpoch;

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

/// The whole table as one script for `nft -f -`, which the kernel takes as one transaction.
///
/// It replaces the table: read the sets `denied` and `spoofed` before.
pub fn ruleset(_epoch: &CompiledEpoch, _placements: &[Placement], _gateway: &GatewaySide) -> String {
    String::new()
}
