//! Contents of a store for tests that use it without a server, all of one moment.

use std::collections::BTreeMap;

use edgewarden_appraisal::ReferenceValues;
use edgewarden_fleet::lease::Certificate;
use edgewarden_fleet::selection::Labels;
use edgewarden_fleet::store::deployments::NewDeployment;
use edgewarden_fleet::store::devices::{Admission, Attempt, Binding};
use edgewarden_fleet::store::tokens::Grant;
use edgewarden_fleet::store::trust::NewVendorRoot;
use edgewarden_fleet::store::{Store, StoreError};
use edgewarden_names::{Digest, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::enrol::{Verdict, VerdictState};
use edgewarden_protocol::jwt_keys::{PublishedKey, Statement};
use edgewarden_protocol::secret::{Content, SecretDocument};
use edgewarden_protocol::uplink::Message;

use super::{domain, name};

pub const NOW: UnixTime = UnixTime(1_000_000);
/// Of all messages.
pub const QUEUE: [u8; 16] = [10; 16];

pub fn labels() -> Labels {
    Labels::from([("site".into(), "clinic".into())])
}

/// A good one, or one that failed with so large an event log.
pub fn attempt(failed: Option<(Refusal, usize)>) -> Attempt {
    let verdict = Verdict {
        state: if failed.is_some() { VerdictState::Failed } else { VerdictState::Fresh },
        hardware: "none".into(),
        reference: None,
        checks: Vec::new(),
        at: NOW,
        expires: UnixTime(NOW.0 + 60),
    };
    let (refusal, event_log) = failed.map(|(refusal, bytes)| (refusal, vec![1; bytes])).unzip();
    Attempt { at: NOW, verdict, refusal, evidence: Digest::of(b"evidence"), event_log }
}

/// 32 bytes that begin with a number.
pub fn hash(n: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&n.to_be_bytes());
    hash
}

/// A token of this number.
pub async fn add_token(store: &Store, gateway: &str, n: u64) -> Result<(), StoreError> {
    let grant = Grant {
        gateway: name(gateway),
        expires: UnixTime(NOW.0 + 60),
        allow_software: true,
        labels: labels(),
    };
    store.add_token(&hash(n), &grant, NOW).await
}

/// With the token of this number, and an attestation key and CA key of the same.
pub async fn join(store: &Store, gateway: &str, n: u64) -> Result<(), StoreError> {
    let key = Digest::of(&n.to_be_bytes());
    let admission = Admission {
        gateway: &name(gateway),
        binding: &Binding { endorsement: Digest::of(gateway.as_bytes()), attestation: key.clone() },
        token: Some(&hash(n)),
        ca_key: &key,
        certificate: &Certificate::lasting(NOW, UnixTime(NOW.0 + 300)),
        attempt: &attempt(None),
    };
    store.admit(&admission, NOW).await?.unwrap();
    Ok(())
}

pub fn message(sequence: u64, bytes: usize) -> Message {
    Message {
        queue: hex::encode(QUEUE),
        sequence,
        at: NOW,
        from: SpiffeId::parse(&format!("spiffe://plant.example/gateway/gw-1/module/m{sequence}")).unwrap(),
        topic: format!("clinic/{sequence}"),
        payload: vec![7; bytes].into(),
    }
}

pub fn reference(name: &str) -> ReferenceValues {
    ReferenceValues { name: name.into(), pcrs: BTreeMap::new(), events: BTreeMap::new() }
}

pub async fn add_deployment(store: &Store, version: u64, envelope: &[u8]) -> Result<(), StoreError> {
    let new = NewDeployment {
        digest: &Digest::of(envelope),
        name: "glucose",
        version,
        selector: &labels(),
        signer: Some("operator"),
        envelope,
    };
    store.add_deployment(&new, NOW).await
}

pub fn secret(version: u64) -> SecretDocument {
    SecretDocument {
        trust_domain: domain(),
        gateway: name("gw-1"),
        module: "a".parse().unwrap(),
        name: "s".parse().unwrap(),
        version,
        content: Content::Removed,
    }
}

pub fn jwt_keys(sequence: u64) -> Statement {
    let key = PublishedKey { kid: "k".into(), point: vec![4; 65].into(), not_after: UnixTime(u64::MAX >> 1) };
    Statement { gateway: name("gw-1"), trust_domain: domain(), sequence, at: NOW, keys: vec![key] }
}

pub fn vendor_root(subject: &str, serial: u64, bytes: usize) -> NewVendorRoot {
    let digest = Digest::of(format!("{subject} {serial}").as_bytes());
    NewVendorRoot { digest, subject: subject.into(), pem: "p".repeat(bytes) }
}
