//! The kernel's part of the policy: which rule sets are to be in force, and what they refused.
//!
//! A rule set replaces the one before in a single transaction. It judges each packet of a flow, so that a flow that a
//! new epoch does not allow ends with the old epoch, without a look at the connection table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use edgewarden_names::{Epoch, ModuleName, Reason, Refusal};
use edgewarden_policy::CompiledEpoch;
use edgewarden_policy::nftables::{self, GatewaySide, Interface, Placement};
use edgewarden_protocol::control::Origin;

use crate::addresses::Addresses;
use crate::error::RunError;

/// A flow that is refused again and again is reported this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Flows that are remembered as reported.
const REPORTED_MAX: usize = 4096;
/// Reports of one look; the rest is counted in the kernel and comes with the next.
const REPORTS_MAX: usize = 64;

/// Scripts of the rule sets that are to be in force.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Script for the gateway's namespace.
    pub gateway: String,
    /// Script for each module's own.
    pub walls: BTreeMap<ModuleName, String>,
}

/// The packet filter's script in force, and the reports of refused flows.
#[derive(Debug)]
pub struct Kernel {
    gateway: GatewaySide,
    /// The script in force, to leave alone what would not change.
    script: String,
    epoch: Option<CompiledEpoch>,
    /// False for a kernel without `nft_connlimit`.
    counts_flows: bool,
    /// Packets seen and when the flow was reported last.
    reported: HashMap<Flow, (u64, Instant)>,
}

/// A refused flow: the interface that it came from, and its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flow {
    interface: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// From an address to another's port.
    Denied(Ipv4Addr, Ipv4Addr, u16),
    /// A false source address.
    Spoofed,
    /// More flows than a module's share.
    Flooded,
}

impl Kernel {
    /// Rules of nothing yet, for modules that reach the broker at `gateway` and `mqtt_port`.
    pub fn new(gateway: Ipv4Addr, mqtt_port: u16) -> Self {
        let gateway = GatewaySide { address: gateway, mqtt_port, flows_max: None };
        Self { gateway, script: String::new(), epoch: None, counts_flows: true, reported: HashMap::new() }
    }

