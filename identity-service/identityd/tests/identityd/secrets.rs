//! Secrets that a gateway takes or refuses, and the instances that it gives their values to.

use crate::common;

use std::net::Ipv4Addr;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use common::container::{Container, Job};
use common::image::{Image, document_with};
use common::{Gateway, Operator};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{Reply, Request, StartPermit};
use edgewarden_protocol::dsse::Envelope;
use edgewarden_protocol::secret::{
    AgreementKey, ENVELOPE_BYTES_MAX, KeyStatement, PAYLOAD_TYPE, SecretDocument, SecretFiles, SecretStatus,
};
use serde_json::{Value, json};

async fn agreement_key(gateway: &Gateway) -> Result<AgreementKey, Refusal> {
    match gateway.ask(Request::AgreementKey).await? {
        Reply::AgreementKey(key) => Ok(*key),
        other => panic!("{other:?}"),
    }
}

/// The point to seal to.
async fn point(gateway: &Gateway) -> Vec<u8> {
    let key = agreement_key(gateway).await.unwrap();
    let envelope: Envelope = serde_json::from_slice(key.statement.as_slice()).unwrap();
    let statement: KeyStatement = serde_json::from_slice(envelope.payload.as_slice()).unwrap();
    statement.key.0
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

fn removed(name: &str, version: u64) -> Value {
    json!({"trust_domain": "plant.example", "gateway": "gw-1", "module": "alerts", "name": name,
           "version": version, "content": "removed"})
}

/// Sealed as the document says, but for what `change` then does to it.
fn sealed_to(point: &[u8], name: &str, version: u64, value: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut document = removed(name, version);
    let parsed: SecretDocument = serde_json::from_value(document.clone()).unwrap();
    let sealed = edgewarden_sealing::seal(point, &parsed.context(), b"", value.as_bytes()).unwrap();
    document["content"] = json!({"sealed": {"recipient": sha256(point),
        "encapsulated": Bytes(sealed.encapsulated), "ciphertext": Bytes(sealed.ciphertext)}});
    change(&mut document);
    document
}

async fn sealed(gateway: &Gateway, name: &str, version: u64, value: &str) -> Bytes {
    let document = sealed_to(&point(gateway).await, name, version, value, |_| ());
    gateway.operator.sign_as(PAYLOAD_TYPE, document.to_string().as_bytes())
}

fn signed(operator: &Operator, document: &Value) -> Request {
    Request::SecretAccept(operator.sign_as(PAYLOAD_TYPE, document.to_string().as_bytes()))
}

async fn seal(gateway: &Gateway, name: &str, version: u64, value: &str) {
    let envelope = sealed(gateway, name, version, value).await;
    gateway.ask(Request::SecretAccept(envelope)).await.unwrap();
}

async fn held(gateway: &Gateway) -> Vec<SecretStatus> {
    match gateway.ask(Request::Secrets).await.unwrap() {
        Reply::Secrets(held) => held,
        other => panic!("{other:?}"),
    }
}

fn vault(gateway: &Gateway) -> Vec<std::path::PathBuf> {
    let folder = gateway.layout().identity_state().join("secrets");
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_secret_is_kept_sealed_and_its_version_never_falls() {
    let mut gateway = Gateway::started().await;
    assert_eq!(agreement_key(&gateway).await.unwrap_err().reason, Reason::AttestRequired);
    gateway.join().await;
    let key = agreement_key(&gateway).await.unwrap();
    assert_eq!(agreement_key(&gateway).await.unwrap(), key, "one statement for one certificate");

    let first = sealed(&gateway, "password", 3, "hunter2-hunter2").await;
    gateway.ask(Request::SecretAccept(first.clone())).await.unwrap();
    let changes = held(&gateway).await;
    assert_eq!((changes.len(), changes[0].version, changes[0].removed), (1, 3, false));
    assert_eq!(changes[0].signed_by, "operator");
    // The same again is no news.
    gateway.ask(Request::SecretAccept(first.clone())).await.unwrap();
    // But it brings back what the disk has lost.
    let [file] = vault(&gateway).try_into().unwrap();
    for damage in [None, Some("damaged")] {
        match damage {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => std::fs::write(&file, text).unwrap(),
        }
        gateway.ask(Request::SecretAccept(first.clone())).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), first.0, "{damage:?}");
    }

    let refused = async |gateway: &Gateway, version| {
        let envelope = sealed(gateway, "password", version, "another").await;
        assert_eq!(
            gateway.refused(Request::SecretAccept(envelope)).await,
            Reason::SecretRollback,
            "{version}"
        );
        let removal = signed(&gateway.operator, &removed("password", version));
        assert_eq!(gateway.refused(removal).await, Reason::SecretRollback, "removal {version}");
    };
    refused(&gateway, 3).await;
    refused(&gateway, 1).await;

    // Over a restart, with what a crash may have left.
    gateway.stop().await;
    let [kept] = vault(&gateway).try_into().unwrap();
    std::fs::write(kept.with_file_name("ab".repeat(32)), "left over").unwrap();
    gateway.start().await.unwrap();
    assert_eq!(vault(&gateway), std::slice::from_ref(&kept));
    assert_eq!(held(&gateway).await, changes);
    refused(&gateway, 3).await;
    for file in [kept.clone(), gateway.layout().identity_state().join("secrets.json")] {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("hunter2"), "{}", file.display());
    }

    gateway.ask(signed(&gateway.operator, &removed("password", 4))).await.unwrap();
    assert!(vault(&gateway).is_empty() && held(&gateway).await[0].removed);
    assert_eq!(gateway.refused(Request::SecretAccept(first)).await, Reason::SecretRollback);
    refused(&gateway, 4).await;
    seal(&gateway, "password", 5, "again").await;
    assert!(!held(&gateway).await[0].removed);

    let events = gateway.events().await;
    for event in ["agreement_key.stated", "secret.accepted", "secret.removed", "refused"] {
        assert!(events.iter().any(|found| found == event), "{event} is not in {events:?}");
    }
}

