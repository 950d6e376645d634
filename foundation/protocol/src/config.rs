//! `config.toml`: read once at start by each daemon; unknown keys are errors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_names::{GatewayName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::est::EstConfig;
use crate::registries::{self, Proxies, RegistryMirrors};

/// No issuing CA lives longer than a year: its key is in memory.
const ISSUING_CA_SECONDS_MAX: u32 = 366 * 86400;
/// Longest label of a PKCS#11 token.
const TOKEN_LABEL_BYTES_MAX: usize = 32;
const LIBRARY_FILES_MAX: usize = 16;
/// PCRs that may carry the runtime log: those of the operating system that stay until the next boot and that no
/// reference value is about (`edgewarden_appraisal::BOOT_PCRS`). Not 10, which IMA extends all the time; not 16 and 23,
/// which anybody may reset (TCG PC Client Platform TPM Profile, section 4.6); not 17 to 22, which are closed to locality 0.
pub const RUNTIME_PCRS: [u8; 3] = [11, 13, 15];

/// Error of `config.toml`, with the file and what is wrong in it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not valid: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("`{key}` in `{}` is out of range: {range}", path.display())]
    Range { path: PathBuf, key: &'static str, range: &'static str },
    #[error(
        "in `{}` `{child}` ({child_seconds} s) must be shorter than `{parent}` ({parent_seconds} s), which signs it: no certificate outlives its issuer",
        path.display()
    )]
    Outlives {
        path: PathBuf,
        child: &'static str,
        child_seconds: u32,
        parent: &'static str,
        parent_seconds: u32,
    },
    #[error(
        "`{}` has both `[fleet]` and `[est]`, and each certifies the gateway: keep `[fleet]` for a fleet's root, or `[est]` for the site's own CA",
        path.display()
    )]
    TwoCertifiers { path: PathBuf },
}

/// One gateway's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub gateway: Gateway,
    pub fleet: Option<Fleet>,
    /// A site's own CA. It or a fleet certifies the gateway, not both.
    pub est: Option<EstConfig>,
    pub keystore: Keystore,
    #[serde(default)]
    pub attestation: Attestation,
    #[serde(default)]
    pub identity: Identity,
    #[serde(default)]
    pub runtime: Runtime,
    #[serde(default)]
    pub mqtt: Mqtt,
}

/// Table `gateway`: names of this gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    pub name: GatewayName,
    pub trust_domain: TrustDomain,
    /// Labels that deployments select gateways by.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
}

/// Table `fleet`: the server that certifies this gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// `https://host:port`
    pub url: String,
    /// The fleet's root certificate (PEM): the only trust anchor of the link.
    pub root: PathBuf,
    /// Public keys (PEM, SubjectPublicKeyInfo) of the operators who may sign deployments.
    pub operator_keys: Vec<PathBuf>,
}

/// Table `keystore`: the place of private keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Keystore {
    /// A TPM 2.0. `device` is a character device such as `/dev/tpmrm0`.
    Tpm { device: PathBuf },
    /// A simulated TPM: swtpm's TCP transport, which must be loopback. It gives `identityd` network sockets
    /// that it otherwise has not, and its keys are in a file.
    #[serde(rename = "dangerous-simulated-tpm")]
    DangerousSimulatedTpm { address: SocketAddr },
    /// A PKCS#11 token: an HSM, a smart card, or SoftHSM2. Nothing of it is attested.
    Pkcs11 {
        /// The token's library, an absolute path. It runs in `identityd`.
        module: PathBuf,
        /// The token's label, and not a slot number, for those change.
        token: String,
        /// File with the user PIN, which only `identityd`'s user may read.
        pin_file: PathBuf,
        /// Paths that the library itself opens, to write or outside /etc and /usr: a device node, the folder of
        /// SoftHSM2's tokens. `identityd` has no other files.
        #[serde(default)]
        library_files: Vec<PathBuf>,
    },
    /// Key files encrypted under the passphrase in `passphrase_file`. Not hardware: shown as such everywhere.
    Software { passphrase_file: PathBuf },
}

/// Table `attestation`: sources of a TPM's evidence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attestation {
    /// The TCG2 event log of this boot.
    pub event_log: PathBuf,
    /// The PCR that the runtime log is extended into: one of [`RUNTIME_PCRS`].
    pub runtime_pcr: u8,
}

