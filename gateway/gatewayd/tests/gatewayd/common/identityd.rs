//! The parts of `identityd` that this process talks to: its control protocol and one Workload API socket.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use edgewarden_ca::chain::facts;
use edgewarden_ca::{IssuingCa, RootCa};
use edgewarden_exchange::frame;
use edgewarden_names::{Digest, Epoch, Generation, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_policy::compile;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{
    Certificate, Enforcer, PolicyInForce, Reply, Request, Snapshot, Standing, StartRecord, StorageKey,
    ToldTime, TopicSize,
};
use edgewarden_protocol::deployment::Deployment;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::leaf::renewal_statement;
use edgewarden_svid::X509Context;
use edgewarden_workload_server::{Current, IdentitySource};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{HOUR, context, domain, gateway, leaf, module};

pub const TOKEN: &str = "good-token";

pub struct Identityd {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    identity: watch::Sender<Option<Arc<X509Context>>>,
}

struct Shared {
    snapshot: watch::Sender<Snapshot>,
    enforced: watch::Sender<Option<Epoch>>,
    refusals: Mutex<Vec<Refusal>>,
    issuing: Arc<IssuingCa>,
    root: Vec<u8>,
    key: Mutex<[u8; 32]>,
}

struct Gatewayd(Current);

impl IdentitySource for Gatewayd {
    fn authorize(&self, _: &PeerEvidence) -> Result<(), Refusal> {
        Ok(())
    }
    fn subscribe(&self) -> Result<Current, Refusal> {
        Ok(self.0.clone())
    }
}

impl Identityd {
    pub fn start(layout: &Layout, root: &RootCa, issuing: Arc<IssuingCa>) -> Self {
        std::fs::create_dir_all(layout.workload_folder("gatewayd")).unwrap();
        let svid = issuing.issue_svid(&module("gatewayd"), &[], HOUR, UnixTime::now()).unwrap();
        let (identity, current) = watch::channel(Some(Arc::new(context(svid, root))));
        let workload = UnixListener::bind(layout.workload_socket("gatewayd")).unwrap();
        let control = UnixListener::bind(layout.control_socket()).unwrap();
        let snapshot = Snapshot {
            secrets: 0,
            revision: 1,
            gateway: gateway(),
            trust_domain: domain(),
            policy: None,
            untrusted: Vec::new(),
            records: vec![record("analytics", 1, [0, 0, 0, 0].into())],
            trusted: true,
            time: told(UnixTime::now()),
            standing: Vec::new(),
        };
        let shared = Arc::new(Shared {
            snapshot: watch::channel(snapshot).0,
            enforced: watch::channel(None).0,
            refusals: Mutex::default(),
            issuing,
            root: root.certificate_der().to_vec(),
            key: Mutex::new([9; 32]),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let source = Arc::new(Gatewayd(current));
            edgewarden_workload_server::serve(workload, source, std::future::pending()).await.unwrap();
        });
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            loop {
                let (stream, _) = control.accept().await.unwrap();
                tokio::spawn(Arc::clone(&serving).converse(stream));
            }
        });
        Self { shared, _tasks: tasks, identity }
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.shared.snapshot.send_modify(|snapshot| {
            snapshot.revision += 1;
            change(snapshot);
        });
    }

    /// Compiles the clinic's deployment with this policy and puts it in force.
    pub fn enforce(&self, policy: &str, epoch: u64) {
        self.enforce_with(policy, epoch, &json!({}));
    }

    /// With a table `messages` in the deployment.
    pub fn enforce_with(&self, policy: &str, epoch: u64, messages: &serde_json::Value) {
        let image = format!("127.0.0.1:5000/clinic/module@sha256:{}", "ab".repeat(32));
        let document = json!({
            "name": "glucose", "version": epoch, "trust_domain": "plant.example", "image_keys": [],
            "modules": [{"name": "analytics", "image": image}, {"name": "alerts", "image": image}],
            "leaves": [
                {"name": "sensor-1", "groups": ["glucose-sensors"]},
                {"name": "sensor-2", "groups": ["glucose-sensors"]},
                {"name": "pump-1", "groups": ["pumps"]},
            ],
            "topics": [
                {"name": "glucose", "filter": "leaf/{leaf}/glucose"},
                {"name": "all-glucose", "filter": "leaf/+/glucose"},
                {"name": "summary", "filter": "clinic/summary", "bytes_max": 200_000},
                {"name": "alerts", "filter": "$edgewarden/alerts/#"},
                {"name": "everything", "filter": "#"},
                {"name": "raw", "filter": "raw/x-{leaf}/#", "bytes_max": 100},
            ],
            "routes": [{"filter": "clinic/summary", "to": "upstream"}],
            "policy": policy,
            "messages": messages,
        });
        let deployment = Deployment::parse(document.to_string().as_bytes()).unwrap();
        let compiled = compile(&deployment, &gateway(), Epoch(epoch)).unwrap();
        let compiled = Bytes(serde_json::to_vec(&compiled).unwrap());
        let routes = deployment.routes;
        self.change(|snapshot| {
            let (messages, sizes) = (deployment.messages, TopicSize::of(&deployment.topics));
            snapshot.policy = Some(PolicyInForce { epoch: Epoch(epoch), compiled, routes, messages, sizes });
        });
    }

    pub fn forget_enforced(&self) {
        self.shared.enforced.send_replace(None);
    }

    /// Waits for the word that the newest epoch is in force.
    pub async fn enforced_again(&self) {
        let epoch = self.shared.snapshot.borrow().policy.as_ref().unwrap().epoch;
        self.enforced(epoch).await;
    }

    pub fn unreadable_epoch(&self, epoch: u64) {
        self.change(|snapshot| {
            let routes = Vec::new();
            let compiled = Bytes(b"{}".to_vec());
            let (messages, sizes) = Default::default();
            snapshot.policy = Some(PolicyInForce { epoch: Epoch(epoch), compiled, routes, messages, sizes });
        });
    }

    pub fn run(&self, records: &[(&str, u64, Ipv4Addr)]) {
        let records = records.iter().map(|(name, generation, address)| record(name, *generation, *address));
        self.change(|snapshot| snapshot.records = records.collect());
    }

    /// Gives `gatewayd` another certificate.
    pub fn certify(&self, issuing: &IssuingCa, now: UnixTime, root: &RootCa) {
        let svid = issuing.issue_svid(&module("gatewayd"), &[], HOUR, now).unwrap();
        self.identity.send_replace(Some(Arc::new(context(svid, root))));
    }

    /// Tells another time.
    pub fn tell(&self, now: UnixTime) {
        self.change(|snapshot| snapshot.time = told(now));
    }

    pub fn trust(&self, trusted: bool) {
        self.change(|snapshot| snapshot.trusted = trusted);
    }

    /// Sets the standing faults.
    pub fn stand(&self, standing: Vec<Standing>) {
        self.change(|snapshot| snapshot.standing = standing);
    }

    pub fn change_key(&self) {
        *self.shared.key.lock().unwrap() = [10; 32];
    }

    /// Waits for the word that the epoch is in force.
    pub async fn enforced(&self, epoch: Epoch) {
        let mut enforced = self.shared.enforced.subscribe();
        let wait = enforced.wait_for(|enforced| *enforced == Some(epoch));
        tokio::time::timeout(std::time::Duration::from_secs(30), wait)
            .await
            .expect("the epoch is not in force")
            .unwrap();
    }

    pub fn refusals(&self) -> Vec<Refusal> {
        self.shared.refusals.lock().unwrap().clone()
    }

    /// Waits for a refusal with this reason in the audit log.
    pub async fn refused(&self, reason: Reason) -> Refusal {
        for _ in 0..1000 {
            if let Some(found) = self.refusals().into_iter().find(|refusal| refusal.reason == reason) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no refusal for {reason}, but {:?}", self.refusals());
    }
}