#[tokio::test]
async fn what_is_not_for_this_gateway_changes_nothing() {
    let gateway = Gateway::started().await;
    gateway.join().await;
    seal(&gateway, "password", 1, "good").await;
    let before = (held(&gateway).await, vault(&gateway));
    let point = point(&gateway).await;
    let with =
        |change: fn(&mut Value)| signed(&gateway.operator, &sealed_to(&point, "password", 2, "bad", change));
    let flip = |d: &mut Value, field: &str| {
        let mut bytes: Bytes = serde_json::from_value(d["content"]["sealed"][field].take()).unwrap();
        *bytes.0.last_mut().unwrap() ^= 1;
        d["content"]["sealed"][field] = json!(bytes);
    };
    let stranger = Operator::new();
    let other_key = aws_lc_rs::agreement::PrivateKey::generate(&aws_lc_rs::agreement::ECDH_P256).unwrap();
    let other_key = other_key.compute_public_key().unwrap().as_ref().to_vec();
    let mut altered = sealed_to(&point, "password", 2, "bad", |_| ());
    flip(&mut altered, "ciphertext");
    let mut off_curve = sealed_to(&point, "password", 2, "bad", |_| ());
    flip(&mut off_curve, "encapsulated");
    let foreign = sealed_to(&other_key, "password", 2, "bad", |_| ());
    let lying = sealed_to(&other_key, "password", 2, "bad", |d| {
        d["content"]["sealed"]["recipient"] = json!(sha256(&point));
    });
    let operator = &gateway.operator;
    for (name, request, reason) in [
        ("another operator", signed(&stranger, &altered), Reason::SecretSignature),
        ("another gateway", with(|d| d["gateway"] = json!("gw-2")), Reason::SecretNotForUs),
        ("another domain", with(|d| d["trust_domain"] = json!("other.example")), Reason::SecretNotForUs),
        ("sealed for another version", with(|d| d["version"] = json!(3)), Reason::SecretUndecryptable),
        ("sealed for another name", with(|d| d["name"] = json!("user")), Reason::SecretUndecryptable),
        ("sealed for another module", with(|d| d["module"] = json!("other")), Reason::SecretUndecryptable),
        ("altered", signed(operator, &altered), Reason::SecretUndecryptable),
        ("a point off the curve", signed(operator, &off_curve), Reason::SecretUndecryptable),
        ("sealed to another key", signed(operator, &foreign), Reason::SecretUndecryptable),
        ("sealed to another key, and not said", signed(operator, &lying), Reason::SecretUndecryptable),
        ("an unknown field", with(|d| d["plaintext"] = json!("x")), Reason::RequestInvalid),
        ("a deployment", Request::SecretAccept(operator.sign(&common::document(1))), Reason::RequestInvalid),
        ("nothing", Request::SecretAccept(Vec::new().into()), Reason::RequestInvalid),
        ("too large", Request::SecretAccept(vec![b' '; ENVELOPE_BYTES_MAX + 1].into()), Reason::SecretLimit),
    ] {
        assert_eq!(gateway.refused(request).await, reason, "{name}");
        assert_eq!((held(&gateway).await, vault(&gateway)), before, "{name}");
    }
}

struct Site {
    gateway: Gateway,
    image: Image,
    key: SigningKey,
}

