//! Leaf devices: tokens and certificates.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::clocks::Clocks;
use common::{DAY, Gateway, Key, document};
use edgewarden_ca::{CaSigner as _, chain};
use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{Certificate, LeafAllowed, Reply, Request};
use edgewarden_protocol::leaf::renewal_statement;

fn leaf(name: &str) -> LeafName {
    LeafName::parse(name).unwrap()
}

async fn allow(gateway: &Gateway, name: &str) -> Result<String, Refusal> {
    match gateway.ask(Request::LeafAllow { leaf: leaf(name), lifetime_seconds: 600 }).await? {
        Reply::LeafToken(LeafAllowed { token, expires }) => {
            assert!(expires > UnixTime::now());
            Ok(token.reveal().to_owned())
        }
        other => panic!("{other:?}"),
    }
}

async fn issue(gateway: &Gateway, name: &str, token: &str, csr: Bytes) -> Result<Certificate, Refusal> {
    match gateway.ask(Request::LeafIssue { leaf: leaf(name), token: token.into(), csr }).await? {
        Reply::Certificate(certificate) => Ok(certificate),
        other => panic!("{other:?}"),
    }
}

async fn site() -> Gateway {
    let gateway = Gateway::started().await;
    gateway.join().await;
    gateway.deploy(&document(1)).await;
    gateway
}

#[tokio::test]
async fn a_leaf_enrols_once_with_its_token() {
    let mut gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    // A token outlives a restart, and its use does too.
    gateway.stop().await;
    gateway.start().await.unwrap();
    let key = Key::generate();
    let certificate = issue(&gateway, "sensor-1", &token, key.csr()).await.unwrap();
    let facts = chain::facts(certificate.chain[0].as_slice()).unwrap();
    assert_eq!(facts.uris, ["spiffe://plant.example/gateway/gw-1/leaf/sensor-1"]);
    assert_eq!(facts.point, key.public_point().unwrap());
    assert!(!facts.is_ca);
    assert_eq!((certificate.chain.len(), certificate.root.as_slice()), (3, gateway.root.certificate_der()));
    assert_eq!(issue(&gateway, "sensor-1", &token, key.csr()).await.unwrap_err().reason, Reason::LeafToken);
    gateway.stop().await;
    gateway.start().await.unwrap();
    assert_eq!(issue(&gateway, "sensor-1", &token, key.csr()).await.unwrap_err().reason, Reason::LeafToken);
}

