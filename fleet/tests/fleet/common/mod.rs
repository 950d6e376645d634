//! A real server on a free port with data of its own, and gateways that are made by hand.

pub mod disk;
pub mod stored;
pub mod web;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_ca::{CaSigner, IssuingCa, certificate_request};
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, SpiffeId, UnixTime, pem};
use edgewarden_protocol::enrol::{Begin, Challenge, DeviceKeys, Enrolled, Finish, Proof, binding};
use edgewarden_protocol::uplink::{
    DeploymentReport, Message, Messages, MessagesReply, Report, Sync, SyncReply,
};
use edgewarden_svid::X509Context;
use edgewarden_transport::Identity;
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::tls::{client_config, fleet_id, only, pinned_client_config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::sync::watch;

use disk::SmallDisk;

static MADE_AT: std::sync::LazyLock<UnixTime> = std::sync::LazyLock::new(UnixTime::now);

pub const DEADLINE: Duration = Duration::from_secs(90);
const REPLY_MAX: usize = 16 * 1024 * 1024;

pub use edgewarden_testkit::{Key, domain};

pub fn name(text: &str) -> GatewayName {
    GatewayName::parse(text).unwrap()
}

pub struct Fleet {
    pub folder: TempDir,
    pub extra: Vec<String>,
    child: Option<Child>,
    disk: Option<SmallDisk>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kill();
        // Before the folder that it is mounted in.
        self.disk = None;
    }
}

impl Fleet {
    /// A fleet with the operator key `operator.key`, running.
    pub fn start(extra: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None, extra)
    }

    /// Its folder has a file system of its own.
    pub fn start_on_small_disk(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::new(&folder.path().join("data"), bytes);
        Self::start_in(folder, Some(disk), &[])
    }

    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().unwrap()
    }

    fn start_in(folder: TempDir, disk: Option<SmallDisk>, extra: &[&str]) -> Self {
        let fleet =
            Self { folder, extra: extra.iter().map(|text| (*text).to_owned()).collect(), child: None, disk };
        fleet.cli(&["init", "--trust-domain", "plant.example", "--name", "localhost,127.0.0.1"]).ok();
        for key in ["operator.key", "stranger.key"] {
            fleet.cli(&["key", "generate", "--out", fleet.path(key).to_str().unwrap()]).ok();
        }
        let mut fleet = fleet;
        fleet.run();
        fleet
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Starts the server and waits until it listens.
    pub fn run(&mut self) {
        let address = self.data().join("address");
        let _ = std::fs::remove_file(&address);
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden-fleet"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(self.data());
        command.arg("--operator-key").arg(self.path("operator.key.pub")).args(&self.extra);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        while !address.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the server ended:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; the exit must be a success.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("https://{}", std::fs::read_to_string(self.data().join("address")).unwrap())
    }

    pub fn cli(&self, arguments: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden-fleet"));
        Answer(command.args(arguments).arg("--data").arg(self.data()).output().unwrap())
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.cli(&arguments).ok()).unwrap()
    }

    /// For a gateway of [`Device::begin`]: without a TPM, at the clinic.
    pub fn token(&self, gateway: &str) -> String {
        self.token_with(gateway, &["--allow-software", "--label", "site=clinic"])
    }

    pub fn token_with(&self, gateway: &str, extra: &[&str]) -> String {
        let arguments = [&["token", "create", "--gateway", gateway], extra].concat();
        self.cli(&arguments).ok().trim().to_owned()
    }

    pub fn root(&self) -> Vec<u8> {
        pem::one(&std::fs::read_to_string(self.data().join("root.pem")).unwrap(), pem::CERTIFICATE).unwrap()
    }

    /// A client without a certificate.
    pub fn stranger(&self) -> Client {
        let tls = pinned_client_config(&self.root().as_slice().into(), &domain(), only(fleet_id(&domain())))
            .unwrap();
        Client::new(&self.url(), tls).unwrap()
    }

    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.data().join("admin.token")).unwrap()
    }

    pub async fn begin(&self, begin: &Begin) -> Result<Challenge, Reason> {
        post(&self.stranger(), "/v1/enrol/begin", begin).await
    }

    pub async fn finish(&self, finish: &Finish) -> Result<Enrolled, Reason> {
        post(&self.stranger(), "/v1/enrol/finish", finish).await
    }

    /// A software gateway, joined.
    pub async fn gateway(&self, gateway: &str) -> Gateway {
        let device = Device::new(gateway);
        let token = self.token(gateway);
        let enrolled = device.enrol(self, Some(&token)).await.unwrap();
        Gateway::new(device, &enrolled)
    }

    /// Writes a deployment and sends it.
    pub fn deploy(&self, version: u64, key: &str, extra: &[&str]) -> Answer {
        let file = self.document(version, "site = \"clinic\"");
        let key = self.path(key);
        // Its image is nowhere.
        let file = file.to_str().unwrap();
        let mut arguments = vec!["deploy", file, "--key", key.to_str().unwrap(), "--skip-images"];
        // Many tests have no gateway.
        if !extra.contains(&"--out") {
            arguments.push("--allow-empty");
        }
        arguments.extend(extra);
        self.cli(&arguments)
    }

    pub fn document(&self, version: u64, selector: &str) -> PathBuf {
        let image = format!("127.0.0.1:9/clinic/alerts:1@sha256:{}", "ab".repeat(32));
        let text = format!(
            "name = \"glucose\"\nversion = {version}\npolicy = \"\"\n[selector]\n{selector}\n\
             [[modules]]\nname = \"alerts\"\nimage = \"{image}\"\n"
        );
        let file = self.path("deployment.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// A command's answer: output, errors and exit code.
pub struct Answer(pub Output);

impl Answer {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code(), 0, "{}", self.errors());
        String::from_utf8(self.0.stdout).unwrap()
    }

    #[track_caller]
    pub fn refused(self, reason: Reason) {
        assert_eq!(self.code(), 3, "{}", self.errors());
        assert!(self.errors().contains(reason.code()), "{}", self.errors());
    }
}

