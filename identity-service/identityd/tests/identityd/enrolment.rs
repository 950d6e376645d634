//! Joining a fleet: what is accepted, and everything that is not.

use crate::common;

use common::{DAY, Gateway, domain, gateway_name, verdict};
use edgewarden_ca::RootCa;
use edgewarden_names::{GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::enrol::{Check, Enrolled, VerdictState};

fn accept(enrolled: Enrolled) -> Request {
    Request::EnrolAccept(Box::new(enrolled))
}

#[tokio::test]
async fn a_gateway_joins_and_stays_joined() {
    let mut gateway = Gateway::started().await;
    let before = gateway.status().await;
    assert_eq!((before.verdict, before.issuing_ca_expires), (None, None));
    assert!(before.keystore.contains("hardware: none"), "{}", before.keystore);
    assert!(matches!(gateway.ask(Request::EnrolKeys).await.unwrap(), Reply::DeviceKeys(_)));

    gateway.join().await;
    let joined = gateway.status().await;
    assert_eq!(joined.verdict.as_ref().unwrap().state, VerdictState::Fresh);
    assert!(joined.issuing_ca_expires.is_some(), "the issuing CA is born with the enrolment");
    // Edgewarden's own processes have certificates from then on.
    let own: Vec<_> = joined.identities.iter().map(|i| (i.id.to_string(), i.expires.is_some())).collect();
    assert_eq!(
        own,
        [
            ("spiffe://plant.example/gateway/gw-1/module/gatewayd".into(), true),
            ("spiffe://plant.example/gateway/gw-1/module/runtimed".into(), true),
        ]
    );

    gateway.stop().await;
    gateway.start().await.unwrap();
    let again = gateway.status().await;
    assert!(again.issuing_ca_expires.is_some());
    assert_eq!((again.verdict, again.gateway_ca_expires), (joined.verdict, joined.gateway_ca_expires));
}

#[tokio::test]
async fn what_the_fleet_did_not_certify_is_refused() {
    let gateway = Gateway::started().await;
    let point = gateway.ca_point().await;
    let now = UnixTime::now();
    let good = gateway.enrolled().await;
    let certify = |root: &RootCa, point: &[u8], name: &str, lifetime, at| {
        let name = GatewayName::parse(name).unwrap();
        let issued = root.certify_gateway_ca(point, &name, lifetime, at).unwrap();
        Enrolled { gateway_ca: issued.chain_der[0].clone().into(), ..good.clone() }
    };
    let other_root = RootCa::create(&domain(), 3650 * DAY, now).unwrap();
    let elsewhere = TrustDomain::parse("other.example").unwrap();
    let foreign = RootCa::create(&elsewhere, 3650 * DAY, now).unwrap();
    let old_root = RootCa::create(&domain(), 3650 * DAY, now.minus(100 * DAY)).unwrap();
    drop(old_root);
    let other_point = Gateway::started().await.ca_point().await;
    let long = Check { name: "x".repeat(5000), passed: true, detail: String::new() };
    let with_verdict = |change: &dyn Fn(&mut edgewarden_protocol::enrol::Verdict)| {
        let mut changed = good.clone();
        change(&mut changed.verdict);
        changed
    };
    let with_ca = |der: Vec<u8>| Enrolled { gateway_ca: der.into(), ..good.clone() };
    let mut flipped = good.gateway_ca.0.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut longer = good.gateway_ca.0.clone();
    longer.push(0);

    for (name, reason, enrolled) in [
        (
            "another root",
            Reason::RequestInvalid,
            Enrolled {
                root: other_root.certificate_der().into(),
                ..certify(&other_root, &point, "gw-1", 30 * DAY, now)
            },
        ),
        (
            "another root's certificate under ours",
            Reason::RequestInvalid,
            certify(&other_root, &point, "gw-1", 30 * DAY, now),
        ),
        ("another trust domain", Reason::RequestInvalid, certify(&foreign, &point, "gw-1", 30 * DAY, now)),
        ("another name", Reason::EnrolName, certify(&gateway.root, &point, "gw-2", 30 * DAY, now)),
        ("another key", Reason::AttestCsr, certify(&gateway.root, &other_point, "gw-1", 30 * DAY, now)),
        ("the root itself", Reason::AttestCsr, with_ca(gateway.root.certificate_der().to_vec())),
        (
            "not a CA",
            Reason::AttestCsr,
            with_ca(gateway.root.server_certificate(&[], &[], DAY, now).unwrap().chain_der[0].clone()),
        ),
        ("a changed certificate", Reason::RequestInvalid, with_ca(flipped)),
        ("bytes after it", Reason::RequestInvalid, with_ca(longer)),
        ("no certificate", Reason::RequestInvalid, with_ca(Vec::new())),
        ("a large certificate", Reason::RequestInvalid, with_ca(vec![0x30; 20_000])),
        (
            "not valid yet",
            Reason::RequestInvalid,
            certify(&gateway.root, &point, "gw-1", 30 * DAY, now.plus(2 * DAY)),
        ),
        ("a failed verdict", Reason::RequestInvalid, with_verdict(&|v| v.state = VerdictState::Failed)),
        ("an unknown verdict", Reason::RequestInvalid, with_verdict(&|v| v.state = VerdictState::Unknown)),
        ("a long verdict", Reason::RequestInvalid, with_verdict(&|v| v.checks = vec![long.clone()])),
        ("many checks", Reason::RequestInvalid, with_verdict(&|v| v.checks = vec![v.checks[0].clone(); 300])),
    ] {
        assert_eq!(gateway.refused(accept(enrolled)).await, reason, "{name}");
        assert_eq!(gateway.status().await.verdict, None, "{name}");
    }
    gateway.ask(accept(good)).await.unwrap();
}

#[tokio::test]
async fn without_a_fleet_in_the_configuration_nobody_can_enrol_the_gateway() {
    let mut gateway = Gateway::new();
    gateway.config.fleet = None;
    gateway.start().await.unwrap();
    let enrolled = gateway.enrolled().await;
    assert_eq!(gateway.refused(accept(enrolled)).await, Reason::RequestInvalid);
}

#[tokio::test]
async fn an_older_certificate_does_not_replace_a_newer_one() {
    let gateway = Gateway::started().await;
    let older = gateway.enrolled_for(30 * DAY, UnixTime::now()).await;
    let newer =
        gateway.enrolled_for(30 * DAY, UnixTime::now().plus(std::time::Duration::from_secs(30))).await;
    gateway.ask(accept(older.clone())).await.unwrap();
    gateway.ask(accept(newer.clone())).await.unwrap();
    assert_eq!(gateway.refused(accept(older)).await, Reason::RequestInvalid);
    gateway.ask(accept(newer)).await.unwrap();
}

#[tokio::test]
async fn a_refused_renewal_closes_issuance_until_the_next_good_one() {
    let mut gateway = Gateway::started().await;
    let first = gateway.enrolled().await;
    gateway.ask(accept(first.clone())).await.unwrap();
    gateway.deploy(&common::document(1)).await;
    let socket = gateway.layout().workload_socket("runtimed");
    let refuse =
        |reason| Request::EnrolRefused(Refusal::new(reason, "PCR 4", "no reference has this kernel"));

    // What says nothing about the device changes nothing.
    for reason in [Reason::Busy, Reason::AttestNonce, Reason::EnrolName, Reason::Internal] {
        gateway.ask(refuse(reason)).await.unwrap();
        assert_eq!(gateway.status().await.verdict.unwrap().state, VerdictState::Fresh, "{reason}");
    }
    let mut following =
        edgewarden_workload_client::fetch_once(&socket).await.map(|context| context.id.clone());
    assert!(following.is_ok());

    gateway.ask(refuse(Reason::AttestReference)).await.unwrap();
    for round in ["at once", "after a restart"] {
        let status = gateway.status().await;
        let failed = status.verdict.unwrap();
        assert_eq!(failed.state, VerdictState::Failed, "{round}");
        assert!(failed.checks.iter().any(|check| !check.passed && check.detail.contains("PCR 4")));
        assert!(status.identities.iter().all(|identity| identity.expires.is_none()), "{round}");
        assert_eq!(status.issuing_ca_expires, None, "{round}");
        following = edgewarden_workload_client::fetch_once(&socket).await.map(|context| context.id.clone());
        let error = following.unwrap_err().to_string();
        assert!(error.contains("attest.failed"), "{error}");
        assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestFailed, "{round}");
        assert_eq!(gateway.refused(Request::Rotate { module: None }).await, Reason::AttestFailed, "{round}");
        let Reply::Snapshot(snapshot) = gateway.ask(Request::Watch { seen: 0 }).await.unwrap() else {
            panic!()
        };
        assert!(!snapshot.trusted, "{round}");
        gateway.stop().await;
        gateway.start().await.unwrap();
    }
    // The answer of before, sent again, heals nothing; a certificate that the fleet made since does.
    assert_eq!(gateway.refused(accept(first)).await, Reason::AttestFailed);
    let newer = gateway.enrolled_for(30 * DAY, UnixTime::now().plus(std::time::Duration::from_secs(5))).await;
    gateway.ask(accept(newer)).await.unwrap();
    assert_eq!(gateway.status().await.verdict.unwrap().state, VerdictState::Fresh);
    assert!(edgewarden_workload_client::fetch_once(&socket).await.is_ok());
}

