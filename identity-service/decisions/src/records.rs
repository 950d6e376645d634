//! Start records: which process tree is which module. The only source of workload identity.
//!
//! A record holds what a process cannot shed by `exec` or by handing its socket on: the cgroup that `runtimed` put the
//! container in. The pid and its start time say whether the instance still lives. What is judged here was read from
//! `/proc` by the caller of these functions; nothing here does I/O.
//!
//! Records are of one boot, and end with it: nobody who edits the disk while the machine is off knows the name that the
//! kernel will give to the next one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{StartPermit, StartRecord};
use edgewarden_protocol::document::Document;
use serde::{Deserialize, Serialize};

/// Live instances: twice the modules of a deployment, because an update runs old and new side by side.
pub const RECORDS_MAX: usize = 2 * edgewarden_protocol::deployment::MODULES_MAX;

/// Start records of the live instances of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// The kernel's random name of the boot that they are about.
    #[serde(default)]
    boot: String,
    live: BTreeMap<String, StartRecord>,
}

impl Document for Records {
    const FILE: &'static str = "start-records.json";

    fn check(&self) -> Result<(), String> {
        if self.live.len() > RECORDS_MAX {
            return Err(format!("{} records are over the limit of {RECORDS_MAX}", self.live.len()));
        }
        for (instance, record) in &self.live {
            // The instance becomes a folder's name.
            if *instance != format!("{}-{}", record.module, record.generation) || *instance != record.instance
            {
                return Err(format!("the record `{}` is not about itself", instance.escape_debug()));
            }
        }
        Ok(())
    }
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSeen {
    pub pid: i32,
    pub pid_started: u64,
    pub cgroup: String,
}

impl Records {
    /// None of them are about another boot than `boot`.
    #[must_use]
    pub fn of_boot(&self, boot: &str) -> Self {
        if self.boot == boot { self.clone() } else { Self { boot: boot.into(), live: BTreeMap::new() } }
    }

    /// Record of a live instance.
    pub fn get(&self, instance: &str) -> Option<&StartRecord> {
        self.live.get(instance)
    }

    /// Records of all live instances.
    pub fn iter(&self) -> impl Iterator<Item = &StartRecord> {
        self.live.values()
    }

    /// The live instance that a process in this cgroup belongs to.
    pub fn instance_of(&self, cgroup: &str) -> Option<&StartRecord> {
        self.live.values().find(|record| is_caller_of(record, cgroup))
    }

    /// The records with the start that `permit` allowed. `own_cgroup` is `identityd`'s.
    pub fn started(
        &self,
        permit: &StartPermit,
        seen: &ProcessSeen,
        own_cgroup: &str,
        address: Ipv4Addr,
        at: UnixTime,
    ) -> Result<(Self, StartRecord), Refusal> {
        let refuse = |rule: &str| Err(Refusal::new(Reason::RequestInvalid, &permit.instance, rule));
        if self.live.len() >= RECORDS_MAX {
            return Err(Refusal::new(Reason::Busy, &permit.instance, "too many instances are live"));
        }
        if !seen.cgroup.starts_with('/') || is_above_all(&seen.cgroup) || is_within(own_cgroup, &seen.cgroup)
        {
            return refuse("the process is not in a cgroup of its own");
        }
        for other in self.live.values() {
            if is_within(&other.cgroup, &seen.cgroup) || is_within(&seen.cgroup, &other.cgroup) {
                return refuse("the process shares its cgroup with another instance");
            }
            if other.pid == seen.pid && other.pid_started == seen.pid_started {
                return refuse("the process is another instance already");
            }
            if other.address == address {
                return refuse("the address belongs to another instance");
            }
        }
        let record = StartRecord {
            instance: permit.instance.clone(),
            module: permit.module.clone(),
            generation: permit.generation,
            manifest: permit.manifest.clone(),
            epoch: permit.epoch,
            pid: seen.pid,
            pid_started: seen.pid_started,
            cgroup: seen.cgroup.clone(),
            address,
            at,
            vouchers: permit.vouchers.clone(),
        };
        let mut next = self.clone();
        next.live.insert(record.instance.clone(), record.clone());
        Ok((next, record))
    }

