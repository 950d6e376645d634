//! A module as a deployment has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use edgewarden_names::{ModuleName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::bounds::{TEXT_BYTES_MAX, at_most, text, unique};
use crate::container::{self, ConfigFile, Cpu, Device, Stop, TemporaryFolder, Volume};
use crate::image_reference::ImageReference;
use crate::secret::{SecretUse, check_uses};

pub const PORTS_MAX: usize = 32;
pub const LABELS_MAX: usize = 64;

/// A module: its image, its limits, its ports and what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    pub name: ModuleName,
    pub image: ImageReference,
    /// Replaces the image's command when not empty.
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default = "default_memory")]
    pub memory_bytes: u64,
    #[serde(default = "default_pids")]
    pub pids_max: u32,
    /// Open files of a process.
    #[serde(default = "default_nofile", skip_serializing_if = "is_default_nofile")]
    pub nofile_max: u64,
    #[serde(default, skip_serializing_if = "Cpu::is_default")]
    pub cpu: Cpu,
    /// `user[:group]`, by number or by a name of the image, in the place of the image's own. Root is root in the module's
    /// user namespace and nobody outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// False for an image that writes beside its folders: what it writes is kept in memory until its end.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub read_only: bool,
    /// Bytes that it may so write; they count as its memory.
    #[serde(default = "default_writable", skip_serializing_if = "is_default_writable")]
    pub writable_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Folders in memory beside /tmp, /run and /dev/shm, of which it has 16, 1 and 16 MiB unless it says otherwise here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub temporary: Vec<TemporaryFolder>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ConfigFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    #[serde(default, skip_serializing_if = "Stop::is_default")]
    pub stop: Stop,
    /// The module's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Names that the module finds in its /etc/hosts, beside those of the gateway and its modules.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_hosts: BTreeMap<String, IpAddr>,
    /// Words for people and tools; nothing goes by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// TCP ports that the policy speaks of.
    #[serde(default)]
    pub ports: Vec<Port>,
    #[serde(default)]
    pub restart: Restart,
    /// The module is built with Azure's SDKs: it gets the workload API of Azure IoT Edge on a second socket.
    #[serde(default, skip_serializing_if = "is_false")]
    pub iotedge: bool,
    /// Host names, besides the module's own, for which that API gives server certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<String>,
    /// The secrets that the module gets, and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// Place of the key of its certificate: the module's memory or the keystore.
    #[serde(default, skip_serializing_if = "SvidKey::is_memory")]
    pub svid_key: SvidKey,
    /// The other trust domains whose bundles the module gets, and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federates_with: Vec<TrustDomain>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

fn yes() -> bool {
    true
}

fn default_nofile() -> u64 {
    4096
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_nofile(value: &u64) -> bool {
    *value == default_nofile()
}

fn default_writable() -> u64 {
    64 * 1024 * 1024
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_writable(value: &u64) -> bool {
    *value == default_writable()
}

/// Place of the private key of a module's X.509-SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SvidKey {
    /// In the module's memory: the SPIFFE Workload API gives key and certificate.
    #[default]
    Memory,
    /// In the gateway's keystore: the module uses it by `edgewarden.keys.v1`, and gets no other.
    Resident,
}

impl SvidKey {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_memory(&self) -> bool {
        *self == Self::Memory
    }
}

fn default_memory() -> u64 {
    64 * 1024 * 1024
}

fn default_pids() -> u32 {
    64
}

/// A TCP port of a module, by the name that the policy uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub name: String,
    pub port: u16,
}

/// Rule for starting a module again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    Never,
    OnFailure,
    #[default]
    Always,
}

impl Module {
    fn check_container(&self) -> Result<(), String> {
        container::check_cpu(&self.cpu)?;
        container::check_mounts(&self.volumes, &self.temporary, &self.files)?;
        container::check_devices(&self.devices)?;
        container::check_extra_hosts(&self.extra_hosts)?;
        if let Some(user) = &self.user {
            container::check_user(user)?;
        }
        if self.stop.grace_seconds.is_some_and(|seconds| seconds > container::GRACE_SECONDS_MAX) {
            return Err(format!("`stop.grace_seconds` is over {}", container::GRACE_SECONDS_MAX));
        }
        if let Some(name) = &self.hostname {
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
            if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) {
                return Err("`hostname` is no host name of 63 characters at most".into());
            }
        }
        at_most("labels", self.labels.len(), LABELS_MAX)?;
        for (key, value) in &self.labels {
            text("label", key)?;
            at_most("bytes of a label", value.len(), TEXT_BYTES_MAX)?;
        }
        Ok(())
    }

    /// Keeps every limit of its own; what concerns several modules is the deployment's to check.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.name.is_reserved() {
            return Err("the name is reserved for Edgewarden's own processes".into());
        }
        check_uses(&self.secrets)?;
        at_most("ports", self.ports.len(), PORTS_MAX)?;
        at_most("args", self.args.len(), 64)?;
        at_most("env", self.env.len(), 64)?;
        unique("port", self.ports.iter().map(|port| port.name.as_str()))?;
        for value in self.args.iter().chain(self.env.values()) {
            at_most("bytes of an argument or variable", value.len(), TEXT_BYTES_MAX)?;
            if value.contains('\0') {
                return Err("an argument or variable holds a NUL byte".into());
            }
        }
        for key in self.env.keys() {
            text("variable name", key)?;
            if key.contains('=') {
                return Err(format!("the variable name `{key}` holds `=`"));
            }
        }
        if self.iotedge && self.svid_key == SvidKey::Resident {
            return Err(
                "`iotedge` gives certificates with their keys: it does not go with a resident `svid_key`"
                    .into(),
            );
        }
        if !(4 * 1024 * 1024..=1 << 40).contains(&self.memory_bytes) {
            return Err("`memory_bytes` is out of range: 4 MiB to 1 TiB".into());
        }
        if !(1..=32768).contains(&self.pids_max) {
            return Err("`pids_max` is out of range: 1 to 32768".into());
        }
        if !(16..=1_048_576).contains(&self.nofile_max) {
            return Err("`nofile_max` is out of range: 16 to 1,048,576".into());
        }
        if !(4096..=container::TEMPORARY_BYTES_MAX).contains(&self.writable_bytes) {
            return Err("`writable_bytes` is out of range: 4 KiB to 16 GiB".into());
        }
        self.check_container()
    }
}