impl Shared {
    async fn converse(self: Arc<Self>, mut stream: UnixStream) {
        while let Ok(request) = frame::read::<Request>(&mut stream).await {
            assert!(request.for_gateway(), "identityd would refuse {request:?}");
            let reply = self.answer(request).await;
            if frame::write(&mut stream, &reply).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Watch { seen } => {
                let mut snapshot = self.snapshot.subscribe();
                let new = snapshot.wait_for(|snapshot| snapshot.revision > seen);
                drop(tokio::time::timeout(std::time::Duration::from_secs(30), new).await);
                let snapshot = self.snapshot.borrow().clone();
                Reply::Snapshot(Box::new(snapshot))
            }
            Request::EpochEnforced { enforcer: Enforcer::Gatewayd, epoch } => {
                self.enforced.send_replace(Some(epoch));
                Reply::Done
            }
            Request::Refused { refusal, .. } => {
                self.refusals.lock().unwrap().push(refusal);
                Reply::Done
            }
            Request::StorageKey => Reply::StorageKey(StorageKey::new(&self.key.lock().unwrap())),
            Request::LeafIssue { leaf: name, token, csr } => {
                if token.reveal() != TOKEN {
                    return Reply::Refused(Refusal::new(Reason::LeafToken, name, "the token is not good"));
                }
                let id = leaf(name.as_str());
                let issued = self.issuing.issue_for_csr(&id, csr.as_slice(), HOUR, UnixTime::now()).unwrap();
                let chain = issued.chain_der.into_iter().map(Bytes).collect();
                Reply::Certificate(Certificate { chain, root: Bytes(self.root.clone()) })
            }
            // What `identityd` judges, and its own tests try, is taken on trust here.
            Request::LeafRenew { chain, csr, proof } => {
                let own = facts(chain[0].as_slice()).unwrap();
                let statement = renewal_statement(chain[0].as_slice(), csr.as_slice());
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &own.point);
                if key.verify(&statement, proof.as_slice()).is_err() {
                    return Reply::Refused(Refusal::new(
                        Reason::LeafRenewal,
                        "leaf",
                        "not signed by its key",
                    ));
                }
                let id = edgewarden_names::SpiffeId::parse(&own.uris[0]).unwrap();
                let issued = self.issuing.issue_for_csr(&id, csr.as_slice(), HOUR, UnixTime::now()).unwrap();
                let chain = issued.chain_der.into_iter().map(Bytes).collect();
                Reply::Certificate(Certificate { chain, root: Bytes(self.root.clone()) })
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The time as `identityd` tells it when it is `now`.
pub fn told(now: UnixTime) -> ToldTime {
    let now = i64::try_from(now.0).unwrap() * 1000;
    ToldTime { offset_millis: now - edgewarden_platform::clock::boot_millis(), unsure: false }
}

fn record(name: &str, generation: u64, address: Ipv4Addr) -> StartRecord {
    StartRecord {
        instance: format!("{name}-{generation}"),
        module: ModuleName::parse(name).unwrap(),
        generation: Generation(generation),
        manifest: Digest::from_sha256(&[1; 32]),
        epoch: Epoch(1),
        pid: 1,
        pid_started: 1,
        cgroup: "/".into(),
        address,
        at: UnixTime(1),
        vouchers: Vec::new(),
    }
}