impl Default for Attestation {
    fn default() -> Self {
        Self { event_log: "/sys/kernel/security/tpm0/binary_bios_measurements".into(), runtime_pcr: 15 }
    }
}

/// Table `identity`: lifetimes of certificates, tokens and keys, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// Life of a module's certificate, 10 to 3600 seconds. Renewed at half of it.
    pub svid_lifetime_seconds: u32,
    /// Life of a JWT-SVID, 10 to 3600 seconds; half of it is left at least when one is handed out.
    pub jwt_svid_lifetime_seconds: u32,
    /// Time for which one key signs JWT-SVIDs, 10 minutes to 31 days. The next is in the bundle before it signs, and
    /// each stays there until what it signed has expired.
    pub jwt_key_lifetime_seconds: u32,
    /// Life of a leaf device's certificate, 60 seconds to 90 days.
    pub leaf_lifetime_seconds: u32,
    /// Life of the issuing CA, born at each start of `identityd`; longer than what it signs. The gateway CA above it has
    /// the life that the fleet gives it: an issuing CA that would outlive it is clipped to its end, and so are the
    /// certificates below; each is renewed by what is left of its life.
    pub issuing_ca_lifetime_seconds: u32,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            svid_lifetime_seconds: 3600,
            jwt_svid_lifetime_seconds: 300,
            jwt_key_lifetime_seconds: 86400,
            leaf_lifetime_seconds: 7 * 86400,
            issuing_ca_lifetime_seconds: 8 * 86400,
        }
    }
}

/// Table `runtime`: how modules are fetched and run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The OCI runtime to run.
    pub oci_runtime: PathBuf,
    /// IPv4 network of the modules, at least a /24. The first address is the gateway's own.
    pub module_network: String,
    /// Registries (`host:port`) that are asked in plain HTTP. Content is checked by digest all the same.
    pub plain_http_registries: Vec<String>,
    /// Logins for registries, in the form of Docker's `config.json`. Root's, and open to nobody else. Read at each pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_credentials_file: Option<PathBuf>,
    /// Roots (PEM) that registries' certificates may lead to, besides the system's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registry_ca_files: Vec<PathBuf>,
    /// Time that a module's new revision must run before the one that it replaces is given up.
    pub update_probation_seconds: u32,
    /// Registries whose images are asked for elsewhere first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registry_mirrors: Vec<RegistryMirrors>,
    /// Proxies on the way to registries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxies>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            oci_runtime: "/usr/sbin/runc".into(),
            module_network: "10.77.0.0/24".into(),
            plain_http_registries: Vec::new(),
            registry_credentials_file: None,
            registry_ca_files: Vec::new(),
            update_probation_seconds: 60,
            registry_mirrors: Vec::new(),
            proxy: None,
        }
    }
}

impl Runtime {
    /// Files with logins: for registries, and for proxies.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.credentials_file.as_ref());
        self.registry_credentials_file.iter().chain(proxy)
    }
}

/// Table `mqtt`: addresses of the broker and the size of its queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// Address where leaf devices connect (MQTT 3.1.1 over mutual TLS).
    pub leaf_listen: SocketAddr,
    /// Address where leaf devices without a certificate enrol (TLS, HTTP).
    pub leaf_enrol_listen: SocketAddr,
    /// Port where modules connect, on the gateway's own address (the first) in the module network.
    pub module_port: u16,
    /// Byte cap of the upstream queue on disk.
    pub queue_bytes_max: u64,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            leaf_listen: ([0, 0, 0, 0], 8883).into(),
            leaf_enrol_listen: ([0, 0, 0, 0], 8884).into(),
            module_port: 8885,
            queue_bytes_max: 64 * 1024 * 1024,
        }
    }
}