impl Site {
    /// A joined gateway with `alerts` deployed, which is to have `password` and `user`.
    async fn new() -> Self {
        let gateway = Gateway::started().await;
        gateway.join().await;
        let key = SigningKey::generate().unwrap();
        let image = Image::new("alerts", "one").signed(&key);
        let site = Self { gateway, image, key };
        site.deploy(1, json!([{"name": "password"}, {"name": "user", "file": "USER", "mode": 0o444}])).await;
        site
    }

    async fn deploy(&self, version: u64, secrets: Value) {
        let mut document = document_with(version, &self.key, &[("alerts", &self.image)]);
        document["modules"][0]["secrets"] = secrets;
        self.gateway.deploy(&document).await;
    }

    async fn permit(&self) -> StartPermit {
        match self.gateway.ask(Request::ImageJudge(Box::new(self.image.evidence("alerts")))).await.unwrap() {
            Reply::Permit(permit) => *permit,
            other => panic!("{other:?}"),
        }
    }

    /// Gives the instance and its socket's folder.
    async fn start(&self, container: &Container) -> (String, std::path::PathBuf) {
        let prepare = Request::StartPrepare { permit: self.permit().await.permit };
        let Reply::Prepared(prepared) = self.gateway.ask(prepare).await.unwrap() else { panic!() };
        let address = Ipv4Addr::new(10, 77, 0, 2);
        let started = Request::Started { instance: prepared.instance.clone(), pid: container.pid(), address };
        self.gateway.ask(started).await.unwrap();
        (prepared.instance, prepared.workload_folder)
    }

    async fn release(&self, instance: &str, have: Option<&str>) -> Result<Option<SecretFiles>, Refusal> {
        let request =
            Request::SecretsRelease { instance: instance.into(), have: have.map(ToOwned::to_owned) };
        match self.gateway.ask(request).await? {
            Reply::SecretFiles(files) => Ok(Some(*files)),
            Reply::Done => Ok(None),
            other => panic!("{other:?}"),
        }
    }

    async fn fail_the_verdict(&self) {
        let refusal = Refusal::new(Reason::AttestReference, "gw-1", "PCR 7");
        self.gateway.ask(Request::EnrolRefused(refusal)).await.unwrap();
    }
}

