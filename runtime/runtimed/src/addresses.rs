//! Which address each module has: stable for as long as the module is in the deployment, over restarts and reboots.
//!
//! The first address of the module network is the gateway's own; the module with number n has the n-th after it and the
//! interface `ew<n>`. The table is on disk, because other modules know the address by their hosts file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use edgewarden_names::ModuleName;
use edgewarden_platform::durable;
use edgewarden_protocol::deployment::MODULES_MAX;
use serde::{Deserialize, Serialize};

use crate::RunError;

const FILE_BYTES_MAX: usize = 64 * 1024;

/// An IPv4 network, at least a /24.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleNetwork {
    first: u32,
}

impl ModuleNetwork {
    /// `a.b.c.d/len`
    pub fn parse(text: &str) -> Result<Self, RunError> {
        let wrong = |what: &str| RunError::Config(format!("`runtime.module_network` is `{text}`: {what}"));
        let (address, length) = text.split_once('/').ok_or_else(|| wrong("it is written `10.77.0.0/24`"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong("it is not an IPv4 network"))?;
        let length: u32 = length.parse().map_err(|_| wrong("its length is no number"))?;
        if !(8..=24).contains(&length) {
            return Err(wrong("its length is 8 to 24"));
        }
        let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
        if address.to_bits() & hosts != 0 {
            return Err(wrong("it has bits set after its length"));
        }
        Ok(Self { first: address.to_bits() })
    }

    /// The gateway's own address.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.saturating_add(1))
    }

    pub fn module(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.saturating_add(1).saturating_add(number.into()))
    }
}

/// The numbers given to modules, 1 to 250.
#[derive(Debug)]
pub struct Addresses {
    path: PathBuf,
    network: ModuleNetwork,
    table: Table,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    numbers: BTreeMap<ModuleName, u8>,
}

const NUMBER_MAX: u8 = 250;
const _: () = assert!(MODULES_MAX < NUMBER_MAX as usize);

impl Addresses {
    /// Reads the table; a broken one is an error rather than a new start, since modules may be running by it.
    pub fn open(path: PathBuf, network: ModuleNetwork) -> Result<Self, RunError> {
        let read = durable::read(&path, FILE_BYTES_MAX).map_err(RunError::io("read the address table"))?;
        let table = match read {
            None => Table::default(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| RunError::Config(format!("`{}` is broken: {error}", path.display())))?,
        };
        Ok(Self { path, network, table })
    }

    pub fn network(&self) -> ModuleNetwork {
        self.network
    }

    pub fn number(&self, module: &ModuleName) -> Option<u8> {
        self.table.numbers.get(module).copied()
    }

    /// Gives every module of the deployment a number; modules in neither list lose theirs. `kept` still run.
    pub fn assign(&mut self, modules: &[ModuleName], kept: &[ModuleName]) -> Result<(), RunError> {
        let mut table = self.table.clone();
        table.numbers.retain(|module, _| modules.contains(module) || kept.contains(module));
        for module in modules {
            if !table.numbers.contains_key(module) {
                let free =
                    (1..=NUMBER_MAX).find(|number| !table.numbers.values().any(|taken| taken == number));
                let free = free.ok_or_else(|| RunError::Config("there is no free module address".into()))?;
                table.numbers.insert(module.clone(), free);
            }
        }
        if table != self.table {
            let bytes = serde_json::to_vec(&table).map_err(|error| RunError::Config(error.to_string()))?;
            durable::write(&self.path, &bytes, 0o600).map_err(RunError::io("write the address table"))?;
            self.table = table;
        }
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ModuleName, u8, Ipv4Addr)> {
        self.table.numbers.iter().map(|(module, number)| (module, *number, self.network.module(*number)))
    }

    /// The hosts file of every container.
    pub fn hosts(&self) -> String {
        let mut text = format!("127.0.0.1 localhost\n{} gateway\n", self.network.gateway());
        for (module, _, address) in self.iter() {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{address} {module}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<ModuleName> {
        names.iter().map(|name| ModuleName::parse(name).unwrap()).collect()
    }

    #[test]
    fn networks() {
        let network = ModuleNetwork::parse("10.77.0.0/24").unwrap();
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(network.module(1), Ipv4Addr::new(10, 77, 0, 2));
        for bad in [
            "",
            "10.77.0.0",
            "10.77.0.0/25",
            "10.77.0.1/24",
            "10.77.0.0/7",
            "10.77.0.0/x",
            "fd00::/24",
            "a/24",
        ] {
            assert!(ModuleNetwork::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_module_keeps_its_address_until_it_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses.json");
        let network = ModuleNetwork::parse("10.77.0.0/24").unwrap();
        let mut addresses = Addresses::open(path.clone(), network).unwrap();
        addresses.assign(&names(&["b", "c"]), &[]).unwrap();
        let b = addresses.number(&names(&["b"])[0]);
        addresses.assign(&names(&["a", "c"]), &names(&["b"])).unwrap();
        assert_eq!(addresses.number(&names(&["b"])[0]), b, "it still runs");
        let mut addresses = Addresses::open(path.clone(), network).unwrap();
        let c = addresses.number(&names(&["c"])[0]);
        assert_eq!(c, Some(2));
        addresses.assign(&names(&["a", "c", "d"]), &[]).unwrap();
        assert_eq!(addresses.number(&names(&["d"])[0]), b, "a free number is given again");
        assert!(addresses.hosts().contains("10.77.0.1 gateway\n10.77.0.4 a\n10.77.0.3 c\n10.77.0.2 d\n"));
        std::fs::write(&path, "{").unwrap();
        assert!(Addresses::open(path, network).is_err());
    }
}
