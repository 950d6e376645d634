//! The kernel's part of the policy: puts nftables rule sets in force and reads back what they refused.
//!
//! A rule set replaces the one before in a single transaction. It judges each packet of a flow, so that a flow that a
//! new epoch does not allow ends with the old epoch, without a look at the connection table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgewarden_names::{Epoch, ModuleName, Reason, Refusal};
use edgewarden_policy::CompiledEpoch;
use edgewarden_policy::nftables::{self, GatewaySide, Interface, Placement};
use edgewarden_protocol::control::Origin;
use serde_json::Value;

use crate::RunError;
use crate::addresses::Addresses;

/// A flow that is refused again and again is reported this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Flows that are remembered as reported.
const REPORTED_MAX: usize = 4096;
/// Reports of one look; the rest is counted in the kernel and comes with the next.
const REPORTS_MAX: usize = 64;

/// Puts a rule set in force as a whole. Blocks.
pub fn apply(script: &str) -> Result<(), RunError> {
    let what = || RunError::io("run `nft`");
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(what())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(what())?;
    }
    let output = child.wait_with_output().map_err(what())?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(RunError::Network(format!("`nft` refused the rules: {said}")))
}

/// What is in force, and what was refused.
#[derive(Debug)]
pub struct Kernel {
    gateway: GatewaySide,
    /// The script in force, to leave alone what would not change.
    script: String,
    epoch: Option<CompiledEpoch>,
    /// Packets seen and when the flow was reported last.
    reported: HashMap<Flow, (u64, Instant)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flow {
    interface: String,
    /// Absent for a false source address.
    ends: Option<(Ipv4Addr, Ipv4Addr, u16)>,
}

impl Kernel {
    pub fn new(gateway: Ipv4Addr, mqtt_port: u16) -> Self {
        let gateway = GatewaySide { address: gateway, mqtt_port };
        Self { gateway, script: String::new(), epoch: None, reported: HashMap::new() }
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch.as_ref().map(CompiledEpoch::epoch)
    }

    /// Drops everything between modules, until there is an epoch. A table that is there stays: it may belong to
    /// modules that run.
    pub fn close_unless_open() -> Result<(), RunError> {
        let listed = Command::new("nft")
            .args(["list", "table", "inet", "edgewarden"])
            .stdin(Stdio::null())
            .output()
            .map_err(RunError::io("run `nft`"))?;
        if listed.status.success() { Ok(()) } else { apply(&nftables::closed()) }
    }

    /// The rules of the epoch for modules at these addresses, but for those whose flows are closed; `None` when they are
    /// in force already.
    pub fn plan(
        &self,
        epoch: &CompiledEpoch,
        addresses: &Addresses,
        closed: &BTreeSet<ModuleName>,
    ) -> Result<Option<String>, RunError> {
        let mut placements = Vec::new();
        // What has no place in the rules is dropped by them.
        for (module, number, address) in addresses.iter().filter(|(module, ..)| !closed.contains(*module)) {
            let interface = Interface::parse(&format!("ew{number}"))
                .map_err(|error| RunError::Network(error.to_string()))?;
            placements.push(Placement { module: module.clone(), interface, address });
        }
        let script = nftables::ruleset(epoch, &placements, &self.gateway);
        Ok((script != self.script).then_some(script))
    }

    /// The epoch is in force; `script` when it had to be put there.
    pub fn enforced(&mut self, epoch: CompiledEpoch, script: Option<String>) {
        if let Some(script) = script {
            self.script = script;
            // The counters begin again with the new sets.
            for seen in self.reported.values_mut() {
                seen.0 = 0;
            }
        }
        self.epoch = Some(epoch);
    }

