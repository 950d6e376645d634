//! A gateway to test: its folder, its fleet, its operator, and images that are signed for it.

pub mod clocks;
pub mod container;
pub mod fetched;
pub mod iotedge;
pub mod modules;
pub mod softhsm;

pub use edgewarden_testkit::image;
pub use edgewarden_testkit::image::document;
pub use edgewarden_testkit::{Key, Operator, domain, gateway as gateway_name, until};

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use edgewarden_ca::{RootCa, public_point};
use edgewarden_exchange::client::Client;
use edgewarden_identityd::{Daemon, RunError};
use edgewarden_names::{Reason, Refusal, UnixTime, pem};
use edgewarden_protocol::config::{self, Config};
use edgewarden_protocol::control::{Reply, Request, Status};
use edgewarden_protocol::enrol::{Challenge, Check, Enrolled, Proof, Verdict, VerdictState};
use edgewarden_protocol::layout::Layout;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub const DAY: Duration = Duration::from_secs(86400);
/// A user that stands for `ew-gateway`, and one that stands for anybody.
pub const GATEWAY_UID: u32 = 64_901;
pub const STRANGER_UID: u32 = 64_902;

pub fn restrict(file: &Path) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub struct Gateway {
    pub folder: TempDir,
    pub config: Config,
    pub root: RootCa,
    pub operator: Operator,
    serving: Option<JoinHandle<()>>,
    /// Other clocks than this machine's.
    pub clocks: Option<Arc<clocks::Clocks>>,
}