/// The documents of a stopped gateway, as a backup has them.
fn documents(gateway: &Gateway) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(gateway.layout().identity_state()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let json = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    json.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[tokio::test]
async fn a_token_that_was_used_is_not_good_again_after_a_restore() {
    let mut gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    gateway.stop().await;
    let backup = documents(&gateway);
    gateway.start().await.unwrap();
    issue(&gateway, "sensor-1", &token, Key::generate().csr()).await.unwrap();
    gateway.stop().await;
    for (path, bytes) in &backup {
        std::fs::write(path, bytes).unwrap();
    }
    gateway.start().await.unwrap();
    let refusal = issue(&gateway, "sensor-1", &token, Key::generate().csr()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::LeafToken);
    assert!(refusal.rule.contains("last start"), "{refusal}");
    let shown = gateway.status().await.refusals;
    let lost = |refusal: &Refusal| refusal.reason == Reason::LeafToken && refusal.rule.contains("backup");
    assert!(shown.iter().any(|(_, refusal)| lost(refusal)), "the operator is told: {shown:?}");
    // Another one is good, also over a restart.
    let token = allow(&gateway, "sensor-1").await.unwrap();
    gateway.stop().await;
    gateway.start().await.unwrap();
    issue(&gateway, "sensor-1", &token, Key::generate().csr()).await.unwrap();
}

#[tokio::test]
async fn a_token_ends_with_the_boot_of_the_machine() {
    let mut gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    gateway.stop().await;
    gateway.rewrite("leaf-tokens.json", |tokens| tokens.replace("\"boot\":\"", "\"boot\":\"other-"));
    gateway.start().await.unwrap();
    let refusal = issue(&gateway, "sensor-1", &token, Key::generate().csr()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::LeafToken);
    // What is in /run is gone, and with it the word that nothing was put back.
    let token = allow(&gateway, "sensor-1").await.unwrap();
    gateway.stop().await;
    std::fs::remove_file(gateway.layout().identity_run().join("leaf-tokens")).unwrap();
    gateway.start().await.unwrap();
    let refusal = issue(&gateway, "sensor-1", &token, Key::generate().csr()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::LeafToken);
}

#[tokio::test]
async fn a_token_used_twice_at_once_enrols_one() {
    let gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    let tries = (0..6).map(|_| {
        let (control, token) = (gateway.control(), token.clone());
        tokio::spawn(async move {
            let csr = Key::generate().csr();
            common::ask(
                &control,
                &Request::LeafIssue { leaf: leaf("sensor-1"), token: token.as_str().into(), csr },
            )
            .await
            .is_ok()
        })
    });
    let mut enrolled = 0;
    for attempt in tries.collect::<Vec<_>>() {
        enrolled += usize::from(attempt.await.unwrap());
    }
    assert_eq!(enrolled, 1);
}

#[tokio::test]
async fn what_does_not_enrol() {
    let gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    let csr = || Key::generate().csr();
    let mut forged = csr();
    *forged.0.last_mut().unwrap() ^= 1;
    for (name, reason, leaf, token, csr) in [
        ("no token", Reason::LeafToken, "sensor-1", "", csr()),
        ("a guess", Reason::LeafToken, "sensor-1", "0000", csr()),
        ("a leaf that is not declared", Reason::LeafUnknown, "sensor-9", &token, csr()),
        ("no request", Reason::RequestInvalid, "sensor-1", &token, Bytes::default()),
        ("a request with a wrong signature", Reason::RequestInvalid, "sensor-1", &token, forged),
        ("a large request", Reason::RequestTooLarge, "sensor-1", &token, vec![0x30; 20_000].into()),
    ] {
        assert_eq!(issue(&gateway, leaf, token, csr).await.unwrap_err().reason, reason, "{name}");
    }
    assert_eq!(allow(&gateway, "sensor-9").await.unwrap_err().reason, Reason::LeafUnknown);
    for lifetime_seconds in [0, u32::MAX] {
        let request = Request::LeafAllow { leaf: leaf("sensor-1"), lifetime_seconds };
        assert_eq!(gateway.refused(request).await, Reason::RequestInvalid);
    }
    // None of this used the token up.
    issue(&gateway, "sensor-1", &token, csr()).await.unwrap();
}

#[tokio::test]
async fn no_leaf_enrols_at_a_gateway_that_may_not_issue() {
    let gateway = Gateway::started().await;
    gateway.deploy(&document(1)).await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    let csr = || Key::generate().csr();
    assert_eq!(issue(&gateway, "sensor-1", &token, csr()).await.unwrap_err().reason, Reason::AttestRequired);
    gateway.join().await;
    gateway
        .ask(Request::EnrolRefused(Refusal::new(
            Reason::AttestEventLog,
            "event log",
            "it does not explain PCR 7",
        )))
        .await
        .unwrap();
    assert_eq!(issue(&gateway, "sensor-1", &token, csr()).await.unwrap_err().reason, Reason::AttestFailed);
    let newer = gateway.enrolled_for(DAY, UnixTime::now().plus(Duration::from_secs(5))).await;
    gateway.ask(Request::EnrolAccept(Box::new(newer))).await.unwrap();
    issue(&gateway, "sensor-1", &token, csr()).await.unwrap();
}

#[tokio::test]
async fn the_storage_key_is_made_once() {
    let mut gateway = Gateway::started().await;
    assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestRequired);
    gateway.join().await;
    let asks = (0..4).map(|_| {
        let control = gateway.control();
        tokio::spawn(async move { common::ask(&control, &Request::StorageKey).await.unwrap() })
    });
    let mut keys = Vec::new();
    for ask in asks.collect::<Vec<_>>() {
        keys.push(ask.await.unwrap());
    }
    gateway.stop().await;
    gateway.start().await.unwrap();
    keys.push(gateway.ask(Request::StorageKey).await.unwrap());
    let Reply::StorageKey(first) = &keys[0] else { panic!() };
    assert_eq!(first.expose().len(), 32);
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert!(!format!("{:?}", keys[0]).contains(&hex::encode(first.expose())));
}

/// A leaf device with its certificate, at a gateway whose time is the test's.
struct Device {
    gateway: Gateway,
    clocks: Arc<Clocks>,
    key: Key,
    chain: Vec<Bytes>,
}

impl Device {
    async fn new() -> Self {
        let clocks = Arc::new(Clocks::right());
        let mut gateway = Gateway::new();
        gateway.clocks = Some(Arc::clone(&clocks));
        gateway.start().await.unwrap();
        gateway.join().await;
        gateway.deploy(&document(1)).await;
        let token = allow(&gateway, "sensor-1").await.unwrap();
        let key = Key::generate();
        let chain = issue(&gateway, "sensor-1", &token, key.csr()).await.unwrap().chain;
        Self { gateway, clocks, key, chain }
    }

