//! A fleet, a gateway whose CA key is "elsewhere", and openssl as the second opinion.

use std::process::Command;
use std::time::Duration;

use edgewarden_ca::{IssuingCa, RootCa};
use edgewarden_names::{UnixTime, pem};
use tempfile::TempDir;

pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86400);

pub use edgewarden_testkit::{Key, domain, gateway, leaf, module};

pub struct Fleet {
    pub root: RootCa,
    pub key: Key,
    pub gateway_ca: Vec<u8>,
}

impl Fleet {
    pub fn new() -> Self {
        let root = RootCa::create(&domain(), DAY * 365, NOW).unwrap();
        let key = Key::generate();
        let gateway_ca =
            root.certify_gateway_ca(&key.point(), &gateway(), DAY * 30, NOW).unwrap().chain_der.remove(0);
        Self { root, key, gateway_ca }
    }

    pub fn issuing(&self) -> IssuingCa {
        IssuingCa::create(&self.key, &self.gateway_ca, &domain(), &gateway(), DAY * 8, NOW).unwrap()
    }
}

/// `openssl verify` of a chain, leaf first, at a time. `Err` has what it said.
pub fn openssl_verify(root: &[u8], chain: &[Vec<u8>], purpose: &str, at: UnixTime) -> Result<(), String> {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, certificates: &[Vec<u8>]| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem::chain(certificates)).unwrap();
        path
    };
    let (leaf, above) = chain.split_first().unwrap();
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", purpose, "-attime", &at.0.to_string()]);
    command.arg("-CAfile").arg(file("root.pem", &[root.to_vec()]));
    if !above.is_empty() {
        command.arg("-untrusted").arg(file("above.pem", above));
    }
    let output = command.arg(file("leaf.pem", std::slice::from_ref(leaf))).output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }
}
