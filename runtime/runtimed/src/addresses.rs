//! Module numbers: stable for as long as the module is in the deployment, over restarts and reboots.
//!
//! The first address of the module network is the gateway's own; the module with number n has the n-th after it, the
//! interface `ew<n>`, and a range of users of its own ([`users`]). The table is on disk, because other modules
//! know the address by their hosts file. A table that does not prove that it is ours counts for nothing: what runs keeps the
//! address of its start record, the others get new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use edgewarden_names::ModuleName;
use edgewarden_oci::execution::IDS;
use edgewarden_oci::records::RecordKey;
use edgewarden_platform::durable;
use edgewarden_platform::user_namespace::UserRange;
use edgewarden_protocol::control::StartRecord;
use edgewarden_protocol::deployment::MODULES_MAX;
use serde::{Deserialize, Serialize};

use crate::error::RunError;

/// Number and address of a module on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub number: u8,
    pub address: Ipv4Addr,
}

/// Users of modules: above those of containers and below those that systemd reserves, so that no account and no other
/// program's range has them (<https://systemd.io/UIDS-GIDS/>). Each module has [`IDS`], each gateway of a machine 256 times
/// that.
pub const USERS_FIRST: u32 = 0x7000_0000;

/// The users and groups that the module with this number has as its 0 and up; `gateway` tells the gateways of one machine
/// apart, as far as four bits do.
pub fn users(gateway: u16, number: u8) -> UserRange {
    let first = USERS_FIRST | u32::from(gateway & 0xf) << 24 | u32::from(number) << 16;
    UserRange { first, count: IDS }
}

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
        let hosts = u32::MAX.unbounded_shr(length);
        if address.to_bits() & hosts != 0 {
            return Err(wrong("it has bits set after its length"));
        }
        Ok(Self { first: address.to_bits() })
    }

    /// The gateway's own address.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.saturating_add(1))
    }

    /// The address of the module with this number: the n-th after the gateway's.
    pub fn module(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.saturating_add(1).saturating_add(number.into()))
    }

    /// The number of the module that has this address.
    fn number(self, address: Ipv4Addr) -> Option<u8> {
        (1..=NUMBER_MAX).find(|number| self.module(*number) == address)
    }
}

/// The numbers given to modules, 1 to 250.
#[derive(Debug)]
pub struct Addresses {
    path: PathBuf,
    network: ModuleNetwork,
    table: Table,
    /// `None` until the table is read.
    key: Option<Arc<RecordKey>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    numbers: BTreeMap<ModuleName, u8>,
}

impl Table {
    /// Has every module a number of its own that is a module's?
    fn is_possible(&self) -> bool {
        let mut seen = BTreeSet::new();
        self.numbers.values().all(|number| (1..=NUMBER_MAX).contains(number) && seen.insert(*number))
    }
}

/// Place of the table among records, bound into its MAC ([`RecordKey::seal`]).
const PLACE: &str = "addresses";
const NUMBER_MAX: u8 = 250;
const _: () = assert!(MODULES_MAX < NUMBER_MAX as usize);

impl Addresses {
    /// The table at `path`, which is read when its key is there.
    pub fn new(path: PathBuf, network: ModuleNetwork) -> Self {
        Self { path, network, table: Table::default(), key: None }
    }

    /// `true` once the table was read, or made anew, under its key.
    pub fn is_read(&self) -> bool {
        self.key.is_some()
    }

    /// Reads the table. When it is not proven, broken or impossible, it is made from where modules run.
    pub fn read(&mut self, key: Arc<RecordKey>, running: &[StartRecord]) -> Result<(), RunError> {
        let read =
            durable::read(&self.path, FILE_BYTES_MAX).map_err(RunError::io("read the address table"))?;
        if let Some(bytes) = read {
            let table = key.open::<Table>(PLACE, &bytes).filter(Table::is_possible);
            self.table = table.unwrap_or_else(|| {
                tracing::warn!(path = %self.path.display(), "the address table is not one that was kept here: it is made anew");
                self.of_running(running)
            });
        }
        self.key = Some(key);
        Ok(())
    }

