//! Requests of the command line to `runtimed`, on `Layout::runtime_socket` (root only), one frame each way.

use std::net::Ipv4Addr;

use edgewarden_names::{Epoch, Generation, ModuleName, Reason, Refusal, UnixTime, VolumeName};
use serde::{Deserialize, Serialize};

use crate::ask::{replies, requests};
use crate::control::IdentityStatus;
use crate::enrol::Verdict;
use crate::uplink::{ModuleReport, ModuleState, ModuleUpdate};

/// Most bytes of a log that one answer carries.
pub const LOG_REPLY_BYTES_MAX: u64 = 1024 * 1024;

requests! {
    Request -> Reply;

    Status -> Box<Status>;
    /// The newest `last` lines that a module printed.
    Logs { module: ModuleName, last: u32 } -> Vec<String>;
    /// Renews the gateway's attestation and certificate with the fleet now.
    Renew -> Box<Verdict>;
    /// Asks the site's CA for a certificate now: renews the one that is held, or with `anew`, or without one, asks for a
    /// first one.
    Est { anew: bool } -> EstOutcome;
    /// Asks the fleet for a deployment now.
    SyncNow -> ();
    /// Asks the bundle endpoints of all other trust domains now.
    FederationNow -> ();
    /// All volumes, also of modules that are in no deployment any more.
    Volumes -> Vec<VolumeStatus>;
    /// Removes a volume with what is in it, for good. One that a module has is refused.
    VolumeRemove { module: ModuleName, volume: VolumeName } -> ();
    /// Ends the daemon and leaves the modules running. With `stop_modules`: stops the modules, removes rules, networks
    /// and mounts, and then starts nothing more until the daemon itself is started anew; it stays, because whoever
    /// supervises it would only start it again.
    Shutdown { stop_modules: bool } -> ();
}

replies! {
    Reply of "runtimed";

    Status(Box<Status>),
    Logs(Vec<String>),
    Renewed(Box<Verdict>),
    Est(EstOutcome),
    Volumes(Vec<VolumeStatus>),
}

/// State of `runtimed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub modules: Vec<ModuleStatus>,
    /// The policy epoch that the kernel enforces.
    pub epoch: Option<Epoch>,
    pub fleet: FleetStatus,
    /// `None` unless a site's CA is configured.
    pub est: Option<EstStatus>,
    pub enforcement: EnforcementStatus,
}

/// A volume of a module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeStatus {
    pub module: ModuleName,
    pub name: VolumeName,
    /// Bytes that it may take.
    pub bytes_max: u64,
    /// Bytes that it takes of the disk.
    pub bytes: u64,
    /// True while an instance has it.
    pub in_use: bool,
}

/// State of what is enforced outside of the daemons: rules, interfaces, routes, limits, mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnforcementStatus {
    /// Times that somebody else changed it and it was put back, since the daemon began.
    pub repairs: u64,
    pub last: Option<Repair>,
    /// The reason that something is not in place, if it is not.
    pub lost: Option<Refusal>,
}

/// A change from outside that was undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    pub at: UnixTime,
    /// The change, and who made it as far as the kernel tells.
    pub what: String,
}

/// Outcome of one asking of the site's CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum EstOutcome {
    Enrolled {
        not_after: UnixTime,
    },
    /// Somebody at the CA has to approve. It is asked again by itself.
    Pending {
        again_at: UnixTime,
    },
}

/// State of the exchange with the site's CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstStatus {
    pub url: String,
    /// Time of the last exchange with success.
    pub last_success: Option<UnixTime>,
    /// Time of the next look whether it must be asked, while something is in the way.
    pub again_at: Option<UnixTime>,
    pub trouble: Option<EstTrouble>,
}

/// The reason that there is no new certificate. The one that is held stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstTrouble {
    pub at: UnixTime,
    pub refusal: Refusal,
    /// False when somebody has to change something first.
    pub transient: bool,
    /// In a row.
    pub failures: u32,
}

/// State of one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleStatus {
    pub name: ModuleName,
    pub image: String,
    pub state: ModuleState,
    pub generation: Option<Generation>,
    pub instance: Option<String>,
    pub pid: Option<i32>,
    pub address: Option<Ipv4Addr>,
    pub restarts: u32,
    /// The reason that it is not running, or the limit at which it was held lately while it runs.
    pub reason: Option<Refusal>,
    /// The revision that it is to become, while that is not what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<ModuleUpdate>,
}

impl ModuleStatus {
    /// A module that runs without a valid certificate does not do what it is for: it is shown so.
    pub fn degrade_without_certificate(&mut self, identities: &[IdentityStatus], now: UnixTime) {
        if self.state != ModuleState::Running {
            return;
        }
        let own = identities.iter().find(|identity| Some(&identity.instance) == self.instance.as_ref());
        let rule = match own {
            // Its certificates are its own to ask for.
            Some(identity) if identity.resident_key && identity.expires.is_none() => return,
            Some(IdentityStatus { expires: Some(ends), .. }) if now < *ends => return,
            Some(IdentityStatus { expires: Some(_), .. }) => "its certificate has ended",
            _ => "it has no certificate",
        };
        self.state = ModuleState::Degraded;
        self.reason = Some(Refusal::new(Reason::IdentityUnavailable, &self.name, rule));
    }

    /// For the fleet.
    pub fn report(&self) -> ModuleReport {
        ModuleReport {
            name: self.name.clone(),
            image: self.image.clone(),
            state: self.state,
            generation: self.generation.map_or(0, |generation| generation.0),
            restarts: self.restarts,
            reason: self.reason.clone(),
            update: self.update.clone(),
        }
    }
}

/// State of the link with the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetStatus {
    pub url: Option<String>,
    /// Time of the fleet's last answer.
    pub last_contact: Option<UnixTime>,
    /// Error of the last attempt, if it failed.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::SpiffeId;

    #[test]
    fn a_module_without_a_valid_certificate_is_not_shown_as_running() {
        use ModuleState::{Degraded, Running, Waiting};
        let module = |state| ModuleStatus {
            name: ModuleName::parse("analytics").unwrap(),
            image: "image".into(),
            state,
            generation: Some(Generation(1)),
            instance: Some("analytics-1".into()),
            pid: Some(1),
            address: None,
            restarts: 0,
            reason: None,
            update: None,
        };
        let identity = |expires: Option<u64>, resident_key| IdentityStatus {
            id: SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/analytics").unwrap(),
            instance: "analytics-1".into(),
            expires: expires.map(UnixTime),
            issued: 1,
            streams: 1,
            resident_key,
        };
        for (name, before, identities, after) in [
            ("valid", Running, vec![identity(Some(101), false)], Running),
            ("ended", Running, vec![identity(Some(100), false)], Degraded),
            ("none yet", Running, vec![identity(None, false)], Degraded),
            ("unknown to identityd", Running, vec![], Degraded),
            ("a key of its own, not asked for", Running, vec![identity(None, true)], Running),
            ("a key of its own, ended", Running, vec![identity(Some(99), true)], Degraded),
            ("it does not run", Waiting, vec![], Waiting),
        ] {
            let mut module = module(before);
            module.degrade_without_certificate(&identities, UnixTime(100));
            assert_eq!((module.state, module.report().state), (after, after), "{name}");
            assert_eq!(module.reason.is_some(), after == Degraded, "{name}");
        }
    }
}