    /// The policy epoch in force; `None` before the first.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch.as_ref().map(CompiledEpoch::epoch)
    }

    /// The rules of the epoch for modules at these addresses, but for those whose flows are closed; `None` when they are
    /// in force already.
    pub fn plan(
        &mut self,
        epoch: &CompiledEpoch,
        addresses: &Addresses,
        closed: &BTreeSet<ModuleName>,
    ) -> Result<Option<Rules>, RunError> {
        let mut placements = Vec::new();
        // What has no place in the rules is dropped by them.
        for (module, number, address) in addresses.iter().filter(|(module, ..)| !closed.contains(*module)) {
            let interface = Interface::parse(&format!("ew{number}"))
                .map_err(|error| RunError::Network(error.to_string()))?;
            placements.push(Placement { module: module.clone(), interface, address });
        }
        let share = || nftables::flows_max(connections_max(), placements.len());
        self.gateway.flows_max = self.counts_flows.then(share);
        let script = nftables::ruleset(epoch, &placements, &self.gateway);
        if script == self.script {
            return Ok(None);
        }
        let walls = nftables::walls(epoch, &placements, &self.gateway);
        Ok(Some(Rules { gateway: script, walls }))
    }

    /// The kernel cannot count flows: plan without a limit on them. False when that was known.
    pub fn cannot_count(&mut self) -> bool {
        std::mem::replace(&mut self.counts_flows, false)
    }

    /// The epoch is in force; `script` when it had to be put there.
    pub fn enforced(&mut self, epoch: CompiledEpoch, script: Option<String>) {
        if let Some(script) = script {
            self.script = script;
            self.began_again();
        }
        self.epoch = Some(epoch);
    }

    /// The counters begin again with new sets.
    pub fn began_again(&mut self) {
        for seen in self.reported.values_mut() {
            seen.0 = 0;
        }
    }

    /// New refusals since the last look, each flow at most once a minute.
    pub fn refusals(
        &mut self,
        listed: &Listed,
        addresses: &Addresses,
        now: Instant,
    ) -> Vec<(Origin, Refusal)> {
        let mut refusals = Vec::new();
        for (flow, packets) in &listed.0 {
            let due = match self.reported.get(flow) {
                None => true,
                Some((seen, at)) => packets != seen && now.duration_since(*at) >= REPORT_EVERY,
            };
            if !due || refusals.len() >= REPORTS_MAX {
                continue;
            }
            if self.reported.len() >= REPORTED_MAX {
                self.reported.retain(|_, (_, at)| now.duration_since(*at) < REPORT_EVERY);
            }
            self.reported.insert(flow.clone(), (*packets, now));
            refusals.push((origin(flow, addresses), self.refusal(flow, addresses)));
        }
        refusals
    }

    fn refusal(&self, flow: &Flow, addresses: &Addresses) -> Refusal {
        let names: BTreeMap<Ipv4Addr, &ModuleName> =
            addresses.iter().map(|(module, _, address)| (address, module)).collect();
        let name = |address: &Ipv4Addr| match names.get(address) {
            Some(module) => module.to_string(),
            None if *address == self.gateway.address => "gateway".into(),
            None => address.to_string(),
        };
        let by_interface = || {
            let found = addresses.iter().find(|(_, number, _)| format!("ew{number}") == flow.interface);
            found.map_or_else(|| flow.interface.clone(), |(module, ..)| module.to_string())
        };
        let epoch = self
            .epoch()
            .map_or_else(|| "before the first epoch".to_owned(), |epoch| format!("epoch {epoch}"));
        let (from, to, port) = match &flow.what {
            What::Denied(from, to, port) => (from, to, port),
            What::Spoofed => {
                let rule = format!(
                    "the module sent packets from an address that is not its own; refused in the kernel, {epoch}"
                );
                return Refusal::new(Reason::PlaceMismatch, by_interface(), rule);
            }
            What::Flooded => {
                let most = match self.gateway.flows_max {
                    Some(most) => format!("the module has {most} flows open, which is its share"),
                    None => "the module has its share of flows open, counted no longer,".to_owned(),
                };
                let rule =
                    format!("{most} of the gateway's connection table; more are refused in the kernel");
                return Refusal::new(Reason::FlowLimit, by_interface(), rule);
            }
        };
        let rule = match (&self.epoch, names.get(from), names.get(to)) {
            (Some(epoch), Some(from), Some(to)) => epoch.may_flow(from, to, *port).rule().to_string(),
            _ => "no rule allows it".into(),
        };
        let subject = format!("{} → {}:{port}", name(from), name(to));
        Refusal::new(Reason::PolicyDenied, subject, format!("{rule}; refused in the kernel, {epoch}"))
    }
}

/// Sender of a packet: a module is known by the interface that it came through.
fn origin(flow: &Flow, addresses: &Addresses) -> Origin {
    let module = addresses.iter().find(|(_, number, _)| format!("ew{number}") == flow.interface);
    match (module, &flow.what) {
        (Some((module, ..)), _) => Origin::Module { module: module.clone() },
        (None, What::Denied(from, ..)) => Origin::Stranger { address: (*from).into() },
        (None, _) => Origin::Enforcer,
    }
}

/// Entries of the gateway's connection table. Where the kernel does not say, the default of a machine of 1 GiB.
fn connections_max() -> u32 {
    const UNKNOWN: u32 = 65_536;
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
    text.trim().parse().unwrap_or(UNKNOWN)
}

/// Refused flows, each with its packets.
#[derive(Debug, Default)]
pub struct Listed(Vec<(Flow, u64)>);

/// The keys of a set with the packets that each counted.
pub type Counted = [(Vec<u8>, u64)];