    /// Without the record of an instance.
    #[must_use]
    pub fn without(&self, instance: &str) -> Self {
        let mut next = self.clone();
        next.live.remove(instance);
        next
    }
}

/// Is the cgroup above the root of our cgroup namespace? The kernel then shows it as `/..`, `/../..` and so on
/// (cgroup_namespaces(7)), and everything that is ours lies beneath it.
fn is_above_all(cgroup: &str) -> bool {
    cgroup.split('/').skip(1).all(|part| part == "..")
}

/// Is `record` about the process that has its pid now? A reused pid has another start time; a process that left the
/// container's cgroup is no longer the container.
pub fn still_lives(record: &StartRecord, seen: Option<&ProcessSeen>) -> bool {
    seen.is_some_and(|seen| {
        seen.pid == record.pid
            && seen.pid_started == record.pid_started
            && is_within(&seen.cgroup, &record.cgroup)
    })
}

/// Is a caller in `caller_cgroup` part of the instance?
pub fn is_caller_of(record: &StartRecord, caller_cgroup: &str) -> bool {
    is_within(caller_cgroup, &record.cgroup)
}

/// True when the cgroup `inner` is `outer` or lies beneath it. Everything lies beneath the root.
fn is_within(inner: &str, outer: &str) -> bool {
    let rest = match outer {
        "/" => return inner.starts_with('/'),
        outer => inner.strip_prefix(outer),
    };
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use edgewarden_names::{Digest, Epoch, Generation, ModuleName};

    pub fn permit(module: &str, generation: u64) -> StartPermit {
        StartPermit {
            permit: "00".repeat(16),
            module: ModuleName::parse(module).unwrap(),
            generation: Generation(generation),
            instance: format!("{module}-{generation}"),
            manifest: Digest::from_sha256(&[1; 32]),
            config: Digest::from_sha256(&[2; 32]),
            layers: Vec::new(),
            epoch: Epoch(1),
            signed_by: "ci".into(),
            vouchers: vec![Digest::from_sha256(&[3; 32])],
            expires: UnixTime(100),
        }
    }

    fn seen(pid: i32, pid_started: u64, cgroup: &str) -> ProcessSeen {
        ProcessSeen { pid, pid_started, cgroup: cgroup.into() }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, last)
    }

    fn one() -> (Records, StartRecord) {
        Records::default()
            .started(&permit("alerts", 1), &seen(10, 500, "/ew/alerts-1"), "/", address(2), UnixTime(5))
            .unwrap()
    }

    #[test]
    fn a_start_has_a_cgroup_a_process_and_an_address_of_its_own() {
        let (records, record) = one();
        assert_eq!(records.get("alerts-1"), Some(&record));
        for (name, seen, own, last) in [
            ("the root cgroup", seen(11, 600, "/"), "/", 3),
            ("identityd's own cgroup", seen(11, 600, "/daemons"), "/daemons", 3),
            ("a cgroup above identityd's", seen(11, 600, "/system"), "/system/identityd", 3),
            ("no path", seen(11, 600, ""), "/", 3),
            ("above our namespace", seen(11, 600, "/.."), "/", 3),
            ("far above our namespace", seen(11, 600, "/../.."), "/", 3),
            ("the same cgroup", seen(11, 600, "/ew/alerts-1"), "/", 3),
            ("a cgroup beneath", seen(11, 600, "/ew/alerts-1/sub"), "/", 3),
            ("a cgroup above", seen(11, 600, "/ew"), "/", 3),
            ("the same process", seen(10, 500, "/ew/analytics-2"), "/", 3),
            ("the same address", seen(11, 600, "/ew/analytics-2"), "/", 2),
        ] {
            let refused = records.started(&permit("analytics", 2), &seen, own, address(last), UnixTime(5));
            assert_eq!(refused.unwrap_err().reason, Reason::RequestInvalid, "{name}");
        }
        // A sibling whose name only begins alike is another instance.
        let sibling = seen(11, 600, "/ew/alerts-10");
        assert!(records.started(&permit("alerts", 10), &sibling, "/own", address(3), UnixTime(5)).is_ok());
        // Seen from a cgroup namespace of our own, a module's cgroup is beside it.
        let beside = seen(11, 600, "/../ew/alerts-10");
        let (_, record) =
            records.started(&permit("alerts", 10), &beside, "/", address(3), UnixTime(5)).unwrap();
        for (caller, expected) in [
            ("/../ew/alerts-10", true),
            ("/../ew/alerts-10/nested/deeper", true),
            ("/ew/alerts-10", false),
            ("/../ew/alerts-1", false),
            ("/../../ew/alerts-10", false),
            ("/..", false),
            ("/", false),
        ] {
            assert_eq!(is_caller_of(&record, caller), expected, "{caller}");
        }
    }