    /// Removes the table. Blocks.
    pub fn open() -> Result<(), RunError> {
        apply("add table inet edgewarden\ndelete table inet edgewarden\n")
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
                Some((seen, at)) => packets > seen && now.duration_since(*at) >= REPORT_EVERY,
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
        let epoch = self.epoch().unwrap_or(Epoch(0));
        let Some((from, to, port)) = &flow.ends else {
            let rule = format!(
                "the module sent packets from an address that is not its own; refused in the kernel, epoch {epoch}"
            );
            return Refusal::new(Reason::PlaceMismatch, by_interface(), rule);
        };
        let rule = match (&self.epoch, names.get(from), names.get(to)) {
            (Some(epoch), Some(from), Some(to)) => epoch.may_flow(from, to, *port).rule.to_string(),
            _ => "no rule allows it".into(),
        };
        let subject = format!("{} → {}:{port}", name(from), name(to));
        Refusal::new(Reason::PolicyDenied, subject, format!("{rule}; refused in the kernel, epoch {epoch}"))
    }
}

/// Whose packet it was: a module is known by the interface that it came through.
fn origin(flow: &Flow, addresses: &Addresses) -> Origin {
    let module = addresses.iter().find(|(_, number, _)| format!("ew{number}") == flow.interface);
    match (module, flow.ends) {
        (Some((module, ..)), _) => Origin::Module { module: module.clone() },
        (None, Some((from, ..))) => Origin::Stranger { address: from.into() },
        (None, None) => Origin::Enforcer,
    }
}

/// What the sets `denied` and `spoofed` hold: flows and packets.
#[derive(Debug, Default)]
pub struct Listed(Vec<(Flow, u64)>);

/// Reads the sets. Blocks.
pub fn list() -> Result<Listed, RunError> {
    let output = Command::new("nft")
        .args(["-j", "list", "sets", "inet"])
        .stdin(Stdio::null())
        .output()
        .map_err(RunError::io("run `nft`"))?;
    if !output.status.success() {
        return Err(RunError::Network("`nft` cannot list the sets".into()));
    }
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| RunError::Network(format!("`nft` printed no JSON: {error}")))?;
    Ok(Listed(parse(&document)))
}

/// `{"nftables": [{"set": {"elem": [{"elem": {"val": {"concat": ["ew1", "10.77.0.2", "10.77.0.3", 9443]}, "counter": {"packets": 3, …}}}]}}]}`
fn parse(document: &Value) -> Vec<(Flow, u64)> {
    let sets = document.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let text = |set: &Value, key: &str| set.get(key).and_then(Value::as_str).map(str::to_owned);
    let refused = sets.filter_map(|item| item.get("set")).filter(|set| {
        text(set, "table").as_deref() == Some("edgewarden")
            && matches!(text(set, "name").as_deref(), Some("denied" | "spoofed"))
    });
    let elements = refused.filter_map(|set| set.get("elem")?.as_array()).flatten();
    elements
        .filter_map(|element| {
            let element = element.get("elem").unwrap_or(element);
            let value = element.get("val").unwrap_or(element);
            let packets =
                element.get("counter").and_then(|counter| counter.get("packets")?.as_u64()).unwrap_or(1);
            Some((flow(value)?, packets))
        })
        .collect()
}

fn flow(value: &Value) -> Option<Flow> {
    if let Some(interface) = value.as_str() {
        return Some(Flow { interface: interface.into(), ends: None });
    }
    let [interface, from, to, port] = value.get("concat")?.as_array()?.as_slice() else { return None };
    let address = |value: &Value| value.as_str()?.parse().ok();
    let port = u16::try_from(port.as_u64()?).ok()?;
    Some(Flow { interface: interface.as_str()?.into(), ends: Some((address(from)?, address(to)?, port)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::ModuleNetwork;
    use edgewarden_oci::records::RecordKey;
    use std::sync::Arc;

    fn document(packets: u64) -> Value {
        serde_json::json!({"nftables": [{"metainfo": {}}, {"set": {"table": "edgewarden", "name": "flows", "elem": ["ew9"]}},
            {"set": {"table": "other", "name": "denied", "elem": ["ew8"]}},
            {"set": {"table": "edgewarden", "name": "denied", "elem": [
            {"elem": {"val": {"concat": ["ew1", "10.77.0.2", "10.77.0.3", 22]}, "counter": {"packets": packets}}},
            {"elem": {"val": "ew1", "counter": {"packets": 1}}},
            {"elem": {"val": {"concat": ["ew1", "10.77.0.2", "nonsense", 22]}}},
            {"elem": {"val": {"concat": ["ew1"]}}}, 7,
        ]}}]})
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
            let listed = Listed(parse(&document(packets)));
            kernel.refusals(&listed, &addresses, start + Duration::from_secs(seconds))
        };
        let first = look(&mut kernel, 1, 0);
        let subjects: Vec<&str> = first.iter().map(|(_, refusal)| refusal.subject.as_str()).collect();
        assert_eq!(subjects, ["alerts → analytics:22", "alerts"]);
        assert_eq!(first[0].1.reason, Reason::PolicyDenied);
        assert_eq!(first[1].1.reason, Reason::PlaceMismatch);
        let alerts = Origin::Module { module: names[0].clone() };
        assert!(first.iter().all(|(origin, _)| *origin == alerts), "the interface tells whose it is");
        assert!(look(&mut kernel, 5, 59).is_empty(), "within the minute");
        assert_eq!(look(&mut kernel, 6, 61).len(), 1, "only the flow whose counter rose");
        assert!(look(&mut kernel, 6, 200).is_empty(), "no new packets");
    }
}
