//! From a signed image to an identity: permits, start records, and who may call a module's socket.

use crate::common;

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use common::container::{Container, Job};
use common::image::{Image, document_with};
use common::{Gateway, document};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{ModuleName, Reason, Refusal};
use edgewarden_protocol::control::{
    ImageEvidence, MANIFEST_BYTES_MAX, Prepared, Reply, Request, SIGNATURES_MAX, Snapshot, StartPermit,
};

struct Site {
    gateway: Gateway,
    key: SigningKey,
    image: Image,
}

/// A joined gateway with `alerts` deployed.
async fn site() -> Site {
    let gateway = Gateway::started().await;
    site_of(gateway).await
}

async fn site_of(gateway: Gateway) -> Site {
    gateway.join().await;
    let key = SigningKey::generate().unwrap();
    let image = Image::new("alerts", "one").signed(&key);
    gateway.deploy(&document_with(1, &key, &[("alerts", &image)])).await;
    Site { gateway, key, image }
}

impl Site {
    async fn judge(&self, evidence: ImageEvidence) -> Result<StartPermit, Refusal> {
        match self.gateway.ask(Request::ImageJudge(Box::new(evidence))).await? {
            Reply::Permit(permit) => Ok(*permit),
            other => panic!("{other:?}"),
        }
    }

    async fn permit(&self) -> StartPermit {
        self.judge(self.image.evidence("alerts")).await.unwrap()
    }

    async fn prepare(&self, permit: &str) -> Result<Prepared, Refusal> {
        match self.gateway.ask(Request::StartPrepare { permit: permit.into() }).await? {
            Reply::Prepared(prepared) => Ok(prepared),
            other => panic!("{other:?}"),
        }
    }

    async fn start(&self, container: &Container, last: u8) -> Prepared {
        let prepared = self.prepare(&self.permit().await.permit).await.unwrap();
        self.gateway.ask(started(&prepared.instance, container.pid(), last)).await.unwrap();
        prepared
    }

    async fn snapshot(&self) -> Snapshot {
        match self.gateway.ask(Request::Watch { seen: 0 }).await.unwrap() {
            Reply::Snapshot(snapshot) => *snapshot,
            other => panic!("{other:?}"),
        }
    }
}

fn started(instance: &str, pid: i32, last: u8) -> Request {
    Request::Started { instance: instance.into(), pid, address: Ipv4Addr::new(10, 77, 0, last) }
}

fn fetch(prepared: &Prepared) -> Job {
    Job::Fetch { socket: prepared.workload_folder.join("api.sock") }
}

const ALERTS: &str = "spiffe://plant.example/gateway/gw-1/module/alerts";

