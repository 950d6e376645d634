//! Resident keys through the sockets of modules: what they can do, and what is refused to whom.

use crate::common;

use std::time::Duration;

use common::container::Container;
use common::modules::{Instance, Site, files, name, one, only, refused, sign_and_certify, subject, verifies};
use common::verdict;
use edgewarden_ca::spki;
use edgewarden_names::{ModuleName, UnixTime};
use edgewarden_protocol::control::Request;
use edgewarden_protocol::enrol::VerdictState;
use edgewarden_workload_client::keys::{CallError, Client};
use edgewarden_workload_wire::keys::{
    CONTEXT_BYTES_MAX, Capability, DATA_BYTES_MAX, Operation, Purpose, Wanted,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn data_is_encrypted_in_the_gateway_and_opens_in_its_context_only() {
    let (site, mut alerts) = one().await;
    let client = alerts.client().await;
    let (key, right, public) =
        client.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    assert_eq!((key.name.as_str(), key.purpose, public.len()), ("data", Purpose::Encrypt, 0));
    let ciphertext = client.encrypt(&key.name, &right, b"glucose 5.4", b"patient 1").await.unwrap();
    assert!(!ciphertext.windows(7).any(|window| window == b"glucose"));
    assert_ne!(ciphertext, client.encrypt(&key.name, &right, b"glucose 5.4", b"patient 1").await.unwrap());
    let plain = client.decrypt(&key.name, &right, &ciphertext, b"patient 1").await.unwrap();
    assert_eq!(plain.as_slice(), b"glucose 5.4");

    let (other, other_right, _) =
        client.create_key(&name("other"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    let mut changed = ciphertext.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (case, outcome) in [
        ("a swapped context", client.decrypt(&key.name, &right, &ciphertext, b"patient 2").await),
        ("a changed ciphertext", client.decrypt(&key.name, &right, &changed, b"patient 1").await),
        ("a cut ciphertext", client.decrypt(&key.name, &right, &ciphertext[..20], b"patient 1").await),
        ("nothing", client.decrypt(&key.name, &right, b"", b"patient 1").await),
        ("another key", client.decrypt(&other.name, &other_right, &ciphertext, b"patient 1").await),
    ] {
        assert_eq!(refused(outcome), "key.ciphertext", "{case}");
    }
    // A key of the same name is another key.
    client.delete_key(&key.name, &right).await.unwrap();
    assert_eq!(refused(client.encrypt(&key.name, &right, b"x", b"").await), "key.unknown");
    let (_, again, _) = client.create_key(&key.name, Purpose::Encrypt, Wanted::default()).await.unwrap();
    assert_eq!(refused(client.encrypt(&key.name, &right, b"x", b"").await), "key.capability");
    assert_eq!(refused(client.decrypt(&key.name, &again, &ciphertext, b"patient 1").await), "key.ciphertext");

    let listed = site.listed().await;
    let shown: Vec<_> =
        listed.iter().map(|key| (key.module.as_str(), key.name.as_str(), key.purpose.as_str())).collect();
    assert_eq!(shown, [("alerts", "data", "encrypt"), ("alerts", "other", "encrypt")]);
    let (module, key) = (ModuleName::parse("alerts").unwrap(), name("other"));
    site.gateway.ask(Request::KeyDelete { module: module.clone(), key: key.clone() }).await.unwrap();
    assert_eq!(refused(client.encrypt(&key, &other_right, b"x", b"").await), "key.unknown");
    let gone = site.gateway.refused(Request::KeyDelete { module, key }).await;
    assert_eq!(gone.code(), "key.unknown");
    let events = site.gateway.events().await;
    assert_eq!(events.iter().filter(|event| *event == "key.deleted").count(), 2);
    assert_eq!(events.iter().filter(|event| *event == "key.created").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_kept_across_restarts_of_module_and_daemon() {
    let (mut site, mut alerts) = one().await;
    let client = alerts.client().await;
    let long: Vec<u8> = (0..DATA_BYTES_MAX).map(|n| (n % 251).to_le_bytes()[0]).collect();
    client.seal(&name("short"), b"hunter2", None, Wanted::default()).await.unwrap();
    let (_, right) = client.seal(&name("long"), &long, None, only(&[Operation::Seal])).await.unwrap();
    assert_eq!(refused(client.unseal(&name("long"), &right).await), "key.capability");
    assert_eq!(refused(client.seal(&name("short"), b"x", None, Wanted::default()).await), "key.exists");
    assert_eq!(
        refused(client.seal(&name("short"), b"x", Some(&right), Wanted::default()).await),
        "key.capability"
    );
    assert_eq!(refused(client.seal(&name("empty"), b"", None, Wanted::default()).await), "request.invalid");

    site.gateway.restart().await;
    let client = alerts.client().await;
    // The capability died with the daemon; the right to ask for another did not.
    assert_eq!(
        refused(client.seal(&name("long"), b"x", Some(&right), Wanted::default()).await),
        "key.capability"
    );
    let (_, right) = client.grant(&name("long"), Wanted::default()).await.unwrap();
    assert_eq!(client.unseal(&name("long"), &right).await.unwrap().as_slice(), long);
    let (replaced, right) =
        client.seal(&name("long"), b"new", Some(&right), Wanted::default()).await.unwrap();
    assert_eq!(client.unseal(&name("long"), &right).await.unwrap().as_slice(), b"new");
    assert_eq!(replaced.purpose, Purpose::Secret);

    // Another instance of the same module.
    site.gateway.ask(Request::Stopped { instance: alerts.name.clone() }).await.unwrap();
    let mut again = site.start("alerts", 3).await;
    let client = again.client().await;
    assert_eq!(refused(client.unseal(&name("long"), &right).await), "key.capability");
    let (_, right) = client.grant(&name("short"), only(&[Operation::Unseal])).await.unwrap();
    assert_eq!(client.unseal(&name("short"), &right).await.unwrap().as_slice(), b"hunter2");

    // Nothing of it lies on the disk in the clear.
    let state = site.gateway.layout().identity_state();
    for file in files(&state) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_is_worth_nothing_to_anybody_else() {
    let mut site = Site::new().await;
    site.deploy(&["alerts", "analytics"], |_| ()).await;
    let (mut alerts, mut analytics) = (site.start("alerts", 2).await, site.start("analytics", 3).await);
    let (mine, theirs) = (alerts.client().await, analytics.client().await);
    let (key, right, _) =
        mine.create_key(&name("data"), Purpose::Encrypt, only(&[Operation::Encrypt])).await.unwrap();
    let sealed = mine.encrypt(&key.name, &right, b"x", b"").await.unwrap();

    // A name is the module's own: the same one is another key, and a right does not travel.
    assert_eq!(refused(theirs.encrypt(&key.name, &right, b"x", b"").await), "key.unknown");
    assert_eq!(refused(theirs.grant(&key.name, Wanted::default()).await), "key.unknown");
    assert!(theirs.list_keys().await.unwrap().is_empty());
    let (_, own, _) = theirs.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    assert_eq!(refused(theirs.encrypt(&key.name, &right, b"x", b"").await), "key.capability");
    assert_eq!(refused(theirs.decrypt(&key.name, &own, &sealed, b"").await), "key.ciphertext");

    for (case, outcome) in [
        ("another operation", mine.decrypt(&key.name, &right, &sealed, b"").await.map(drop)),
        ("another operation", mine.delete_key(&key.name, &right).await),
        ("another's", mine.encrypt(&key.name, &own, b"x", b"").await.map(drop)),
        ("none", mine.encrypt(&key.name, &capability(b""), b"x", b"").await.map(drop)),
        ("noise", mine.encrypt(&key.name, &capability(&[1; 51]), b"x", b"").await.map(drop)),
    ] {
        assert_eq!(refused(outcome), "key.capability", "{case}");
    }
    for bit in [0, 9, 23, 87, 151, 152, 407] {
        let mut token = right.token.clone();
        token[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            refused(mine.encrypt(&key.name, &capability(&token), b"x", b"").await),
            "key.capability",
            "bit {bit}"
        );
    }
    let long = capability(&[0; 257]);
    assert_eq!(refused(mine.encrypt(&key.name, &long, b"x", b"").await), "request.too_large");

    // One that lives for a second.
    let short = Wanted { lifetime: Duration::from_secs(1), ..Wanted::default() };
    let (_, brief) = mine.grant(&key.name, short).await.unwrap();
    common::until("the end of the capability", async || {
        mine.encrypt(&key.name, &brief, b"x", b"")
            .await
            .err()
            .and_then(|error| error.reason().map(str::to_owned))
    })
    .await;
    assert_eq!(refused(mine.encrypt(&key.name, &brief, b"x", b"").await), "key.capability");
    assert!(UnixTime::now() >= brief.not_after);
    let endless = Wanted { lifetime: Duration::from_secs(3601), ..Wanted::default() };
    assert_eq!(refused(mine.grant(&key.name, endless).await), "request.invalid");
    assert_eq!(refused(mine.grant(&key.name, only(&[Operation::Sign])).await), "request.invalid");

    let refusals = site.gateway.status().await.refusals;
    assert!(
        refusals.iter().any(|(_, refusal)| refusal.reason.code() == "key.capability"
            && refusal.subject.starts_with("analytics-")),
        "{refusals:?}"
    );
}

fn capability(token: &[u8]) -> Capability {
    Capability { token: token.to_vec(), not_after: UnixTime(0) }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_judged_as_for_the_workload_api() {
    let (site, mut alerts) = one().await;
    let stranger = Client::connect(&alerts.socket).await.unwrap();
    assert_eq!(refused(stranger.list_keys().await), "caller.not_module", "a process outside");
    let other = Container::new();
    let at = std::env::temp_dir().join(format!("ew-relay-other-{}", std::process::id()));
    drop(std::fs::remove_file(&at));
    let relay = other.relay(&alerts.socket, &at);
    let foreign = Client::connect(&relay.socket).await.unwrap();
    let created = foreign.create_key(&name("k"), Purpose::Encrypt, Wanted::default()).await;
    assert_eq!(refused(created), "caller.not_module", "a process of another container");
    drop(std::fs::remove_file(&at));

    let client = alerts.client().await;
    let (_, right, _) = client.create_key(&name("k"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    // Over the same connection, when the instance is no more.
    site.gateway.ask(Request::Stopped { instance: alerts.name.clone() }).await.unwrap();
    assert!(client.encrypt(&name("k"), &right, b"x", b"").await.is_err());
    // Our own processes have no resident keys.
    let own = Client::connect(&site.gateway.layout().workload_socket("runtimed")).await.unwrap();
    let CallError::Refused(status) = own.list_keys().await.unwrap_err() else { panic!("not refused") };
    assert_eq!(status.code(), edgewarden_workload_client::Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verdict_ends_every_use_at_once() {
    let (site, mut alerts) = one().await;
    let client = alerts.client().await;
    let (_, right, _) = client.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    let sealed = client.encrypt(&name("data"), &right, b"x", b"").await.unwrap();
    let (_, secret) = client.seal(&name("secret"), b"x", None, Wanted::default()).await.unwrap();
    site.fail_verdict().await;
    assert_eq!(refused(client.decrypt(&name("data"), &right, &sealed, b"").await), "attest.failed");
    assert_eq!(refused(client.unseal(&name("secret"), &secret).await), "attest.failed");
    assert_eq!(refused(client.grant(&name("secret"), Wanted::default()).await), "attest.failed");
    assert_eq!(refused(client.list_keys().await), "attest.failed");
    // A newer certificate with a good verdict heals it.
    let now = UnixTime::now().plus(Duration::from_secs(60));
    let mut healed = site.gateway.enrolled_for(30 * common::DAY, now).await;
    healed.verdict = verdict(VerdictState::Fresh);
    site.gateway.ask(Request::EnrolAccept(Box::new(healed))).await.unwrap();
    assert_eq!(client.decrypt(&name("data"), &right, &sealed, b"").await.unwrap().as_slice(), b"x");
    assert_eq!(client.unseal(&name("secret"), &secret).await.unwrap().as_slice(), b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_said_and_concern_one_module() {
    let mut site = Site::new().await;
    site.deploy(&["alerts", "analytics"], |_| ()).await;
    let (mut alerts, mut analytics) = (site.start("alerts", 2).await, site.start("analytics", 3).await);
    let (noisy, quiet) = (alerts.client().await, analytics.client().await);
    let (_, right, _) = noisy.create_key(&name("k0"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    let data = vec![0; DATA_BYTES_MAX + 1];
    let sealed = noisy.encrypt(&name("k0"), &right, &data[1..], &[7; CONTEXT_BYTES_MAX]).await.unwrap();
    let opened = noisy.decrypt(&name("k0"), &right, &sealed, &[7; CONTEXT_BYTES_MAX]).await.unwrap();
    assert_eq!(opened.len(), DATA_BYTES_MAX);
    for (case, outcome) in [
        ("plaintext", noisy.encrypt(&name("k0"), &right, &data, b"").await.map(drop)),
        ("context", noisy.encrypt(&name("k0"), &right, b"", &[0; CONTEXT_BYTES_MAX + 1]).await.map(drop)),
        (
            "ciphertext",
            noisy.decrypt(&name("k0"), &right, &vec![0; DATA_BYTES_MAX + 65], b"").await.map(drop),
        ),
        ("secret", noisy.seal(&name("s"), &data, None, Wanted::default()).await.map(drop)),
        ("message", noisy.sign(&name("k0"), &right, &data).await.map(drop)),
    ] {
        assert_eq!(refused(outcome), "request.too_large", "{case}");
    }
    assert!(
        noisy.encrypt(&name("k0"), &right, &vec![0; 1 << 20], b"").await.is_err(),
        "a message over the frame"
    );
    assert_eq!(
        refused(noisy.create_key(&name("s"), Purpose::Secret, Wanted::default()).await),
        "request.invalid"
    );
    for n in 1..16 {
        noisy.seal(&name(&format!("k{n}")), b"x", None, Wanted::default()).await.unwrap();
    }
    assert_eq!(refused(noisy.seal(&name("k16"), b"x", None, Wanted::default()).await), "key.limit");
    assert_eq!(
        refused(noisy.create_key(&name("k0"), Purpose::Encrypt, Wanted::default()).await),
        "key.exists"
    );
    assert_eq!(noisy.list_keys().await.unwrap().len(), 16);

    // Far more at a time than one module may: what is refused says so, and the other module does not notice.
    let calls = (0..64).map(|_| {
        let (noisy, right, data) = (noisy.clone(), right.clone(), data.clone());
        tokio::spawn(async move { noisy.encrypt(&name("k0"), &right, &data[1..], b"").await.map(drop) })
    });
    let calls: Vec<_> = calls.collect();
    quiet.create_key(&name("mine"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    for call in calls {
        if let Err(error) = call.await.unwrap() {
            assert_eq!(error.reason(), Some("key.limit"), "{error:?}");
        }
    }
    // Uses of the store, until the share of a minute is used up.
    let (_, secret) = noisy.grant(&name("k1"), Wanted::default()).await.unwrap();
    let mut last = None;
    for _ in 0..1000 {
        last = noisy.unseal(&name("k1"), &secret).await.err();
        if last.is_some() {
            break;
        }
    }
    assert_eq!(last.unwrap().reason(), Some("key.limit"));
    quiet.create_key(&name("more"), Purpose::Encrypt, Wanted::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_encrypted_enough_is_exhausted() {
    let (mut site, mut alerts) = one().await;
    let client = alerts.client().await;
    let (_, right, _) = client.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    let sealed = client.encrypt(&name("data"), &right, b"x", b"").await.unwrap();
    site.gateway.stop().await;
    site.gateway
        .rewrite("resident-keys.json", |keys| keys.replace("\"messages\":4096", "\"messages\":4294967295"));
    site.gateway.start_again().await;
    let client = alerts.client().await;
    let (_, right) = client.grant(&name("data"), Wanted::default()).await.unwrap();
    client.encrypt(&name("data"), &right, b"x", b"").await.unwrap();
    assert_eq!(refused(client.encrypt(&name("data"), &right, b"x", b"").await), "key.exhausted");
    assert_eq!(client.decrypt(&name("data"), &right, &sealed, b"").await.unwrap().as_slice(), b"x");
}

async fn fetch(alerts: &mut Instance) -> Result<edgewarden_svid::X509Context, String> {
    alerts.client().await;
    let relay = alerts.relay.as_ref().unwrap();
    let fetched = edgewarden_workload_client::fetch_once(&relay.socket).await;
    fetched.map(|context| std::sync::Arc::into_inner(context).unwrap()).map_err(|error| error.to_string())
}

async fn issued(site: &Site) -> usize {
    site.gateway.events().await.iter().filter(|event| *event == "svid.issued").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_signs_and_is_certified_and_never_leaves() {
    let (mut site, mut alerts) = one().await;
    let client = alerts.client().await;
    let certified = sign_and_certify(&client).await;
    assert_eq!(certified.id.as_str(), "spiffe://plant.example/gateway/gw-1/module/alerts");
    assert_eq!(certified.bundle_der[0], site.gateway.root.certificate_der());
    let (point, _) = subject(&certified.chain_der[0]);

    let (_, right) = client.grant(&name("svid"), Wanted::default()).await.unwrap();
    for (case, outcome) in [
        ("no proof without a TPM", client.certify(&name("svid"), &right, &[7; 32]).await.map(drop)),
        ("a short nonce", client.certify(&name("svid"), &right, &[7; 15]).await.map(drop)),
        ("a long nonce", client.certify(&name("svid"), &right, &[7; 33]).await.map(drop)),
    ] {
        assert_eq!(refused(outcome), "request.invalid", "{case}");
    }
    let (_, narrow) = client.grant(&name("svid"), only(&[Operation::Certify])).await.unwrap();
    assert_eq!(refused(client.sign(&name("svid"), &narrow, b"x").await), "key.capability");
    assert_eq!(refused(client.encrypt(&name("svid"), &right, b"x", b"").await), "key.capability");
    assert_eq!(refused(client.public_key(&name("none")).await), "key.unknown");
    client.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    assert_eq!(refused(client.public_key(&name("data")).await), "request.invalid");

    // The same key after a restart, which writes down what it was used for before.
    site.gateway.restart().await;
    let client = alerts.client().await;
    assert_eq!(refused(client.sign(&name("svid"), &right, b"x").await), "key.capability");
    let (_, right) = client.grant(&name("svid"), Wanted::default()).await.unwrap();
    let signature = client.sign(&name("svid"), &right, b"again").await.unwrap();
    assert!(verifies(&spki::der(&point).unwrap(), b"again", &signature));
    let listed = site.listed().await;
    assert_eq!(listed.iter().find(|key| key.name == name("svid")).unwrap().uses, 1);
    assert_eq!(
        site.gateway.refused(Request::StartPrepare { permit: String::new() }).await.code(),
        "start.permit"
    );

    // What the operator and the module see of a key is these fields, and none of them is the key.
    let shown = serde_json::to_value(&listed[0]).unwrap();
    let mut fields: Vec<_> = shown.as_object().unwrap().keys().cloned().collect();
    fields.sort();
    assert_eq!(fields, ["created", "generation", "module", "name", "purpose", "uses"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_deployment_wants_the_key_resident_no_other_is_given() {
    let (mut site, mut alerts) = one().await;
    assert!(fetch(&mut alerts).await.is_ok());
    site.deploy(&["alerts"], |document| document["modules"][0]["svid_key"] = json!("resident")).await;
    let failure = fetch(&mut alerts).await.unwrap_err();
    let before = issued(&site).await;
    assert!(failure.contains("identity.resident_key") && failure.contains("Certify"), "{failure}");
    let status = site.gateway.status().await;
    let shown = status.identities.iter().find(|identity| identity.instance == alerts.name).unwrap();
    assert!(shown.resident_key && shown.expires.is_none());
    let certified = sign_and_certify(&alerts.client().await).await;
    let status = site.gateway.status().await;
    let shown = status.identities.iter().find(|identity| identity.instance == alerts.name).unwrap();
    assert_eq!((shown.expires, shown.issued), (Some(certified.not_after), 2), "one of before");
    assert_eq!(issued(&site).await, before + 1);
    // A rotation makes none either.
    let module = Some(ModuleName::parse("alerts").unwrap());
    site.gateway.ask(Request::Rotate { module }).await.unwrap();
    assert_eq!(issued(&site).await, before + 1);
    // The next deployment may want otherwise.
    site.deploy(&["alerts"], |_| ()).await;
    common::until("a certificate", async || fetch(&mut alerts).await.ok()).await;
}