    fn of_running(&self, running: &[StartRecord]) -> Table {
        let number =
            |record: &StartRecord| Some((record.module.clone(), self.network.number(record.address)?));
        let table = Table { numbers: running.iter().filter_map(number).collect() };
        if table.is_possible() { table } else { Table::default() }
    }

    pub fn network(&self) -> ModuleNetwork {
        self.network
    }

    /// The module's number, from 1 to 250; `None` when it has none.
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
            let key = self.key.as_ref().ok_or_else(|| RunError::Config("no address table is read".into()))?;
            let bytes = key.seal(PLACE, &table).map_err(|error| RunError::Config(error.to_string()))?;
            durable::write(&self.path, &bytes, 0o600).map_err(RunError::io("write the address table"))?;
            self.table = table;
        }
        Ok(())
    }

    /// Every module with its number and address, by name.
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
    fn no_two_modules_have_one_user() {
        let mut seen = std::collections::HashSet::new();
        for (gateway, number) in [(0, 1), (0, 250), (1, 1), (15, 250)] {
            let users = users(gateway, number);
            assert!(
                users.first >= USERS_FIRST
                    && users.first.checked_add(users.count).is_some_and(|end| end <= 0x7fff_0000)
            );
            assert!(seen.insert(users.first), "{users:?}");
        }
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
        let open = |key: u8, running: &[StartRecord]| {
            let mut addresses = Addresses::new(path.clone(), network);
            addresses.read(Arc::new(RecordKey::new(&[key; 32])), running).unwrap();
            addresses
        };
        let mut addresses = open(7, &[]);
        addresses.assign(&names(&["b", "c"]), &[]).unwrap();
        let b = addresses.number(&names(&["b"])[0]);
        addresses.assign(&names(&["a", "c"]), &names(&["b"])).unwrap();
        assert_eq!(addresses.number(&names(&["b"])[0]), b, "it still runs");
        let mut addresses = open(7, &[]);
        let c = addresses.number(&names(&["c"])[0]);
        assert_eq!(c, Some(2));
        addresses.assign(&names(&["a", "c", "d"]), &[]).unwrap();
        assert_eq!(addresses.number(&names(&["d"])[0]), b, "a free number is given again");
        assert!(addresses.hosts().contains("10.77.0.1 gateway\n10.77.0.4 a\n10.77.0.3 c\n10.77.0.2 d\n"));

        // What somebody else wrote counts for nothing; what runs keeps its place.
        let kept = std::fs::read(&path).unwrap();
        let running = |module: &str, address: Ipv4Addr| StartRecord {
            instance: format!("{module}-1"),
            module: ModuleName::parse(module).unwrap(),
            generation: edgewarden_names::Generation(1),
            manifest: edgewarden_names::Digest::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap(),
            epoch: edgewarden_names::Epoch(1),
            pid: 10,
            pid_started: 1,
            cgroup: "/x".into(),
            address,
            at: edgewarden_names::UnixTime(1),
            vouchers: Vec::new(),
        };
        let live = [running("c", network.module(9)), running("far", Ipv4Addr::new(192, 0, 2, 1))];
        let c = ModuleName::parse("c").unwrap();
        assert_eq!(open(7, &live).number(&c), Some(2), "as it was kept");
        assert_eq!(open(8, &live).number(&c), Some(9), "another gateway's table");
        for forged in
            ["", "{", r#"{"numbers":{"c":5}}"#, r#"{"record":"{\"numbers\":{\"c\":5}}","mac":"00"}"#]
        {
            std::fs::write(&path, forged).unwrap();
            assert_eq!(open(7, &live).number(&c), Some(9), "{forged}");
        }
        for impossible in
            [BTreeMap::from([("c", 0)]), BTreeMap::from([("c", 251)]), BTreeMap::from([("a", 5), ("c", 5)])]
        {
            let table = serde_json::json!({"numbers": impossible});
            std::fs::write(&path, RecordKey::new(&[7; 32]).seal(PLACE, &table).unwrap()).unwrap();
            assert_eq!(open(7, &live).number(&c), Some(9), "{table}");
        }
        std::fs::write(&path, kept).unwrap();
        let same = [running("a", network.module(4)), running("b", network.module(4))];
        assert_eq!(open(8, &same).iter().count(), 0, "no two modules have one place");
    }
}