fn shown(files: &SecretFiles) -> Vec<(&str, u64, u32, &[u8])> {
    files.files.iter().map(|f| (f.file.as_str(), f.version, f.mode, f.value.expose())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_starts_with_all_its_secrets_and_gets_no_others() {
    let site = Site::new().await;
    let gateway = &site.gateway;
    let permit = site.permit().await;
    let prepare = || Request::StartPrepare { permit: permit.permit.clone() };
    seal(gateway, "password", 1, "one").await;
    seal(gateway, "unused", 1, "never").await;
    let refusal = gateway.ask(prepare()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::SecretMissing);
    assert!(refusal.rule.contains("`user`"), "{refusal}");
    seal(gateway, "user", 7, "root").await;
    // The permit was not spent by the refusal.
    gateway.ask(prepare()).await.unwrap();
    gateway.ask(Request::Stopped { instance: permit.instance }).await.unwrap();

    let container = Container::new();
    let refused = async |instance: &str| site.release(instance, None).await.unwrap_err().reason;
    assert_eq!(refused("alerts-2").await, Reason::StartPermit, "no instance is live");
    let (instance, _) = site.start(&container).await;
    let files = site.release(&instance, None).await.unwrap().unwrap();
    let expected: [(&str, u64, u32, &[u8]); 2] =
        [("password", 1, 0o400, b"one"), ("USER", 7, 0o444, b"root")];
    assert_eq!(shown(&files), expected);
    assert_eq!(site.release(&instance, Some(&files.revision)).await.unwrap(), None);
    assert_eq!(refused("alerts-999").await, Reason::StartPermit);

    seal(gateway, "unused", 2, "never").await;
    assert_eq!(site.release(&instance, Some(&files.revision)).await.unwrap(), None, "not its own");
    seal(gateway, "password", 2, "two").await;
    let rotated = site.release(&instance, Some(&files.revision)).await.unwrap().unwrap();
    assert_eq!(shown(&rotated)[0], ("password", 2, 0o400, &b"two"[..]));

    // Removed while it runs: left out for the one that runs, and missing for the next.
    gateway.ask(signed(&gateway.operator, &removed("user", 8))).await.unwrap();
    let without = site.release(&instance, Some(&rotated.revision)).await.unwrap().unwrap();
    assert_eq!(without.files.len(), 1);
    assert_eq!(refused(&instance).await, Reason::SecretMissing);
    let prepare = Request::StartPrepare { permit: site.permit().await.permit };
    assert_eq!(gateway.refused(prepare).await, Reason::SecretMissing);

    // A deployment that names less gives less.
    site.deploy(2, json!([])).await;
    assert!(site.release(&instance, None).await.unwrap().unwrap().files.is_empty());
    site.deploy(3, json!([{"name": "password"}])).await;
    site.fail_the_verdict().await;
    assert_eq!(refused(&instance).await, Reason::AttestFailed);
    assert_eq!(agreement_key(gateway).await.unwrap_err().reason, Reason::AttestFailed);

    let Reply::Audit(audit) = gateway.ask(Request::Audit { last: 1000 }).await.unwrap() else { panic!() };
    let released: Vec<_> = audit.iter().filter(|entry| entry.event == "secret.released").collect();
    assert!(released[0].detail.contains("password version 1, user version 7"), "{released:?}");
    assert!(released[1].detail.contains("as files: password version 2"), "{released:?}");
    let all = serde_json::to_string(&audit).unwrap();
    assert!(!all.contains("\"one\"") && !all.contains("never"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_longer_pinned_releases_nothing() {
    let mut site = Site::new().await;
    seal(&site.gateway, "password", 1, "one").await;
    seal(&site.gateway, "user", 1, "root").await;
    let container = Container::new();
    let (instance, _) = site.start(&container).await;
    let before = site.release(&instance, None).await.unwrap().unwrap();

    site.gateway.stop().await;
    let pinned = &site.gateway.config.fleet.as_ref().unwrap().operator_keys[0];
    let mut operator = Operator::new();
    std::fs::write(pinned, operator.public_pem()).unwrap();
    std::mem::swap(&mut site.gateway.operator, &mut operator);
    site.gateway.start().await.unwrap();
    site.deploy(2, json!([{"name": "password"}])).await;
    let refused = site.release(&instance, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SecretSignature);
    // The new operator's word counts, above the old one's version.
    seal(&site.gateway, "password", 2, "two").await;
    let after = site.release(&instance, Some(&before.revision)).await.unwrap().unwrap();
    assert_eq!(shown(&after), [("password", 2, 0o400, &b"two"[..])]);
}

fn get(folder: &Path, name: &str) -> Job {
    Job::Secret { socket: folder.join("api.sock"), name: name.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_gives_a_module_its_own_secrets_and_tells_it_of_new_ones() {
    let site = Site::new().await;
    let gateway = &site.gateway;
    seal(gateway, "password", 1, "one").await;
    seal(gateway, "user", 7, "root").await;
    seal(gateway, "unused", 1, "never").await;
    let (container, other) = (Container::new(), Container::new());
    let (instance, folder) = site.start(&container).await;

    assert_eq!(container.call(&get(&folder, "password")).text(), "password 1 one");
    for (name, answer, expected) in [
        ("not in the deployment", container.call(&get(&folder, "unused")), "secret.missing"),
        ("not there", container.call(&get(&folder, "nothing")), "secret.missing"),
        ("no name", container.call(&get(&folder, "../password")), "request.invalid"),
        ("another container", other.call(&get(&folder, "password")), "caller.not_module"),
        ("root outside", get(&folder, "password").by_user(0), "caller.not_module"),
    ] {
        let failure = answer.failure();
        assert!(failure.contains(expected), "{name}: {failure}");
    }
    let own = gateway.layout().workload_folder("runtimed");
    assert!(get(&own, "password").by_user(0).failure().contains("no secrets"));

    // Two messages: the set of the moment, and the next when something of it has changed.
    let watch = Job::WatchSecrets { socket: folder.join("api.sock"), messages: 2 };
    let (watched, ()) = tokio::join!(
        tokio::task::spawn_blocking(move || (container.call(&watch).text(), container)),
        async {
            common::until("the stream to be open", async || {
                let Reply::Audit(audit) = gateway.ask(Request::Audit { last: 50 }).await.unwrap() else {
                    panic!()
                };
                let opened = |detail: &str| detail.contains("as api") && detail.contains("user version 7");
                audit.iter().any(|entry| opened(&entry.detail)).then_some(())
            })
            .await;
            seal(gateway, "unused", 2, "never").await;
            seal(gateway, "password", 2, "two").await;
        }
    );
    let (watched, container) = watched.unwrap();
    assert_eq!(watched, "password 1 one, user 7 root; password 2 two, user 7 root");

    site.fail_the_verdict().await;
    assert!(container.call(&get(&folder, "password")).failure().contains("attest.failed"));
    gateway.ask(Request::Stopped { instance }).await.unwrap();
    assert!(!folder.exists());
}