impl Config {
    /// The configuration in the file at `path`, checked. Unknown keys are refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.into(), message: error.to_string() })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let range = |key, range| Err(ConfigError::Range { path: path.into(), key, range });
        if self.fleet.is_some() && self.est.is_some() {
            return Err(ConfigError::TwoCertifiers { path: path.into() });
        }
        if self.est.as_ref().is_some_and(|est| !(1..=120).contains(&est.timeout_seconds)) {
            return range("est.timeout_seconds", "1 to 120");
        }
        let identity = &self.identity;
        if !(10..=3600).contains(&identity.svid_lifetime_seconds) {
            return range("identity.svid_lifetime_seconds", "10 to 3600");
        }
        if !(10..=3600).contains(&identity.jwt_svid_lifetime_seconds) {
            return range("identity.jwt_svid_lifetime_seconds", "10 to 3600");
        }
        if !(600..=31 * 86400).contains(&identity.jwt_key_lifetime_seconds) {
            return range("identity.jwt_key_lifetime_seconds", "600 to 2678400");
        }
        if !(60..=90 * 86400).contains(&identity.leaf_lifetime_seconds) {
            return range("identity.leaf_lifetime_seconds", "60 to 7776000");
        }
        if identity.issuing_ca_lifetime_seconds > ISSUING_CA_SECONDS_MAX {
            return range("identity.issuing_ca_lifetime_seconds", "at most 31622400, a year");
        }
        let issuing_ca = ("identity.issuing_ca_lifetime_seconds", identity.issuing_ca_lifetime_seconds);
        let jwt_key = ("identity.jwt_key_lifetime_seconds", identity.jwt_key_lifetime_seconds);
        for ((child, child_seconds), (parent, parent_seconds)) in [
            (("identity.svid_lifetime_seconds", identity.svid_lifetime_seconds), issuing_ca),
            (("identity.leaf_lifetime_seconds", identity.leaf_lifetime_seconds), issuing_ca),
            (("identity.jwt_svid_lifetime_seconds", identity.jwt_svid_lifetime_seconds), jwt_key),
        ] {
            if parent_seconds <= child_seconds {
                return Err(ConfigError::Outlives {
                    path: path.into(),
                    child,
                    child_seconds,
                    parent,
                    parent_seconds,
                });
            }
        }
        if !RUNTIME_PCRS.contains(&self.attestation.runtime_pcr) {
            return range(
                "attestation.runtime_pcr",
                "11, 13 or 15: others are reference values, IMA's, or can be reset without a boot",
            );
        }
        if let Keystore::DangerousSimulatedTpm { address } = &self.keystore
            && !address.ip().is_loopback()
        {
            return range(
                "keystore.address",
                "a loopback address: a simulated TPM is never reached over a network",
            );
        }
        if let Keystore::Pkcs11 { module, token, pin_file, library_files } = &self.keystore {
            if !module.is_absolute() {
                return range("keystore.module", "an absolute path: a bare name would be searched for");
            }
            if !pin_file.is_absolute() || library_files.iter().any(|path| !path.is_absolute()) {
                return range("keystore.pin_file and library_files", "absolute paths");
            }
            if library_files.len() > LIBRARY_FILES_MAX {
                return range("keystore.library_files", "16 paths at most");
            }
            // CK_TOKEN_INFO has 32 bytes for it, filled up with blanks.
            if token.is_empty() || token.len() > TOKEN_LABEL_BYTES_MAX || token.ends_with(' ') {
                return range("keystore.token", "a label of 1 to 32 bytes that does not end in a blank");
            }
        }
        registries::check(&self.runtime).or_else(|(key, rule)| range(key, rule))
    }
}

impl Config {
    /// Public-key files of those who may sign deployments.
    pub fn operator_keys(&self) -> &[PathBuf] {
        match (&self.fleet, &self.est) {
            (Some(fleet), _) => &fleet.operator_keys,
            (None, Some(est)) => &est.operator_keys,
            (None, None) => &[],
        }
    }
}

