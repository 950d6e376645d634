//! One start of one module: its permit, its preparation and its record.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use edgewarden_names::{Digest, Epoch, Generation, ModuleName, UnixTime};
use serde::{Deserialize, Serialize};

use super::image::Layer;

/// `identityd`'s word that one start of one module may happen. Single use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartPermit {
    pub permit: String,
    pub module: ModuleName,
    pub generation: Generation,
    /// `<module>-<generation>`: names the container, its folder and its socket.
    pub instance: String,
    pub manifest: Digest,
    pub config: Digest,
    /// In the order in which they are applied.
    pub layers: Vec<Layer>,
    pub epoch: Epoch,
    /// The image key that signed.
    pub signed_by: String,
    /// The fingerprints of all image keys that signed (`edgewarden_image_trust::fingerprint`).
    pub vouchers: Vec<Digest>,
    pub expires: UnixTime,
}

/// Answer to [`Request::StartPrepare`](super::Request::StartPrepare).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    pub instance: String,
    /// To be mounted at `/run/edgewarden` in the container.
    pub workload_folder: PathBuf,
}

/// The only source of workload identity: which process tree is which module, by whose permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRecord {
    pub instance: String,
    pub module: ModuleName,
    pub generation: Generation,
    pub manifest: Digest,
    pub epoch: Epoch,
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, which tells a reused pid from the one that was recorded.
    pub pid_started: u64,
    /// The container's path in the hierarchy that counts processes (`pids` on cgroup v1, the unified one on v2).
    pub cgroup: String,
    pub address: Ipv4Addr,
    pub at: UnixTime,
    /// Image keys that permitted the start, as in [`StartPermit::vouchers`]. Empty in a record of an earlier version.
    #[serde(default)]
    pub vouchers: Vec<Digest>,
}