#[tokio::test]
async fn a_root_that_is_no_longer_pinned_carries_nothing() {
    let mut gateway = Gateway::started().await;
    gateway.join().await;
    gateway.stop().await;
    let other = RootCa::create(&domain(), 3650 * DAY, UnixTime::now()).unwrap();
    let path = gateway.config.fleet.as_ref().unwrap().root.clone();
    std::fs::write(
        &path,
        edgewarden_names::pem::encode(edgewarden_names::pem::CERTIFICATE, other.certificate_der()),
    )
    .unwrap();
    gateway.start().await.unwrap();
    let status = gateway.status().await;
    assert_eq!((status.verdict, status.issuing_ca_expires), (None, None));
    assert!(status.refusals.iter().any(|(_, refusal)| refusal.reason == Reason::AttestRequired));
    assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestRequired);
}

#[tokio::test]
async fn an_expired_gateway_ca_issues_nothing_and_says_why() {
    let mut gateway = Gateway::started().await;
    let short = gateway.enrolled_for(std::time::Duration::from_secs(2), UnixTime::now()).await;
    gateway.ask(accept(short)).await.unwrap();
    let expired = common::until("the gateway CA's end", async || {
        gateway.ask(Request::Rotate { module: None }).await.err()
    });
    let expired = expired.await;
    assert_eq!(expired.reason, Reason::IdentityUnavailable);
    assert!(expired.rule.contains("expired"), "{}", expired.rule);
    gateway.stop().await;
    gateway.start().await.unwrap();
    let status = gateway.status().await;
    assert!(status.identities.iter().all(|identity| identity.expires.is_none()));
    // The queue on disk can still be read: only a failed verdict closes it.
    assert!(matches!(gateway.ask(Request::StorageKey).await.unwrap(), Reply::StorageKey(_)));
}

#[tokio::test]
async fn an_old_verdict_is_stale_and_still_counts() {
    let gateway = Gateway::started().await;
    let mut enrolled = gateway.enrolled().await;
    enrolled.verdict = verdict(VerdictState::Fresh);
    enrolled.verdict.expires = UnixTime::now().minus(DAY);
    gateway.ask(accept(enrolled)).await.unwrap();
    assert_eq!(gateway.status().await.verdict.unwrap().state, VerdictState::Stale);
    gateway.ask(Request::Rotate { module: None }).await.unwrap();
    assert_eq!(gateway_name().as_str(), "gw-1");
}