pub async fn post<T: Serialize + std::marker::Sync, R: DeserializeOwned>(
    client: &Client,
    path: &str,
    request: &T,
) -> Result<R, Reason> {
    match client.post_json(path, request, REPLY_MAX, DEADLINE).await {
        Ok(reply) => Ok(reply),
        Err(HttpError::Refused(Refusal { reason, .. })) => Err(reason),
        Err(error) => panic!("{path}: {error:?}"),
    }
}

/// A gateway without a TPM, before it has joined.
pub struct Device {
    pub name: GatewayName,
    pub key: Key,
    pub ca: Key,
}

impl Device {
    pub fn new(gateway: &str) -> Self {
        Self { name: name(gateway), key: Key::generate(), ca: Key::generate() }
    }

    pub fn begin(&self, token: Option<&str>) -> Begin {
        Begin {
            gateway: self.name.clone(),
            trust_domain: domain(),
            token: token.map(Into::into),
            labels: BTreeMap::from([("site".into(), "clinic".into())]),
            keys: DeviceKeys::None { device_public: self.key.point().into() },
        }
    }

    pub fn answer(&self, challenge: &Challenge) -> Finish {
        self.answer_to(&challenge.session, challenge.nonce.as_slice())
    }

    pub fn answer_to(&self, session: &str, nonce: &[u8]) -> Finish {
        let csr = certificate_request(&self.ca, &self.name, &domain()).unwrap();
        let signature = self.key.sign(&binding(nonce, &csr)).unwrap();
        Finish {
            session: session.into(),
            proof: Proof::None { csr: csr.into(), signature: signature.into() },
        }
    }

    pub async fn enrol(&self, fleet: &Fleet, token: Option<&str>) -> Result<Enrolled, Reason> {
        let challenge = fleet.begin(&self.begin(token)).await?;
        fleet.finish(&self.answer(&challenge)).await
    }
}

/// A gateway that has joined, with a CA that issues to its modules.
pub struct Gateway {
    pub device: Device,
    ca: IssuingCa,
}

impl Gateway {
    pub fn new(device: Device, enrolled: &Enrolled) -> Self {
        let ca = issuing_ca(&device.ca, &device.name, enrolled);
        Self { device, ca }
    }

    pub fn id(&self, module: &str) -> SpiffeId {
        SpiffeId::module(&domain(), &self.device.name, &module.parse().unwrap())
    }

    /// A client with the certificate of one of the gateway's modules.
    pub fn client(&self, fleet: &Fleet, module: &str) -> Client {
        self.client_as(fleet, &self.id(module))
    }

    pub fn client_as(&self, fleet: &Fleet, id: &SpiffeId) -> Client {
        client(fleet, &self.ca, id)
    }

    pub fn message(&self, sequence: u64) -> Message {
        Message {
            queue: "0a".repeat(16),
            sequence,
            // The same however often it is made: sent again, it must not be another message.
            at: *MADE_AT,
            from: self.id("analytics"),
            topic: "clinic/summary".into(),
            payload: format!("{{\"n\":{sequence}}}").into_bytes().into(),
        }
    }

    pub async fn send(&self, fleet: &Fleet, messages: Vec<Message>) -> Result<u64, Reason> {
        let reply: MessagesReply =
            post(&self.client(fleet, "gatewayd"), "/v1/gateway/messages", &Messages { messages }).await?;
        Ok(reply.stored)
    }

    pub async fn sync(
        &self,
        fleet: &Fleet,
        have: Option<Digest>,
        wait_seconds: u32,
    ) -> Result<SyncReply, Reason> {
        let sync = Sync { have, wait_seconds, report: report(), secrets: None };
        post(&self.client(fleet, "runtimed"), "/v1/gateway/sync", &sync).await
    }
}

pub fn issuing_ca(signer: &dyn CaSigner, gateway: &GatewayName, enrolled: &Enrolled) -> IssuingCa {
    let lifetime = Duration::from_secs(8 * 86400);
    let ca = enrolled.gateway_ca.as_slice();
    IssuingCa::create(signer, ca, &domain(), gateway, lifetime, UnixTime::now()).unwrap()
}

/// A client with a certificate for `id`.
pub fn client(fleet: &Fleet, ca: &IssuingCa, id: &SpiffeId) -> Client {
    let svid = ca.issue_svid(id, &[], Duration::from_secs(3600), UnixTime::now()).unwrap();
    let context = X509Context {
        id: svid.id,
        chain_der: svid.chain_der,
        key_pkcs8: svid.key_pkcs8,
        bundle_der: vec![fleet.root()],
        trust_domain: domain(),
    };
    let (_, current) = watch::channel(Some(Arc::new(context)));
    let tls = client_config(&Identity::new(current), only(fleet_id(&domain()))).unwrap();
    Client::new(&fleet.url(), tls).unwrap()
}

pub fn report() -> Report {
    Report {
        software_version: "0.1.0".into(),
        architecture: None,
        deployment: Some(DeploymentReport { name: "glucose".into(), version: 1 }),
        policy_epoch: None,
        modules: Vec::new(),
        refusals: Vec::new(),
        verdict: None,
        at: UnixTime::now(),
    }
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