impl Gateway {
    /// A gateway with everything on its disk that an operator puts there, not started.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let root = RootCa::create(&domain(), 3650 * DAY, UnixTime::now()).unwrap();
        let operator = Operator::new();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let config = Config {
            gateway: config::Gateway {
                name: gateway_name(),
                trust_domain: domain(),
                labels: [("site".to_owned(), "clinic".to_owned())].into(),
            },
            fleet: Some(config::Fleet {
                url: "https://127.0.0.1:1".into(),
                root: file("root.pem", &pem::encode(pem::CERTIFICATE, root.certificate_der())),
                operator_keys: vec![file("operator.pem", &operator.public_pem())],
            }),
            est: None,
            keystore: config::Keystore::Software {
                passphrase_file: file("passphrase", "correct horse battery"),
            },
            attestation: config::Attestation::default(),
            identity: config::Identity::default(),
            runtime: config::Runtime::default(),
            mqtt: config::Mqtt::default(),
        };
        Self { folder, config, root, operator, serving: None, clocks: None }
    }

    /// Changes the content of a document on the disk of the stopped gateway, and proves it as the gateway would
    /// (docs/formats.md).
    pub fn rewrite(&self, file: &str, change: impl FnOnce(&str) -> String) {
        let state = self.layout().identity_state();
        let text = std::fs::read_to_string(state.join(file)).unwrap();
        let (_, content) = text.strip_suffix('}').unwrap().split_once("\"content\":").unwrap();
        let changed = change(content);
        assert_ne!(changed, content, "{file}");
        let keystore = edgewarden_keystore::open(&self.config.keystore, &state).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &keystore.unseal("identityd-state").unwrap());
        let (length, version) = ((file.len() as u64).to_be_bytes(), 1_u32.to_be_bytes());
        let message = [length.as_slice(), file.as_bytes(), &version, changed.as_bytes()].concat();
        let mac = hex::encode(hmac::sign(&key, &message));
        let text = format!("{{\"version\":1,\"mac\":\"{mac}\",\"content\":{changed}}}");
        std::fs::write(state.join(file), text).unwrap();
    }

    pub async fn started() -> Self {
        let mut gateway = Self::new();
        gateway.start().await.unwrap();
        gateway
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.folder.path())
    }

    pub fn control(&self) -> PathBuf {
        self.layout().control_socket()
    }

    /// Starts `identityd` in this process, without the confinement that would bind the tests too.
    pub async fn start(&mut self) -> Result<(), RunError> {
        let (layout, config, uid) = (self.layout(), self.config.clone(), Some(GATEWAY_UID));
        let daemon = match &self.clocks {
            None => Daemon::open(layout, config, uid).await?,
            Some(clocks) => Daemon::open_by(layout, config, uid, Arc::clone(clocks) as _).await?,
        };
        self.serving = Some(tokio::spawn(daemon.serve()));
        Ok(())
    }

    /// Ends it between two instructions, as a crash would.
    pub async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
    }

    /// Starts after [`Gateway::stop`], once what the one before still did on its own threads is over.
    pub async fn start_again(&mut self) {
        for _ in 0..600 {
            match self.start().await {
                Err(RunError::InUse(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other.unwrap(),
            }
        }
        panic!("the state stays in use");
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        ask(&self.control(), &request).await
    }

    /// The reason of a refusal; panics when it was none.
    pub async fn refused(&self, request: Request) -> Reason {
        let asked = format!("{request:?}");
        match self.ask(request).await {
            Err(refusal) => refusal.reason,
            Ok(reply) => panic!("{asked:.200} was answered with {reply:?}"),
        }
    }

    pub async fn status(&self) -> Status {
        match self.ask(Request::Status).await.unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// The proof that the keystore gives to a challenge.
    pub async fn prove(&self) -> Proof {
        let challenge =
            Challenge { session: "s".into(), nonce: vec![7; 32].into(), pcrs: Vec::new(), credential: None };
        match self.ask(Request::EnrolProve(challenge)).await.unwrap() {
            Reply::Proof(proof) => proof,
            other => panic!("{other:?}"),
        }
    }

    /// The point of the gateway CA's key.
    pub async fn ca_point(&self) -> Vec<u8> {
        match self.prove().await {
            Proof::None { csr, .. } => public_point(csr.as_slice()).unwrap(),
            Proof::Tpm(_) => panic!("a software keystore has no TPM"),
        }
    }

    /// Enrolment by a fleet that finds nothing to complain about.
    pub async fn enrolled(&self) -> Enrolled {
        self.enrolled_for(30 * DAY, UnixTime::now()).await
    }

    pub async fn enrolled_for(&self, lifetime: Duration, now: UnixTime) -> Enrolled {
        let point = self.ca_point().await;
        let issued = self.root.certify_gateway_ca(&point, &gateway_name(), lifetime, now).unwrap();
        Enrolled {
            gateway_ca: issued.chain_der[0].clone().into(),
            root: self.root.certificate_der().into(),
            verdict: verdict(VerdictState::Fresh),
        }
    }

    /// Joins whatever the keystore is, by the point that it says.
    pub async fn join_by_point(&self) {
        let Reply::AuditKey(key) = self.ask(Request::AuditKey).await.unwrap() else { panic!("no key") };
        let (name, now) = (gateway_name(), UnixTime::now());
        let issued = self.root.certify_gateway_ca(key.point.as_slice(), &name, 30 * DAY, now).unwrap();
        let enrolled = Enrolled {
            gateway_ca: issued.chain_der[0].clone().into(),
            root: self.root.certificate_der().into(),
            verdict: verdict(VerdictState::Fresh),
        };
        self.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
    }

    pub async fn join(&self) {
        let enrolled = self.enrolled().await;
        self.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
    }

    pub async fn deploy(&self, document: &Value) {
        let envelope = self.operator.sign(document);
        self.ask(Request::DeploymentAccept(envelope)).await.unwrap();
    }

    /// The names of the events in the audit log.
    pub async fn events(&self) -> Vec<String> {
        match self.ask(Request::Audit { last: 1000 }).await.unwrap() {
            Reply::Audit(entries) => entries.into_iter().map(|entry| entry.event).collect(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

pub async fn ask(socket: &Path, request: &Request) -> Result<Reply, Refusal> {
    let mut client = Client::connect(socket).await.unwrap();
    match client.exchange(request).await {
        Ok(Reply::Refused(refusal)) => Err(refusal),
        Ok(reply) => Ok(reply),
        Err(error) => panic!("{request:?}: {error:?}"),
    }
}

pub fn verdict(state: VerdictState) -> Verdict {
    Verdict {
        state,
        hardware: "none".into(),
        reference: None,
        checks: vec![Check { name: "csr".into(), passed: true, detail: "signed by the device key".into() }],
        at: UnixTime::now(),
        expires: UnixTime::now().plus(DAY),
    }
}
