//! A module as a deployment has it.

use std::collections::BTreeMap;

use edgewarden_names::{ModuleName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::bounds::{TEXT_BYTES_MAX, at_most, text, unique};
use crate::image_reference::ImageReference;
use crate::secret::{SecretUse, check_uses};

pub const PORTS_MAX: usize = 32;

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
        Ok(())
    }
}
