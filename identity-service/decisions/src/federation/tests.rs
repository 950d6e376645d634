use edgewarden_svid::jwt::{JwtKeys, SigningKey};
use serde_json::json;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("other.example").unwrap()
}

fn bundle(sequence: u64) -> TrustBundle {
    let key = SigningKey::generate().unwrap().public(None);
    TrustBundle {
        x509: Vec::new(),
        jwt: JwtKeys { keys: vec![key.into()], sequence, refresh_hint_seconds: None },
    }
}

fn deployment(profile: &serde_json::Value) -> Deployment {
    let federation = match profile {
        serde_json::Value::Null => json!([]),
        profile => json!([{"trust_domain": "other.example", "url": "https://h/", "profile": profile}]),
    };
    let document = json!({"name": "d", "version": 1, "trust_domain": "plant.example", "image_keys": [],
                          "modules": [], "policy": "", "federation": federation});
    Deployment::parse(document.to_string().as_bytes()).unwrap()
}

fn web(ca: &str) -> Deployment {
    deployment(&json!({"kind": "https_web", "ca": ca}))
}

fn spiffe(first: &TrustBundle) -> Deployment {
    let text = String::from_utf8(first.to_json()).unwrap();
    deployment(
        &json!({"kind": "https_spiffe", "endpoint_spiffe_id": "spiffe://other.example/s", "bundle": text}),
    )
}

fn fetched(deployment: &Deployment, bundle: &TrustBundle) -> Fetched {
    Fetched::parse(domain(), name(&deployment.federation[0]), &bundle.to_json()).unwrap()
}

fn holds(all: &FederatedBundles) -> Option<TrustBundle> {
    all.get(&domain()).and_then(|held| held.parse(&domain()))
}

#[test]
fn a_bundle_follows_another_only_upwards() {
    let web = web("a");
    let (old, new) = (bundle(5), bundle(6));
    let none = FederatedBundles::default().under(&web, UnixTime(1)).unwrap();
    assert_eq!(holds(&none), None);
    let (first, taken) = none.take(&fetched(&web, &old), UnixTime(10)).unwrap();
    assert_eq!((taken, holds(&first)), (Taken::Changed, Some(old.clone())));

    // The same again is written down now and then only.
    let (same, taken) = first.take(&fetched(&web, &old), UnixTime(11)).unwrap();
    assert_eq!((taken, &same), (Taken::Same, &first));
    let (later, _) = first.take(&fetched(&web, &old), UnixTime(10 + 600)).unwrap();
    assert_eq!(later.get(&domain()).unwrap().confirmed, Some(UnixTime(610)));
    assert_eq!(later.get(&domain()).unwrap().changed, UnixTime(10));

    let (second, taken) = first.take(&fetched(&web, &new), UnixTime(20)).unwrap();
    assert_eq!((taken, holds(&second)), (Taken::Changed, Some(new.clone())));
    // The same keys under a higher sequence raise the floor.
    let mut raised = new.clone();
    raised.jwt.sequence = 9;
    let (third, taken) = second.take(&fetched(&web, &raised), UnixTime(30)).unwrap();
    assert_eq!(taken, Taken::Same);
    for (name, bad) in [
        ("the old one", &old),
        ("the same keys, lower", &new),
        ("others under the same sequence", &bundle(9)),
        ("others without a sequence", &bundle(0)),
        ("nothing, lower", &TrustBundle::default()),
    ] {
        let refusal = third.take(&fetched(&web, bad), UnixTime(40)).unwrap_err();
        assert_eq!(refusal.reason, Reason::FederationRollback, "{name}");
    }
    // Everything revoked, in order.
    let mut empty = TrustBundle::default();
    empty.jwt.sequence = 10;
    let (last, _) = third.take(&fetched(&web, &empty), UnixTime(50)).unwrap();
    assert_eq!(holds(&last), Some(empty));
}

#[test]
fn without_sequences_there_is_no_order() {
    let web = web("a");
    let (one, other) = (bundle(0), bundle(0));
    let (first, _) = FederatedBundles::default().take(&fetched(&web, &one), UnixTime(1)).unwrap();
    let (second, taken) = first.take(&fetched(&web, &other), UnixTime(2)).unwrap();
    assert_eq!((taken, holds(&second)), (Taken::Changed, Some(other)));
}

#[test]
fn the_operator_begins_and_ends_it() {
    let first = bundle(5);
    let trusted = spiffe(&first);
    let held = FederatedBundles::default().under(&trusted, UnixTime(1)).unwrap();
    assert_eq!((holds(&held), held.get(&domain()).unwrap().confirmed), (Some(first), None));
    assert!(held.take(&fetched(&trusted, &bundle(4)), UnixTime(2)).is_err(), "below the first one");
    let newest = bundle(7);
    let (held, _) = held.take(&fetched(&trusted, &newest), UnixTime(2)).unwrap();
    // The same configuration again forgets nothing.
    assert_eq!(held.under(&trusted, UnixTime(3)).unwrap(), held);

    // A new first bundle, of a trust domain that lost its own: it begins anew.
    let rebuilt = bundle(1);
    let anew = held.under(&spiffe(&rebuilt), UnixTime(3)).unwrap();
    assert_eq!(holds(&anew), Some(rebuilt));
    // A changed endpoint without a bundle of its own goes on with what there was, and may begin below.
    let moved = held.under(&web("b"), UnixTime(3)).unwrap();
    assert_eq!(holds(&moved), Some(newest));
    assert!(moved.take(&fetched(&web("b"), &bundle(1)), UnixTime(4)).is_ok());

    assert_eq!(held.under(&deployment(&json!(null)), UnixTime(3)).unwrap(), FederatedBundles::default());
}

#[test]
fn what_does_not_read_is_not_taken() {
    let judge = |bytes: &[u8]| Fetched::parse(domain(), name(&web("a").federation[0]), bytes);
    assert!(judge(&bundle(1).to_json()).is_ok());
    // It reads well, and would fill the document when all were like it.
    let blank = format!("{{\"keys\":[]{}}}", "\n".repeat(BUNDLE_BYTES_MAX - 20));
    assert_eq!(judge(blank.as_bytes()).unwrap_err().reason, Reason::FederationBundle);
    let too_long = vec![b' '; BUNDLE_BYTES_MAX + 1];
    for bad in [b"".as_slice(), b"{}", b"<html>", b"\xff", b"{\"keys\":[{}", &too_long] {
        assert_eq!(judge(bad).unwrap_err().reason, Reason::FederationBundle);
    }
}

#[test]
fn a_damaged_document_is_refused() {
    let web = web("a");
    let (good, _) = FederatedBundles::default().take(&fetched(&web, &bundle(1)), UnixTime(1)).unwrap();
    assert_eq!(good.check(), Ok(()));
    let mut broken = good.clone();
    broken.domains.get_mut(&domain()).unwrap().bundle.truncate(10);
    assert!(broken.check().is_err());
    let mut many = FederatedBundles::default();
    for n in 0..=FEDERATION_MAX {
        let held = good.get(&domain()).unwrap().clone();
        many.domains.insert(TrustDomain::parse(&format!("d{n}.example")).unwrap(), held);
    }
    assert!(many.check().is_err());
}