#[tokio::test(flavor = "multi_thread")]
async fn a_module_has_its_identity_from_start_to_stop() {
    let site = site().await;
    let permit = site.permit().await;
    assert_eq!((permit.instance.as_str(), permit.generation.0), ("alerts-1", 1));
    assert_eq!(permit.manifest, *site.image.reference.digest());
    assert_eq!((permit.signed_by.as_str(), permit.permit.len()), ("ci", 32));
    let prepared = site.prepare(&permit.permit).await.unwrap();
    let container = Container::new();

    // The socket is there, and nobody has the identity yet.
    assert!(container.call(&fetch(&prepared)).failure().contains("caller.not_module"));
    site.gateway.ask(started(&prepared.instance, container.pid(), 2)).await.unwrap();
    assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS);

    let snapshot = site.snapshot().await;
    let [record] = snapshot.records.as_slice() else { panic!("{snapshot:?}") };
    assert_eq!((record.pid, record.cgroup.as_str()), (container.pid(), container.cgroup.as_str()));
    assert_eq!(record.instance, "alerts-1");

    site.gateway.ask(Request::Stopped { instance: "alerts-1".into() }).await.unwrap();
    assert!(!prepared.workload_folder.exists());
    assert!(site.snapshot().await.records.is_empty());
    assert!(site.gateway.status().await.identities.iter().all(|identity| identity.instance != "alerts-1"));
    // Said twice is said once.
    site.gateway.ask(Request::Stopped { instance: "alerts-1".into() }).await.unwrap();
    assert_eq!(site.permit().await.instance, "alerts-2", "a generation is used once");

    let events = site.gateway.events().await;
    for event in ["image.permitted", "start.prepared", "module.started", "svid.issued", "module.stopped"] {
        assert!(events.iter().any(|found| found == event), "{event} is not in {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_modules_own_processes_may_call() {
    let site = site().await;
    let (inside, outside) = (Container::new(), Container::new());
    let prepared = site.start(&inside, 2).await;
    let socket = prepared.workload_folder.join("api.sock");

    for (name, answer) in [
        ("another container", outside.call(&fetch(&prepared))),
        ("root outside", fetch(&prepared).by_user(0)),
        ("another user outside", fetch(&prepared).by_user(common::STRANGER_UID)),
    ] {
        let failure = answer.failure();
        assert!(failure.contains("caller.not_module"), "{name}: {failure}");
        assert!(!failure.contains("cgroup"), "the caller does not learn what is checked: {failure}");
    }
    // We ourselves, and over one connection that is kept.
    assert!(edgewarden_workload_client::fetch_once(&socket).await.is_err());
    let listed = common::until("the refused callers", async || {
        let refusals = site.gateway.status().await.refusals;
        let ours = refusals.iter().filter(|(_, refusal)| refusal.reason == Reason::CallerNotModule).count();
        Some(refusals).filter(|_| ours >= 4)
    });
    let listed = listed.await;
    assert!(listed.iter().any(|(_, refusal)| refusal.rule.contains(&outside.cgroup)), "{listed:?}");
    assert!(site.gateway.events().await.iter().any(|event| event == "refused"));

    assert_eq!(inside.call(&fetch(&prepared)).identity(), ALERTS);

    // Root in a module is a module: it gets neither runtimed's identity nor an answer on the control socket.
    let runtimed = Job::Fetch { socket: site.gateway.layout().workload_socket("runtimed") };
    assert!(inside.call(&runtimed).failure().contains("caller.not_module"));
    let status = Job::Ask { socket: site.gateway.control(), request: Box::new(Request::Status) };
    let Reply::Refused(refusal) = inside.call(&status).reply() else { panic!() };
    assert_eq!(refusal.reason, Reason::PeerUnauthorized);
    assert!(matches!(outside.call(&status).reply(), Reply::Status(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_socket_end_with_the_process() {
    let site = site().await;
    let mut container = Container::new();
    let prepared = site.start(&container, 2).await;
    assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS);
    container.kill();
    common::until("the record's end", async || Some(()).filter(|()| !prepared.workload_folder.exists()))
        .await;
    assert!(site.snapshot().await.records.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_processes_are_told_apart_by_user() {
    let mut gateway = Gateway::new();
    gateway.start().await.unwrap();
    let socket = |name| Job::Fetch { socket: gateway.layout().workload_socket(name) };
    let not_joined = socket("runtimed").by_user(0).failure();
    assert!(not_joined.contains("attest.required"), "{not_joined}");
    gateway.join().await;
    assert_eq!(
        socket("runtimed").by_user(0).identity(),
        "spiffe://plant.example/gateway/gw-1/module/runtimed"
    );
    assert_eq!(
        socket("gatewayd").by_user(common::GATEWAY_UID).identity(),
        "spiffe://plant.example/gateway/gw-1/module/gatewayd"
    );
    for (name, uid) in [
        ("runtimed", common::GATEWAY_UID),
        ("runtimed", common::STRANGER_UID),
        ("gatewayd", 0),
        ("gatewayd", common::STRANGER_UID),
    ] {
        let failure = socket(name).by_user(uid).failure();
        assert!(failure.contains("caller.not_module"), "{name} {uid}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lives_is_taken_up_after_a_restart() {
    let mut site = site().await;
    let (alive, mut dead) = (Container::new(), Container::new());
    let kept = site.start(&alive, 2).await;
    let lost = site.start(&dead, 3).await;
    let unused = site.permit().await;
    let only_prepared = site.prepare(&site.permit().await.permit).await.unwrap();
    let folder = std::fs::metadata(&kept.workload_folder).unwrap();

    site.gateway.stop().await;
    dead.kill();
    site.gateway.start().await.unwrap();
    let instances: Vec<_> = site.snapshot().await.records.into_iter().map(|record| record.instance).collect();
    assert_eq!(instances, std::slice::from_ref(&kept.instance));
    assert!(!lost.workload_folder.exists() && !only_prepared.workload_folder.exists());
    // The very folder that the container has mounted has a socket again.
    assert_eq!(std::fs::metadata(&kept.workload_folder).unwrap().ino(), folder.ino());
    assert_eq!(alive.call(&fetch(&kept)).identity(), ALERTS);
    // A permit does not outlive the process that gave it.
    assert_eq!(site.prepare(&unused.permit).await.unwrap_err().reason, Reason::StartPermit);
    assert_eq!(
        site.gateway.refused(started(&only_prepared.instance, alive.pid(), 9)).await,
        Reason::StartPermit
    );
    assert!(site.permit().await.generation.0 > 4, "no generation is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_process_moved_or_was_replaced_is_not_taken_up() {
    let mut site = site().await;
    let container = Container::new();
    let prepared = site.start(&container, 2).await;
    site.gateway.stop().await;
    let path = site.gateway.layout().identity_state().join("start-records.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let started = {
        let value: serde_json::Value = serde_json::from_str(&good).unwrap();
        value["content"]["live"][&prepared.instance]["pid_started"].as_u64().unwrap()
    };
    let pid = format!("\"pid\":{}", container.pid());
    for (name, from, to) in [
        ("start time", format!("\"pid_started\":{started}").as_str(), "\"pid_started\":1"),
        ("cgroup", container.cgroup.as_str(), "/elsewhere"),
        ("process", pid.as_str(), "\"pid\":1"),
        ("boot", "\"boot\":\"", "\"boot\":\"other-"),
    ] {
        std::fs::write(&path, &good).unwrap();
        site.gateway.rewrite("start-records.json", |records| records.replace(from, to));
        site.gateway.start().await.unwrap();
        assert!(site.snapshot().await.records.is_empty(), "{name}");
        assert!(!prepared.workload_folder.exists(), "{name}");
        site.gateway.stop().await;
    }
    site.gateway.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_do_not_get_a_permit() {
    let site = site().await;
    let other_key = SigningKey::generate().unwrap();
    let good = || site.image.evidence("alerts");
    let change = |change: &dyn Fn(&mut ImageEvidence)| {
        let mut evidence = good();
        change(&mut evidence);
        evidence
    };
    let foreign = Image::new("alerts", "one").signed(&other_key);
    let moved = Image::new("alerts", "two").signed(&site.key);
    for (name, reason, evidence) in [
        ("a module that is not deployed", Reason::StartPermit, good_for(&site, "analytics")),
        ("a reserved name", Reason::StartPermit, good_for(&site, "runtimed")),
        ("another image than deployed", Reason::StartPermit, moved.evidence("alerts")),
        ("unsigned", Reason::ImageUnsigned, change(&|e| e.signatures.clear())),
        ("signed by another key", Reason::ImageSignature, foreign.evidence("alerts")),
        (
            "another image's signature",
            Reason::ImageDigestMismatch,
            change(&|e| e.signatures = moved.signatures.clone()),
        ),
        ("another manifest", Reason::ImageContent, change(&|e| e.manifest = moved.manifest.clone().into())),
        ("another configuration", Reason::ImageContent, change(&|e| e.config = moved.config.clone().into())),
        (
            "a large manifest",
            Reason::ImageTooLarge,
            change(&|e| e.manifest = vec![b' '; MANIFEST_BYTES_MAX + 1].into()),
        ),
        (
            "many signatures",
            Reason::ImageTooLarge,
            change(&|e| e.signatures = vec![e.signatures[0].clone(); SIGNATURES_MAX + 1]),
        ),
    ] {
        assert_eq!(site.judge(evidence).await.unwrap_err().reason, reason, "{name}");
    }
    assert_eq!(site.permit().await.generation.0, 1, "a refusal uses no generation");
}

fn good_for(site: &Site, module: &str) -> ImageEvidence {
    ImageEvidence { module: ModuleName::parse(module).unwrap(), ..site.image.evidence("alerts") }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_enrolment_or_with_a_failed_verdict_nothing_starts() {
    let gateway = Gateway::started().await;
    let key = SigningKey::generate().unwrap();
    let image = Image::new("alerts", "one").signed(&key);
    gateway.deploy(&document_with(1, &key, &[("alerts", &image)])).await;
    let judge = || Request::ImageJudge(Box::new(image.evidence("alerts")));
    assert_eq!(gateway.refused(judge()).await, Reason::AttestRequired);
    gateway.join().await;
    let Reply::Permit(early) = gateway.ask(judge()).await.unwrap() else { panic!() };
    let Reply::Permit(late) = gateway.ask(judge()).await.unwrap() else { panic!() };
    gateway.ask(Request::StartPrepare { permit: early.permit }).await.unwrap();

    let refusal = Refusal::new(Reason::AttestQuote, "quote", "its signature is wrong");
    gateway.ask(Request::EnrolRefused(refusal)).await.unwrap();
    let container = Container::new();
    assert_eq!(gateway.refused(judge()).await, Reason::AttestFailed);
    assert_eq!(gateway.refused(Request::StartPrepare { permit: late.permit }).await, Reason::AttestFailed);
    assert_eq!(gateway.refused(started(&early.instance, container.pid(), 2)).await, Reason::AttestFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_are_refused() {
    let site = site().await;
    for (name, permit) in
        [("empty", ""), ("made up", "00000000000000000000000000000000"), ("an instance", "alerts-1")]
    {
        assert_eq!(site.prepare(permit).await.unwrap_err().reason, Reason::StartPermit, "{name}");
    }
    let permit = site.permit().await;
    let prepared = site.prepare(&permit.permit).await.unwrap();
    assert_eq!(site.prepare(&permit.permit).await.unwrap_err().reason, Reason::StartPermit, "spent");

    let container = Container::new();
    let own = i32::try_from(std::process::id()).unwrap();
    for (name, reason, request) in [
        ("an instance without a permit", Reason::StartPermit, started("alerts-99", container.pid(), 2)),
        ("a path", Reason::StartPermit, started("../alerts-1", container.pid(), 2)),
        ("no process", Reason::CallerUnknown, started(&prepared.instance, i32::MAX, 2)),
        ("process 0", Reason::CallerUnknown, started(&prepared.instance, 0, 2)),
        ("a negative process", Reason::CallerUnknown, started(&prepared.instance, -1, 2)),
        ("identityd's own cgroup", Reason::RequestInvalid, started(&prepared.instance, own, 2)),
    ] {
        assert_eq!(site.gateway.refused(request).await, reason, "{name}");
    }
    // A refused start can be tried again; a start that happened cannot.
    site.gateway.ask(started(&prepared.instance, container.pid(), 2)).await.unwrap();
    assert_eq!(
        site.gateway.refused(started(&prepared.instance, container.pid(), 2)).await,
        Reason::StartPermit
    );

    let second = site.prepare(&site.permit().await.permit).await.unwrap();
    let other = Container::new();
    for (name, request) in [
        ("the cgroup of another instance", started(&second.instance, container.pid(), 3)),
        ("the address of another instance", started(&second.instance, other.pid(), 2)),
    ] {
        assert_eq!(site.gateway.refused(request).await, Reason::RequestInvalid, "{name}");
    }
    site.gateway.ask(started(&second.instance, other.pid(), 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_falls_with_the_deployment_that_it_was_given_under() {
    let site = site().await;
    let permit = site.permit().await;
    let kept = site.permit().await;
    let (same, next) = (&site.image, Image::new("alerts", "two").signed(&site.key));
    // Another version with the same image changes nothing for the start.
    site.gateway.deploy(&document_with(2, &site.key, &[("alerts", same)])).await;
    site.prepare(&kept.permit).await.unwrap();
    site.gateway.deploy(&document_with(3, &site.key, &[("alerts", &next)])).await;
    assert_eq!(site.prepare(&permit.permit).await.unwrap_err().reason, Reason::StartPermit);
    site.gateway.deploy(&document(4)).await;
    let refused = site.judge(next.evidence("alerts")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::StartPermit);
}

/// The image that runs while an update is under way, and again when the update fails: the one before, judged by the
/// image keys in force, until the new one has proven itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_leaves_the_old_image_its_identity_and_a_way_back() {
    let site = site().await;
    let container = Container::new();
    let prepared = site.start(&container, 2).await;
    let (old, next) = (&site.image, Image::new("alerts", "two").signed(&site.key));
    let third = Image::new("alerts", "three").signed(&site.key);
    site.gateway.deploy(&document_with(2, &site.key, &[("alerts", &next)])).await;
    assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS, "the old one goes on");
    let fallbacks = async || match site.gateway.ask(Request::Deployment).await.unwrap() {
        Reply::Deployment(deployment) => {
            deployment.fallbacks.into_iter().map(|module| module.image).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(fallbacks().await, std::slice::from_ref(&old.reference));
    // The old one is no proof for the new one.
    site.gateway.ask(Request::Proven { instance: prepared.instance.clone() }).await.unwrap();
    site.gateway.ask(Request::Proven { instance: "alerts-99".into() }).await.unwrap();
    assert_eq!(fallbacks().await, std::slice::from_ref(&old.reference));
    // Again before the update has proven itself: the way back leads to what had.
    site.gateway.deploy(&document_with(3, &site.key, &[("alerts", &third)])).await;
    assert_eq!(site.judge(next.evidence("alerts")).await.unwrap_err().reason, Reason::StartPermit);
    site.gateway.ask(Request::Stopped { instance: prepared.instance }).await.unwrap();
    let back = site.judge(old.evidence("alerts")).await.unwrap();
    let back = site.prepare(&back.permit).await.unwrap();
    site.gateway.ask(Request::Stopped { instance: back.instance }).await.unwrap();

    // A key that the deployment in force no longer names vouches for nothing, whenever the permit was given.
    let early = site.judge(old.evidence("alerts")).await.unwrap();
    let other = SigningKey::generate().unwrap();
    let fourth = Image::new("alerts", "four").signed(&other);
    site.gateway.deploy(&document_with(4, &other, &[("alerts", &fourth)])).await;
    assert_eq!(site.judge(old.evidence("alerts")).await.unwrap_err().reason, Reason::ImageSignature);
    assert_eq!(site.prepare(&early.permit).await.unwrap_err().reason, Reason::StartPermit);

    let permit = site.judge(fourth.evidence("alerts")).await.unwrap();
    let prepared = site.prepare(&permit.permit).await.unwrap();
    site.gateway.ask(started(&prepared.instance, container.pid(), 2)).await.unwrap();
    site.gateway.ask(Request::Proven { instance: prepared.instance }).await.unwrap();
    assert!(fallbacks().await.is_empty());
    assert_eq!(site.judge(old.evidence("alerts")).await.unwrap_err().reason, Reason::StartPermit);
    assert!(site.gateway.events().await.iter().any(|event| event == "update.proven"));
    // A module that leaves has no way back either.
    site.gateway.deploy(&document_with(5, &site.key, &[("alerts", old)])).await;
    site.gateway.deploy(&document(6)).await;
    assert!(fallbacks().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_permits_have_a_limit() {
    let site = site().await;
    let mut given = 0;
    let refused = loop {
        match site.judge(site.image.evidence("alerts")).await {
            Ok(_) => given += 1,
            Err(refusal) => break refusal,
        }
        assert!(given <= 1000);
    };
    assert_eq!(refused.reason, Reason::Busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_rotate_by_themselves_and_on_demand_without_a_break() {
    let mut gateway = Gateway::new();
    gateway.config.identity.svid_lifetime_seconds = 10;
    gateway.start().await.unwrap();
    let site = site_of(gateway).await;
    let container = Container::new();
    let prepared = site.start(&container, 2).await;
    let leaf = || match container.call(&fetch(&prepared)) {
        common::container::Answer::Identity { leaf, .. } => leaf,
        other => panic!("{other:?}"),
    };
    let issued = async || {
        let status = site.gateway.status().await;
        status.identities.iter().find(|identity| identity.instance == prepared.instance).unwrap().issued
    };
    let (one, two) = (leaf(), leaf());
    let before = issued().await;
    if before == issued().await && before == 1 {
        assert_eq!(one, two, "two calls see the same certificate");
    }
    // By itself, at half of its life.
    common::until("rotation", async || Some(()).filter(|()| leaf() != one)).await;
    let own = leaf();
    site.gateway.ask(Request::Rotate { module: Some(ModuleName::parse("alerts").unwrap()) }).await.unwrap();
    assert_ne!(leaf(), own);
    let gatewayd = Some(ModuleName::parse("gatewayd").unwrap());
    site.gateway.ask(Request::Rotate { module: gatewayd }).await.unwrap();
    let nobody = Some(ModuleName::parse("nobody").unwrap());
    assert_eq!(site.gateway.refused(Request::Rotate { module: nobody }).await, Reason::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_accepts_a_modules_chain() {
    let site = site().await;
    let socket = site.gateway.layout().workload_socket("runtimed");
    let context = edgewarden_workload_client::fetch_once(&socket).await.unwrap();
    let folder = site.gateway.folder.path();
    let write = |name: &str, certificates: &[Vec<u8>]| {
        std::fs::write(folder.join(name), edgewarden_names::pem::chain(certificates)).unwrap();
    };
    write("bundle.pem", &context.bundle_der);
    write("leaf.pem", &context.chain_der[..1]);
    write("issuers.pem", &context.chain_der[1..]);
    let output = std::process::Command::new("openssl")
        .current_dir(folder)
        .args(["verify", "-x509_strict", "-CAfile", "bundle.pem", "-untrusted", "issuers.pem", "leaf.pem"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// `alerts` runs under a deployment that trusts `key`; the next deployment says what becomes of it.
async fn running(site: &Site, container: &Container) -> Prepared {
    let prepared = site.start(container, 2).await;
    assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS);
    prepared
}

fn untrusting(version: u64, key: &SigningKey, image: &Image, untrusted: Option<&str>) -> serde_json::Value {
    let mut document = document_with(version, key, &[("alerts", image)]);
    if let Some(then) = untrusted {
        document["untrusted"] = then.into();
    }
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_under_a_withdrawn_key_loses_its_identity_at_once() {
    let mut site = site().await;
    let container = Container::new();
    let prepared = running(&site, &container).await;
    let other = SigningKey::generate().unwrap();
    for (version, then) in [(2, None), (3, Some("quarantine"))] {
        site.gateway.deploy(&untrusting(version, &other, &site.image, then)).await;
        let failure = container.call(&fetch(&prepared)).failure();
        assert!(failure.contains("image.withdrawn"), "{failure}");
        let snapshot = site.snapshot().await;
        assert!(snapshot.records.is_empty(), "its flows are closed: {snapshot:?}");
        let [untrusted] = snapshot.untrusted.as_slice() else { panic!("{snapshot:?}") };
        assert_eq!(untrusted.record.instance, "alerts-1");
        assert_eq!(untrusted.then.to_string(), then.unwrap_or("stop"));
    }
    let status = site.gateway.status().await;
    assert!(status.refusals.iter().any(|(_, refusal)| refusal.reason == Reason::ImageWithdrawn));
    assert!(status.identities.iter().all(|identity| identity.instance != "alerts-1"));
    let events = site.gateway.events().await;
    assert!(events.iter().any(|event| event == "instance.untrusted"), "{events:?}");

    // Nor does a new start of identityd bring it back.
    site.gateway.restart().await;
    assert!(container.call(&fetch(&prepared)).failure().contains("image.withdrawn"));
    assert_eq!(site.snapshot().await.untrusted.len(), 1);

    // The key was taken out by mistake: what runs is what it was.
    site.gateway.deploy(&untrusting(4, &site.key, &site.image, None)).await;
    assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS);
    let snapshot = site.snapshot().await;
    assert!(snapshot.untrusted.is_empty() && snapshot.records.len() == 1, "{snapshot:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_vouched_for_keeps_its_identity() {
    let site = site().await;
    let container = Container::new();
    let other = SigningKey::generate().unwrap();
    // Signed by both keys, started under both.
    let twice = Image::new("alerts", "twice").signed(&site.key).signed(&other);
    let mut both = document_with(2, &site.key, &[("alerts", &twice)]);
    let second = serde_json::json!({"name": "second", "public_key": other.public_pem()});
    both["image_keys"].as_array_mut().unwrap().push(second);
    site.gateway.deploy(&both).await;
    let permit = site.judge(twice.evidence("alerts")).await.unwrap();
    assert_eq!(permit.vouchers.len(), 2);
    let prepared = site.prepare(&permit.permit).await.unwrap();
    site.gateway.ask(started(&prepared.instance, container.pid(), 2)).await.unwrap();

    let newer = Image::new("alerts", "newer").signed(&other);
    let renamed = {
        let mut document = document_with(5, &other, &[("alerts", &newer)]);
        document["image_keys"][0]["name"] = "called otherwise".into();
        document
    };
    for (name, document) in [
        ("one of its two keys is withdrawn", document_with(3, &other, &[("alerts", &twice)])),
        (
            "its image is replaced, and it runs until the new one does",
            document_with(4, &other, &[("alerts", &newer)]),
        ),
        ("its key has another name", renamed),
        (
            "a withdrawn key is to be reported only",
            untrusting(6, &SigningKey::generate().unwrap(), &newer, Some("report")),
        ),
    ] {
        site.gateway.deploy(&document).await;
        assert_eq!(container.call(&fetch(&prepared)).identity(), ALERTS, "{name}");
        assert_eq!(site.snapshot().await.records.len(), 1, "{name}");
    }
    assert_eq!(site.snapshot().await.untrusted.len(), 1, "what is reported is said");
    let refusals = site.gateway.status().await.refusals;
    assert!(refusals.iter().any(|(_, refusal)| refusal.reason == Reason::ImageWithdrawn));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_withdrawn_while_a_module_starts_ends_the_start() {
    // Whatever is to become of what runs already.
    for then in [None, Some("report")] {
        let site = site().await;
        let container = Container::new();
        let other = SigningKey::generate().unwrap();
        let (judged, prepared) = (site.permit().await, site.permit().await);
        let prepared = site.prepare(&prepared.permit).await.unwrap();
        site.gateway.deploy(&untrusting(2, &other, &site.image, then)).await;
        assert_eq!(site.prepare(&judged.permit).await.unwrap_err().reason, Reason::ImageWithdrawn);
        let begun = site.gateway.ask(started(&prepared.instance, container.pid(), 2)).await;
        assert_eq!(begun.unwrap_err().reason, Reason::ImageWithdrawn);
        assert!(container.call(&fetch(&prepared)).failure().contains("caller.not_module"));
        let snapshot = site.snapshot().await;
        assert!(snapshot.records.is_empty() && snapshot.untrusted.is_empty(), "{snapshot:?}");
    }
}
