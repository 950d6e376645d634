//! Leaf devices: tokens and certificates.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Gateway, document};
use edgewarden_ca::{CaSigner, SignError, certificate_request, chain};
use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{Certificate, Reply, Request};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// The key of a leaf device.
struct LeafKey(EcdsaKeyPair);

impl LeafKey {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }
    fn csr(&self) -> Bytes {
        certificate_request(self, &common::gateway_name(), &common::domain()).unwrap().into()
    }
}

impl CaSigner for LeafKey {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.0.public_key().as_ref().to_vec())
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
    }
}

fn leaf(name: &str) -> LeafName {
    LeafName::parse(name).unwrap()
}

async fn allow(gateway: &Gateway, name: &str) -> Result<String, Refusal> {
    match gateway.ask(Request::LeafAllow { leaf: leaf(name), lifetime_seconds: 600 }).await? {
        Reply::LeafToken { token, expires } => {
            assert!(expires > UnixTime::now());
            Ok(token)
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
    let key = LeafKey::new();
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

#[tokio::test]
async fn a_token_used_twice_at_once_enrols_one() {
    let gateway = site().await;
    let token = allow(&gateway, "sensor-1").await.unwrap();
    let tries = (0..6).map(|_| {
        let (control, token) = (gateway.control(), token.clone());
        tokio::spawn(async move {
            let csr = LeafKey::new().csr();
            common::ask(&control, &Request::LeafIssue { leaf: leaf("sensor-1"), token, csr }).await.is_ok()
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
    let csr = || LeafKey::new().csr();
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
    let csr = || LeafKey::new().csr();
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
    let newer =
        gateway.enrolled_for(common::DAY, UnixTime::now().plus(std::time::Duration::from_secs(5))).await;
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
