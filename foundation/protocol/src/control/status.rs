//! State of `identityd`, for people.

use edgewarden_names::{Epoch, GatewayName, Refusal, SpiffeId, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};

use super::origin::Enforcer;
use super::time::TimeStatus;
use crate::enrol::Verdict;
use crate::est::EstStatus;

/// Refusals that a status or a report shows.
pub const REFUSALS_MAX: usize = 32;

/// State of `identityd`, for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    /// `tpm (manufacturer)`, `simulated tpm (dangerous)` or `software (hardware: none)`.
    pub keystore: String,
    /// True under a setting whose name begins with `dangerous`.
    pub dangerous: bool,
    /// `None` without one: before a fleet judged, and always when a site's CA certifies ([`Status::est`]).
    pub verdict: Option<Verdict>,
    /// `None` unless a site's CA is configured.
    pub est: Option<EstStatus>,
    /// End of the gateway CA's certificate.
    pub gateway_ca_expires: Option<UnixTime>,
    pub issuing_ca_expires: Option<UnixTime>,
    pub deployment: Option<(String, u64)>,
    pub epoch: Option<Epoch>,
    pub enforced: Vec<(Enforcer, Epoch)>,
    pub identities: Vec<IdentityStatus>,
    /// The newest, oldest first: at most [`REFUSALS_MAX`] with those of strangers. No origin takes all places.
    pub refusals: Vec<(UnixTime, Refusal)>,
    /// The newest of peers that proved nothing, each named by its address.
    #[serde(default)]
    pub strangers: Vec<(UnixTime, Refusal)>,
    /// Disk space set aside for `identityd`'s state folder, and what could not be written.
    #[serde(default)]
    pub disk: Option<DiskReserve>,
    /// The PCR that carries the runtime log and how far it is, or what is wrong with it, in words for people.
    #[serde(default)]
    pub runtime_log: String,
    pub time: TimeStatus,
    /// `None` until the gateway has joined.
    pub lease: Option<Lease>,
}

/// Time for which the gateway can issue without whoever certifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The end of the gateway CA's certificate: nothing is issued afterwards.
    pub ends: UnixTime,
    /// From when on it is renewed.
    pub renewal_due: UnixTime,
    /// Its renewal is due, and has not come.
    pub overdue: bool,
}

/// Certificate of one live instance, and its streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityStatus {
    pub id: SpiffeId,
    pub instance: String,
    pub expires: Option<UnixTime>,
    /// Certificates that this instance has had.
    pub issued: u64,
    pub streams: u32,
    /// The module's key stays in the keystore.
    #[serde(default)]
    pub resident_key: bool,
}

/// Disk space that is set aside for decisions and the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskReserve {
    pub bytes: u64,
    /// As many are set aside while the disk has room.
    pub bytes_wanted: u64,
    /// Entries of the audit log that could not be written.
    pub unwritten: u64,
    /// `true` when the documents in force are not all on disk: a start would find something older.
    pub unsaved: bool,
}

impl DiskReserve {
    /// Has the disk been full?
    pub fn is_short(self) -> bool {
        self.bytes < self.bytes_wanted || self.unwritten > 0 || self.unsaved
    }
}