    #[test]
    fn a_record_lives_as_long_as_its_process() {
        let (_, record) = one();
        for (name, seen, lives) in [
            ("same", Some(seen(10, 500, "/ew/alerts-1")), true),
            ("moved beneath", Some(seen(10, 500, "/ew/alerts-1/init")), true),
            ("gone", None, false),
            ("pid reused", Some(seen(10, 501, "/ew/alerts-1")), false),
            ("other pid", Some(seen(11, 500, "/ew/alerts-1")), false),
            ("left its cgroup", Some(seen(10, 500, "/")), false),
            ("similar cgroup", Some(seen(10, 500, "/ew/alerts-10")), false),
        ] {
            assert_eq!(still_lives(&record, seen.as_ref()), lives, "{name}");
        }
    }

    #[test]
    fn records_end_with_their_boot() {
        let (records, _) = one();
        let here = records.of_boot("");
        assert_eq!(here, records, "none was named");
        let first = Records::default().of_boot("one");
        let seen = seen(10, 500, "/ew/alerts-1");
        let (first, _) = first.started(&permit("alerts", 1), &seen, "/", address(2), UnixTime(5)).unwrap();
        assert_eq!(first.of_boot("one"), first);
        assert_eq!(first.of_boot("two").iter().count(), 0);
        assert_eq!(first.of_boot("").iter().count(), 0);
        assert_eq!(records.of_boot("one").iter().count(), 0);
    }

    #[test]
    fn callers_come_from_the_cgroup() {
        let (_, record) = one();
        for (cgroup, expected) in [
            ("/ew/alerts-1", true),
            ("/ew/alerts-1/worker", true),
            ("/ew/alerts-10", false),
            ("/ew", false),
            ("/", false),
            ("", false),
            ("/ew/analytics-1", false),
            ("/x/ew/alerts-1", false),
        ] {
            assert_eq!(is_caller_of(&record, cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn instances_have_a_limit() {
        let mut records = Records::default();
        for n in 0..RECORDS_MAX {
            let generation = u64::try_from(n).unwrap();
            let seen = seen(1000 + i32::try_from(n).unwrap(), 1, &format!("/ew/{n}"));
            let address = Ipv4Addr::from(u32::from(address(0)) + u32::try_from(n).unwrap());
            (records, _) =
                records.started(&permit("m", generation), &seen, "/", address, UnixTime(1)).unwrap();
        }
        assert!(records.check().is_ok());
        let refused =
            records.started(&permit("m", 9999), &seen(1, 1, "/ew/x"), "/", address(255), UnixTime(1));
        assert_eq!(refused.unwrap_err().reason, Reason::Busy);
    }

    #[test]
    fn a_record_that_names_another_folder_is_damage() {
        let (records, _) = one();
        let text = serde_json::to_string(&records).unwrap();
        for bad in [
            text.replace("\"instance\":\"alerts-1\"", "\"instance\":\"../x\""),
            text.replace("{\"alerts-1\"", "{\"../x\""),
            text.replace("\"generation\":1", "\"generation\":2"),
        ] {
            assert_ne!(bad, text);
            assert!(serde_json::from_str::<Records>(&bad).unwrap().check().is_err(), "{bad}");
        }
    }
}