/// A lifetime from the configuration.
pub fn seconds(value: u32) -> Duration {
    Duration::from_secs(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n";

    fn load(extra: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(&format!("{GOOD}{extra}"))
            .map_err(|e| ConfigError::Parse { path: "test".into(), message: e.to_string() })?;
        config.check(Path::new("test")).map(|()| config)
    }

    #[test]
    fn a_configuration_is_read_strictly() {
        let tpm = "[keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\n";
        assert_eq!(load(tpm).unwrap().attestation.runtime_pcr, 15);
        for pcr in RUNTIME_PCRS {
            assert!(load(&format!("{tpm}[attestation]\nruntime_pcr = {pcr}\n")).is_ok());
        }
        let pkcs11 = |module: &str, token: &str, rest: &str| {
            format!("[keystore]\nkind = \"pkcs11\"\nmodule = \"{module}\"\ntoken = \"{token}\"\n{rest}")
        };
        let pin = "pin_file = \"/etc/edgewarden/pin\"\n";
        assert!(load(&pkcs11("/usr/lib/hsm.so", "gateway", pin)).is_ok());
        assert!(
            load(&pkcs11(
                "/usr/lib/hsm.so",
                &"a".repeat(32),
                &format!("{pin}library_files = [\"/dev/hsm\"]\n")
            ))
            .is_ok()
        );
        for bad in [
            pkcs11("hsm.so", "gateway", pin),
            pkcs11("/usr/lib/hsm.so", "", pin),
            pkcs11("/usr/lib/hsm.so", "gateway ", pin),
            pkcs11("/usr/lib/hsm.so", &"a".repeat(33), pin),
            pkcs11("/usr/lib/hsm.so", "gateway", ""),
            pkcs11("/usr/lib/hsm.so", "gateway", "pin_file = \"pin\"\n"),
            pkcs11("/usr/lib/hsm.so", "gateway", &format!("{pin}slot = 3\n")),
            pkcs11("/usr/lib/hsm.so", "gateway", &format!("{pin}pin = \"1234\"\n")),
            pkcs11("/usr/lib/hsm.so", "gateway", &format!("{pin}library_files = [\"tokens\"]\n")),
        ] {
            assert!(load(&bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "[keystore]\nkind = \"none\"\n",
            "[keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\nfallback = true\n",
            "[keystore]\nkind = \"dangerous-simulated-tpm\"\naddress = \"192.0.2.1:2321\"\n",
            &format!("{tpm}[identity]\nsvid_lifetime_seconds = 3601\n"),
            &format!("{tpm}[identity]\nissuing_ca_lifetime_seconds = 3600\n"),
            &format!("{tpm}[identity]\njwt_svid_lifetime_seconds = 9\n"),
            &format!("{tpm}[identity]\njwt_svid_lifetime_seconds = 3601\n"),
            &format!("{tpm}[identity]\njwt_key_lifetime_seconds = 599\n"),
            &format!("{tpm}[identity]\njwt_key_lifetime_seconds = 2678401\n"),
            &format!("{tpm}[identity]\njwt_svid_lifetime_seconds = 600\njwt_key_lifetime_seconds = 600\n"),
            &format!("{tpm}[identity]\nissuing_ca_lifetime_seconds = 31622401\n"),
            &format!("{tpm}[mqtt]\nport = 1\n"),
            &format!("{tpm}[attestation]\nruntime_pcr = 7\n"),
            &format!("{tpm}[attestation]\nruntime_pcr = 10\n"),
            &format!("{tpm}[attestation]\nruntime_pcr = 16\n"),
            &format!("{tpm}[attestation]\nruntime_pcr = 23\n"),
            &format!("{tpm}[unknown]\n"),
        ] {
            assert!(load(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_way_to_registries_is_read_strictly() {
        let tpm = "[keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\n[runtime]\n";
        let good = "registry_credentials_file = \"/etc/edgewarden/registries.json\"\n\
            registry_ca_files = [\"/etc/edgewarden/plant-ca.pem\"]\n\
            [[runtime.registry_mirrors]]\nregistry = \"docker.io\"\nmirrors = [\"cache.plant.example:5000\"]\nonly = true\n\
            [runtime.proxy]\nhttps = \"http://proxy:3128\"\nno_proxy = [\".plant.example\", \"10.0.0.0/8\"]\n";
        let config = load(&format!("{tpm}{good}")).unwrap();
        assert!(config.runtime.registry_mirrors[0].only);
        // What `join` writes is read again.
        let again: Config = toml::from_str(&toml::to_string_pretty(&config).unwrap()).unwrap();
        assert_eq!(again.runtime.proxy, config.runtime.proxy);
        let mirrors = |rest: &str| format!("[[runtime.registry_mirrors]]\n{rest}");
        for bad in [
            "registry_credentials_file = \"registries.json\"\n".to_owned(),
            "registry_ca_files = [\"ca.pem\"]\n".into(),
            format!("registry_ca_files = {:?}\n", vec!["/a"; 33]),
            "registry_password = \"hunter2\"\n".into(),
            mirrors("registry = \"docker.io\"\n"),
            mirrors("registry = \"docker.io\"\nmirrors = []\n"),
            mirrors(&format!("registry = \"docker.io\"\nmirrors = {:?}\n", vec!["a"; 9])),
            mirrors("registry = \"docker.io\"\nmirrors = [\"https://a\"]\n"),
            mirrors("registry = \"docker.io/library\"\nmirrors = [\"a\"]\n"),
            mirrors("registry = \"docker.io\"\nmirrors = [\"a\"]\nfallback = true\n"),
            mirrors("registry = \"a\"\nmirrors = [\"b\"]\n").repeat(2),
            "[runtime.proxy]\n".into(),
            "[runtime.proxy]\nno_proxy = [\"*\"]\n".into(),
            "[runtime.proxy]\nhttps = \"proxy:3128\"\n".into(),
            "[runtime.proxy]\nhttps = \"http://user:hunter2@proxy:3128\"\n".into(),
            "[runtime.proxy]\nhttps = \"http://proxy:3128\"\nno_proxy = [\"a b\"]\n".into(),
            "[runtime.proxy]\nhttps = \"http://proxy:3128\"\ncredentials_file = \"proxy\"\n".into(),
            "[runtime.proxy]\nhttps = \"http://proxy:3128\"\npassword = \"x\"\n".into(),
            format!("[runtime.proxy]\nhttp = \"http://proxy:3128\"\nno_proxy = {:?}\n", vec!["a"; 65]),
        ] {
            assert!(load(&format!("{tpm}{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_site_ca_stands_in_a_fleets_place_and_not_beside_it() {
        let tpm = "[keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\n";
        let est = |more: &str| {
            format!(
                "{tpm}[est]\nurl = \"https://est.example\"\ntrust_anchors = \"/etc/edgewarden/site.pem\"\n{more}\
                 [est.auth]\nkind = \"basic\"\nuser = \"gw-1\"\npassword_file = \"/etc/edgewarden/est-password\"\n"
            )
        };
        let fleet = "[fleet]\nurl = \"https://fleet.example\"\nroot = \"/etc/r.pem\"\noperator_keys = [\"/etc/o.pem\"]\n";
        let config = load(&est("operator_keys = [\"/etc/edgewarden/operator.pem\"]\n")).unwrap();
        assert_eq!(config.operator_keys().len(), 1);
        let said = load(&format!("{}{fleet}", est(""))).unwrap_err().to_string();
        assert!(said.contains("`[fleet]`") && said.contains("`[est]`"), "{said}");
        for bad in [
            est("timeout_seconds = 0\n"),
            est("timeout_seconds = 121\n"),
            est("root = \"/etc/r.pem\"\n"),
            est("password = \"secret\"\n"),
            format!("{tpm}[est]\nurl = \"https://est.example\"\n"),
        ] {
            assert!(load(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_child_that_outlives_its_parent_is_refused_with_both_names() {
        let tpm = "[keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\n";
        for (svid, leaf, issuing, refused) in [
            (3600, 86400, 86401, None),
            (3600, 86400, 86400, Some("leaf")),
            (3600, 86400, 3601, Some("leaf")),
            (3600, 60, 3600, Some("svid")),
            (3600, 60, 3601, None),
            (10, 60, 11, Some("leaf")),
            (10, 60, 0, Some("svid")),
            (3600, 604_800, 604_801, None),
        ] {
            let text = format!(
                "{tpm}[identity]\nsvid_lifetime_seconds = {svid}\nleaf_lifetime_seconds = {leaf}\nissuing_ca_lifetime_seconds = {issuing}\n"
            );
            let said = load(&text).err().map(|error| error.to_string());
            match refused {
                None => assert_eq!(said, None, "{text}"),
                Some(child) => {
                    let said = said.unwrap();
                    assert!(said.contains(&format!("identity.{child}_lifetime_seconds")), "{said}");
                    assert!(said.contains("identity.issuing_ca_lifetime_seconds"), "{said}");
                }
            }
        }
    }
}