    async fn renew(&self, chain: &[Bytes], signer: &Key, csr: Bytes) -> Result<Certificate, Refusal> {
        let own = chain.first().map(|der| der.0.clone()).unwrap_or_default();
        let proof = signer.sign(&renewal_statement(&own, csr.as_slice())).unwrap().into();
        match self.gateway.ask(Request::LeafRenew { chain: chain.to_vec(), csr, proof }).await? {
            Reply::Certificate(certificate) => Ok(certificate),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, chain: &[Bytes], signer: &Key) -> Reason {
        let refused = self.renew(chain, signer, Key::generate().csr()).await;
        refused.map(|_| ()).unwrap_err().reason
    }
}

#[tokio::test]
async fn a_leaf_renews_by_its_own_certificate_without_a_fleet_and_without_an_operator() {
    let mut device = Device::new().await;
    // Seven days of life: five renewals, through restarts of the gateway and with another key each time. The fleet of this
    // gateway does not exist.
    for _ in 0..5 {
        assert_eq!(device.refused(&device.chain, &device.key).await, Reason::LeafRenewal, "too early");
        device.clocks.pass(DAY * 4);
        device.gateway.restart().await;
        let next = Key::generate();
        let certificate = device.renew(&device.chain, &device.key, next.csr()).await.unwrap();
        let facts = chain::facts(certificate.chain[0].as_slice()).unwrap();
        assert_eq!(facts.uris, ["spiffe://plant.example/gateway/gw-1/leaf/sensor-1"]);
        assert_eq!(facts.point, next.public_point().unwrap());
        let before = chain::facts(device.chain[0].as_slice()).unwrap();
        assert!(facts.not_after > before.not_after, "it lasts longer");
        (device.chain, device.key) = (certificate.chain, next);
    }
    let events = device.gateway.events().await;
    assert_eq!(events.iter().filter(|event| *event == "leaf.renewed").count(), 5);
}

#[tokio::test]
async fn what_does_not_renew() {
    let device = Device::new().await;
    let Device { gateway, clocks, key, chain: own } = &device;
    assert_eq!(device.refused(own, key).await, Reason::LeafRenewal, "in the first third");
    clocks.pass(DAY * 3);
    assert_eq!(device.refused(own, &Key::generate()).await, Reason::LeafRenewal, "another key's word");
    assert_eq!(device.refused(&[], key).await, Reason::LeafRenewal, "no certificate");
    assert_eq!(device.refused(&own[..1], key).await, Reason::LeafRenewal, "a chain without issuers");
    let mut forged = own.clone();
    *forged[0].0.last_mut().unwrap() ^= 1;
    assert_eq!(device.refused(&forged, key).await, Reason::LeafRenewal, "a forged certificate");
    let foreign = Device::new().await;
    assert_eq!(
        device.refused(&foreign.chain, &foreign.key).await,
        Reason::LeafRenewal,
        "another trust's leaf"
    );
    // A proof is for one request: whoever has seen it has no use of it.
    let (csr, other) = (Key::generate().csr(), Key::generate().csr());
    let proof = key.sign(&renewal_statement(own[0].as_slice(), csr.as_slice())).unwrap().into();
    let swapped = Request::LeafRenew { chain: own.clone(), csr: other, proof };
    assert_eq!(gateway.refused(swapped).await, Reason::LeafRenewal);
    let many =
        Request::LeafRenew { chain: vec![own[0].clone(); 11], csr: key.csr(), proof: Bytes::default() };
    assert_eq!(gateway.refused(many).await, Reason::RequestTooLarge);
    let long = Request::LeafRenew { chain: own.clone(), csr: key.csr(), proof: vec![0; 300].into() };
    assert_eq!(gateway.refused(long).await, Reason::RequestTooLarge);
    // None of this used up its turn; that it has had one lately does.
    device.renew(own, key, key.csr()).await.unwrap();
    assert_eq!(device.refused(own, key).await, Reason::Busy);
    clocks.pass(Duration::from_secs(61));
    // A deployment without it, or a failed verdict, ends it.
    let mut without = document(2);
    without["leaves"] = serde_json::json!([]);
    gateway.deploy(&without).await;
    assert_eq!(device.refused(own, key).await, Reason::LeafUnknown);
    gateway.deploy(&document(3)).await;
    let failed = Refusal::new(Reason::AttestEventLog, "event log", "it does not explain PCR 7");
    gateway.ask(Request::EnrolRefused(failed)).await.unwrap();
    assert_eq!(device.refused(own, key).await, Reason::AttestFailed);
}

#[tokio::test]
async fn an_expired_certificate_needs_a_token() {
    let device = Device::new().await;
    device.clocks.pass(DAY * 7);
    assert_eq!(device.refused(&device.chain, &device.key).await, Reason::LeafRenewal);
}
