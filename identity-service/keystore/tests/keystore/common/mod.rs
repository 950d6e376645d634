//! Stores to test: swtpm with an EK certificate of a vendor CA of its own, SoftHSM2, and a key file.

pub mod softhsm;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use edgewarden_keystore::{Keystore, KeystoreError, open};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::config;
use tempfile::TempDir;

/// A manufactured swtpm on a loopback address of its own, so that it comes back at the same place after a cut.
pub struct Swtpm {
    dir: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

static TPMS: AtomicU8 = AtomicU8::new(1);

pub fn run(command: &mut Command) -> std::process::Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Swtpm {
    pub fn manufacture() -> Self {
        Self::with(&["--create-ek-cert", "--lock-nvram"])
    }

    /// Its only endorsement key certificate is for a P-384 key.
    pub fn with_p384() -> Self {
        Self::with(&["--ecc", "--create-ek-cert", "--lock-nvram"])
    }

    pub fn without_certificate() -> Self {
        Self::with(&[])
    }

    fn with(setup: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().display();
        for (name, text) in [
            (
                "localca.conf",
                format!(
                    "statedir = {path}/ca\nsigningkey = {path}/ca/key.pem\nissuercert = {path}/ca/cert.pem\ncertserial = {path}/ca/serial\n"
                ),
            ),
            (
                "localca.options",
                "--platform-manufacturer ExampleCo\n--platform-version 1.0\n--platform-model gw\n".into(),
            ),
            (
                "setup.conf",
                format!(
                    "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {path}/localca.conf\ncreate_certs_tool_options = {path}/localca.options\nactive_pcr_banks = sha256\n"
                ),
            ),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("ca")).unwrap();
        std::fs::create_dir(dir.path().join("tpm")).unwrap();
        run(Command::new("swtpm_setup")
            .arg("--tpm2")
            .args(setup)
            .args(["--pcr-banks", "sha256", "--tpmstate"])
            .arg(dir.path().join("tpm"))
            .arg("--config")
            .arg(dir.path().join("setup.conf")));
        // One address a TPM: process number and counter make it unique on this machine.
        let pid = std::process::id();
        let host = Ipv4Addr::new(
            127,
            u8::try_from(1 + pid / 250 % 250).unwrap(),
            u8::try_from(1 + pid % 250).unwrap(),
            TPMS.fetch_add(1, Ordering::Relaxed),
        );
        let mut tpm = Self { dir, address: (host, 2321).into(), child: None };
        tpm.power_on();
        tpm
    }

    pub fn power_on(&mut self) {
        let (ip, port) = (self.address.ip(), self.address.port());
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.dir.path().join("tpm").display()))
            .arg("--server")
            .arg(format!("type=tcp,port={port},bindaddr={ip}"))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={},bindaddr={ip}", port + 1))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        // What connects next, such as a tool, does not try again.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.listens() {
            assert!(Instant::now() < deadline, "swtpm does not listen on {}", self.address);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asked of the kernel: swtpm serves one connection at a time, so that a trial connection could be in the way.
    fn listens(&self) -> bool {
        const TCP_LISTEN: &str = "0A";
        let IpAddr::V4(ip) = self.address.ip() else { return false };
        let local = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), self.address.port());
        std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(&local) && fields.nth(1) == Some(TCP_LISTEN)
        })
    }

    /// As a power cut does it: no shutdown command.
    pub fn cut_power(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn vendor_ca_pem(&self) -> Vec<u8> {
        let ca = self.dir.path().join("ca");
        let mut pem = std::fs::read(ca.join("cert.pem")).unwrap();
        pem.extend(std::fs::read(ca.join("swtpm-localca-rootca-cert.pem")).unwrap_or_default());
        pem
    }

    /// A tool of tpm2-tools that talks to this TPM, without a resource manager.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.current_dir(self.dir.path());
        command
            .env("TPM2TOOLS_TCTI", format!("swtpm:host={},port={}", self.address.ip(), self.address.port()));
        command
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.cut_power();
    }
}

/// A store's surroundings; the store itself is opened as often as a test wants.
pub struct Fixture {
    pub tpm: Option<Swtpm>,
    pub state: TempDir,
    pub config: config::Keystore,
}

impl Fixture {
    pub fn tpm() -> Self {
        let tpm = Swtpm::manufacture();
        let config = config::Keystore::DangerousSimulatedTpm { address: tpm.address() };
        Self { tpm: Some(tpm), state: TempDir::new().unwrap(), config }
    }

    pub fn software() -> Self {
        let state = TempDir::new().unwrap();
        let passphrase_file = state.path().join("passphrase");
        write_private(&passphrase_file, b"correct horse battery\n");
        Self { tpm: None, config: config::Keystore::Software { passphrase_file }, state }
    }

    /// A token of its own. Only in a process that has SoftHSM2 to itself.
    pub fn pkcs11() -> Self {
        Self::pkcs11_with(softhsm::make_token())
    }

    pub fn pkcs11_with(token: String) -> Self {
        let state = TempDir::new().unwrap();
        let pin_file = state.path().join("pin");
        write_private(&pin_file, softhsm::PIN.as_bytes());
        let module = softhsm::library();
        let config = config::Keystore::Pkcs11 { module, token, pin_file, library_files: Vec::new() };
        Self { tpm: None, config, state }
    }

    pub fn is_tpm(&self) -> bool {
        self.tpm.is_some()
    }

    pub fn is_software(&self) -> bool {
        matches!(self.config, config::Keystore::Software { .. })
    }

    pub fn open(&self) -> Arc<dyn Keystore> {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_open(&self) -> Result<Arc<dyn Keystore>, KeystoreError> {
        open_config(&self.config, self.state.path())
    }

    /// The file that holds a sealed value.
    pub fn sealed_file(&self, name: &str) -> PathBuf {
        let sealed = self.state.path().join("sealed");
        match self.config {
            config::Keystore::Software { .. } => self.state.path().join("software-keys"),
            config::Keystore::Pkcs11 { .. } => sealed.join(format!("{name}.pkcs11")),
            _ => sealed.join(format!("{name}.tpm")),
        }
    }

    /// The file of a resident key, in stores that have one for each.
    pub fn key_file(&self, name: &str) -> PathBuf {
        let kind = if self.is_tpm() { "tpm" } else { "pkcs11" };
        self.state.path().join("keys").join(format!("{name}.{kind}"))
    }

    pub fn tpm_mut(&mut self) -> &mut Swtpm {
        self.tpm.as_mut().unwrap()
    }
}

pub fn open_config(config: &config::Keystore, state: &Path) -> Result<Arc<dyn Keystore>, KeystoreError> {
    open(config, state)
}

/// Runs a test on every store there is. A new store is a new line here.
pub fn on_every_store<F: Fn(fn() -> Fixture)>(test: F) {
    if softhsm::is_inside() {
        return test(Fixture::pkcs11);
    }
    test(Fixture::software);
    test(Fixture::tpm);
    // The test that calls us comes here again, and to the first line.
    softhsm::alone_as(&softhsm::name_of::<F>());
}

pub fn write_private(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn gateway() -> GatewayName {
    GatewayName::parse("gw-1").unwrap()
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse("plant.example").unwrap()
}