impl Listed {
    /// The sets of the gateway's own table.
    pub fn gateway(&mut self, denied: &Counted, spoofed: &Counted, flooded: &Counted) {
        let denied = denied.iter().filter_map(|(key, packets)| {
            let (interface, ends) = key.split_at_checked(INTERFACE_BYTES)?;
            let (from, rest) = address(ends)?;
            let (to, port) = address(rest)?;
            Some((Flow { interface: name(interface), what: What::Denied(from, to, number(port)?) }, *packets))
        });
        self.0.extend(denied);
        for (set, what) in [(spoofed, What::Spoofed), (flooded, What::Flooded)] {
            let flow = |key: &[u8]| Flow { interface: name(key), what: what.clone() };
            self.0.extend(set.iter().map(|(key, packets)| (flow(key), *packets)));
        }
    }

    /// The set of the wall of the module with this number and address.
    pub fn wall(&mut self, module: u8, own: Ipv4Addr, denied: &Counted) {
        let denied = denied.iter().filter_map(|(key, packets)| {
            let (to, port) = address(key)?;
            Some((
                Flow { interface: format!("ew{module}"), what: What::Denied(own, to, number(port)?) },
                *packets,
            ))
        });
        self.0.extend(denied);
    }
}

/// IFNAMSIZ
const INTERFACE_BYTES: usize = 16;

fn name(bytes: &[u8]) -> String {
    let bytes: Vec<u8> = bytes.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn address(bytes: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let (address, rest) = bytes.split_first_chunk::<4>()?;
    Some((Ipv4Addr::from(*address), rest))
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::ModuleNetwork;
    use edgewarden_oci::records::RecordKey;
    use std::sync::Arc;

    fn key(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn listed(packets: u64) -> Listed {
        let ew1 = b"ew1\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let mut listed = Listed::default();
        let denied = [
            (key(&[ew1, &[10, 77, 0, 2], &[10, 77, 0, 3], &[0, 22, 0, 0]]), packets),
            (key(&[ew1, &[10, 77, 0, 2]]), 1),
            (Vec::new(), 1),
        ];
        listed.gateway(&denied, &[(ew1.to_vec(), 1)], &[(ew1.to_vec(), 1)]);
        listed.wall(2, Ipv4Addr::new(10, 77, 0, 3), &[(vec![192, 0, 2, 1, 1, 187, 0, 0], 1), (vec![192], 1)]);
        listed
    }

    #[test]
    fn a_flow_is_reported_once_a_minute_with_names() {
        let folder = tempfile::tempdir().unwrap();
        let network = ModuleNetwork::parse("10.77.0.0/24").unwrap();
        let mut addresses = Addresses::new(folder.path().join("a"), network);
        addresses.read(Arc::new(RecordKey::new(&[7; 32])), &[]).unwrap();
        let names = ["alerts", "analytics"].map(|name| ModuleName::parse(name).unwrap());
        addresses.assign(&names, &[]).unwrap();
        let mut kernel = Kernel::new(network.gateway(), 8885);
        let start = Instant::now();
        let look = |kernel: &mut Kernel, packets, seconds| {
            kernel.refusals(&listed(packets), &addresses, start + Duration::from_secs(seconds))
        };
        let first = look(&mut kernel, 1, 0);
        let subjects: Vec<&str> = first.iter().map(|(_, refusal)| refusal.subject.as_str()).collect();
        assert_eq!(subjects, ["alerts → analytics:22", "alerts", "alerts", "analytics → 192.0.2.1:443"]);
        assert_eq!(first[0].1.reason, Reason::PolicyDenied);
        assert_eq!(first[1].1.reason, Reason::PlaceMismatch);
        assert_eq!(first[2].1.reason, Reason::FlowLimit);
        let [alerts, analytics] = [0, 1].map(|index| Origin::Module { module: names[index].clone() });
        let origins: Vec<_> = first.iter().map(|(origin, _)| origin.clone()).collect();
        assert_eq!(
            origins,
            [alerts.clone(), alerts.clone(), alerts, analytics],
            "the interface tells whose it is"
        );
        assert!(look(&mut kernel, 5, 59).is_empty(), "within the minute");
        assert_eq!(look(&mut kernel, 6, 61).len(), 1, "only the flow whose counter rose");
        assert!(look(&mut kernel, 6, 200).is_empty(), "no new packets");
    }
}
