//! A site's own CA, by the control socket: what is refused before and after anything was asked.

use crate::common;

use std::process::Command;
use std::time::Duration;

use common::{DAY, Gateway, gateway_name, verdict};
use edgewarden_ca::public_point;
use edgewarden_names::{Reason, UnixTime, pem};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::enrol::{Enrolled, VerdictState};
use edgewarden_protocol::est::{
    EstAuth, EstConfig, EstFailure, EstOperation, EstReply, EstRequest, EstState, HttpReply,
};

/// A gateway whose configuration names a site's CA: the root that others have as a fleet's.
fn at_a_site() -> Gateway {
    let mut gateway = Gateway::new();
    let fleet = gateway.config.fleet.take().unwrap();
    gateway.config.est = Some(EstConfig {
        url: "https://est.plant.example".into(),
        label: None,
        trust_anchors: fleet.root,
        timeout_seconds: 30,
        operator_keys: fleet.operator_keys,
        auth: EstAuth::Identity {},
    });
    gateway
}

async fn started() -> Gateway {
    let mut gateway = at_a_site();
    gateway.start().await.unwrap();
    gateway
}

fn reply(status: u16) -> HttpReply {
    HttpReply {
        status,
        content_type: Vec::new(),
        transfer_encoding: Vec::new(),
        retry_after: Vec::new(),
        body: Vec::new().into(),
    }
}

/// A certs-only message, by openssl, as a server sends it.
fn certificates(ders: &[Vec<u8>]) -> HttpReply {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.pem");
    std::fs::write(&file, pem::chain(ders)).unwrap();
    let mut openssl = Command::new("openssl");
    let output = openssl.args(["crl2pkcs7", "-nocrl", "-outform", "DER", "-certfile"]).arg(&file).output();
    let der = output.unwrap().stdout;
    HttpReply {
        content_type: vec!["application/pkcs7-mime; smime-type=certs-only".into()],
        body: base64::engine::general_purpose::STANDARD.encode(der).into_bytes().into(),
        ..reply(200)
    }
}

async fn est(gateway: &Gateway, request: EstRequest) -> EstReply {
    match gateway.ask(Request::Est(Box::new(request))).await.unwrap() {
        Reply::Est(reply) => *reply,
        other => panic!("{other:?}"),
    }
}

async fn refused(gateway: &Gateway, request: EstRequest) -> Reason {
    gateway.refused(Request::Est(Box::new(request))).await
}

async fn state(gateway: &Gateway) -> EstState {
    match est(gateway, EstRequest::State).await {
        EstReply::State(state) => state,
        other => panic!("{other:?}"),
    }
}

async fn ask(gateway: &Gateway, operation: EstOperation) -> Vec<u8> {
    match est(gateway, EstRequest::Ask { operation, csrattrs: reply(404) }).await {
        EstReply::Ask(asked) => asked.request.0,
        other => panic!("{other:?}"),
    }
}

/// Answer of a CA that gives what is asked for.
fn issued(gateway: &Gateway, csr: &[u8], now: UnixTime) -> Vec<u8> {
    let point = public_point(csr).unwrap();
    let issued = gateway.root.certify_gateway_ca(&point, &gateway_name(), 30 * DAY, now).unwrap();
    issued.chain_der[0].clone()
}

async fn answer(gateway: &Gateway, answer: HttpReply) -> EstReply {
    est(
        gateway,
        EstRequest::Answer { cacerts: certificates(&[gateway.root.certificate_der().to_vec()]), answer },
    )
    .await
}

async fn failed(gateway: &Gateway, reply: HttpReply) -> (Reason, bool) {
    match answer(gateway, reply).await {
        EstReply::Failed(failure) => (failure.refusal.reason, failure.transient),
        other => panic!("{other:?}"),
    }
}

fn handshake(length: usize) -> EstRequest {
    EstRequest::Handshake { transcript_hash: vec![7; length].into() }
}

#[tokio::test]
async fn without_a_site_in_the_configuration_nothing_is_signed_or_taken() {
    let gateway = Gateway::started().await;
    gateway.join().await;
    for request in [
        EstRequest::State,
        EstRequest::Ask { operation: EstOperation::Enroll, csrattrs: reply(404) },
        EstRequest::Answer { cacerts: reply(200), answer: reply(200) },
        handshake(32),
    ] {
        assert_eq!(refused(&gateway, request).await, Reason::EstConfig);
    }
    assert_eq!(gateway.status().await.est, None);
}

#[tokio::test]
async fn a_gateway_is_certified_without_a_verdict_and_its_key_signs_no_more_than_a_handshake() {
    let gateway = started().await;
    assert_eq!(refused(&gateway, handshake(32)).await, Reason::IdentityUnavailable, "nothing to show yet");
    assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestRequired);
    let csr = ask(&gateway, EstOperation::Enroll).await;
    // The CA knows the request by its bytes.
    assert_eq!(ask(&gateway, EstOperation::Enroll).await, csr);
    let certificate = issued(&gateway, &csr, UnixTime::now());
    let good = certificates(std::slice::from_ref(&certificate));
    assert!(matches!(answer(&gateway, good.clone()).await, EstReply::Enrolled(_)));
    let status = gateway.status().await;
    assert_eq!(status.verdict, None);
    assert!(status.est.unwrap().certified);
    gateway.ask(Request::StorageKey).await.unwrap();
    let socket = gateway.layout().workload_socket("runtimed");
    edgewarden_workload_client::fetch_once(&socket).await.unwrap();

    // The same answer again: nothing was asked.
    let again = EstRequest::Answer { cacerts: reply(200), answer: good };
    assert!(matches!(
        est(&gateway, again).await,
        EstReply::Failed(EstFailure { refusal, transient: false, .. }) if refusal.reason == Reason::RequestInvalid
    ));
    let signed = est(&gateway, handshake(32)).await;
    let EstReply::Signature(signature) = signed else { panic!("{signed:?}") };
    let content = [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        state(&gateway).await.point.0,
    );
    key.verify(&content, signature.as_slice()).unwrap();
    for length in [0, 31, 33, 64, 4096] {
        assert_eq!(refused(&gateway, handshake(length)).await, Reason::RequestInvalid, "{length}");
    }
    let events = gateway.events().await;
    for event in ["est.requested", "est.tried", "est.accepted", "est.handshake"] {
        assert!(events.iter().any(|one| one == event), "{event}: {events:?}");
    }
}

#[tokio::test]
async fn a_fleets_answer_does_not_certify_a_sites_gateway() {
    let gateway = started().await;
    let csr = ask(&gateway, EstOperation::Enroll).await;
    let enrolled = Enrolled {
        gateway_ca: issued(&gateway, &csr, UnixTime::now()).into(),
        root: gateway.root.certificate_der().into(),
        verdict: verdict(VerdictState::Fresh),
    };
    assert_eq!(gateway.refused(Request::EnrolAccept(Box::new(enrolled))).await, Reason::RequestInvalid);
    assert_eq!(state(&gateway).await.life, None);
}

#[tokio::test]
async fn answers_over_the_limits_are_not_looked_at() {
    let gateway = started().await;
    ask(&gateway, EstOperation::Enroll).await;
    let mut wrong = vec![
        HttpReply { body: vec![b'A'; 256 * 1024 + 1].into(), ..reply(200) },
        HttpReply { content_type: vec!["x".into(); 9], ..reply(200) },
        HttpReply { retry_after: vec!["1".repeat(1025)], ..reply(202) },
    ];
    for bad in wrong.drain(..) {
        for request in [
            EstRequest::Answer { cacerts: bad.clone(), answer: reply(200) },
            EstRequest::Answer { cacerts: reply(200), answer: bad.clone() },
            EstRequest::Ask { operation: EstOperation::Enroll, csrattrs: bad },
        ] {
            assert_eq!(refused(&gateway, request).await, Reason::RequestTooLarge);
        }
    }
}

#[tokio::test]
async fn a_renewal_needs_a_certificate_and_an_answer_a_request() {
    let gateway = started().await;
    let renewal = EstRequest::Ask { operation: EstOperation::Reenroll, csrattrs: reply(204) };
    assert!(matches!(est(&gateway, renewal).await, EstReply::Failed(EstFailure { transient: false, .. })));
    assert_eq!(failed(&gateway, reply(200)).await, (Reason::RequestInvalid, false));
    // What passes by itself keeps the request; what does not gives it up.
    let csr = ask(&gateway, EstOperation::Enroll).await;
    assert_eq!(failed(&gateway, reply(503)).await, (Reason::EstUnavailable, true));
    assert_eq!(ask(&gateway, EstOperation::Enroll).await, csr);
    let later = HttpReply { retry_after: vec!["60".into()], ..reply(202) };
    assert!(matches!(answer(&gateway, later).await, EstReply::Pending { after_seconds: 60 }));
    assert_eq!(state(&gateway).await.pending, Some(EstOperation::Enroll));
    assert_eq!(ask(&gateway, EstOperation::Enroll).await, csr);
    assert_eq!(failed(&gateway, reply(400)).await, (Reason::EstRejected, false));
    assert_eq!(state(&gateway).await.pending, None);
    assert_ne!(ask(&gateway, EstOperation::Enroll).await, csr);
}

#[tokio::test]
async fn any_bytes_for_an_answer_are_refused_and_change_nothing() {
    let gateway = started().await;
    let csr = ask(&gateway, EstOperation::Enroll).await;
    let certificate = issued(&gateway, &csr, UnixTime::now());
    let good = certificates(&[certificate]);
    let whole = good.body.0.clone();
    for step in 0..40 {
        let mut body = whole.clone();
        let at = step * body.len() / 40;
        body[at] = if body[at] == b'A' { b'B' } else { b'A' };
        body.truncate(if step % 2 == 0 { body.len() } else { at });
        ask(&gateway, EstOperation::Enroll).await;
        let (reason, _) = failed(&gateway, HttpReply { body: body.into(), ..good.clone() }).await;
        assert!(matches!(reason, Reason::EstAnswer | Reason::EstCertificate), "{step}: {reason}");
        assert_eq!(state(&gateway).await.life, None, "{step}");
    }
}

#[tokio::test]
async fn an_older_certificate_is_refused_and_the_newer_stays() {
    let gateway = started().await;
    let now = UnixTime::now();
    let csr = ask(&gateway, EstOperation::Enroll).await;
    let old = issued(&gateway, &csr, now);
    let new = issued(&gateway, &csr, now.plus(Duration::from_secs(30)));
    assert!(matches!(
        answer(&gateway, certificates(std::slice::from_ref(&new))).await,
        EstReply::Enrolled(_)
    ));
    ask(&gateway, EstOperation::Reenroll).await;
    assert_eq!(failed(&gateway, certificates(&[old])).await, (Reason::EstCertificate, false));
    assert_eq!(state(&gateway).await.chain[0].as_slice(), new);
}

#[tokio::test]
async fn what_is_on_disk_counts_under_its_own_certifier_only() {
    let mut gateway = started().await;
    let csr = ask(&gateway, EstOperation::Enroll).await;
    let good = certificates(&[issued(&gateway, &csr, UnixTime::now())]);
    assert!(matches!(answer(&gateway, good).await, EstReply::Enrolled(_)));
    gateway.stop().await;
    gateway.start().await.unwrap();
    assert!(gateway.status().await.gateway_ca_expires.is_some(), "as before");
    gateway.stop().await;

    // The same root, now as a fleet's: there is no verdict, so nothing is issued.
    let est = gateway.config.est.take().unwrap();
    gateway.config.fleet = Some(edgewarden_protocol::config::Fleet {
        url: "https://127.0.0.1:1".into(),
        root: est.trust_anchors.clone(),
        operator_keys: est.operator_keys.clone(),
    });
    gateway.start().await.unwrap();
    assert_eq!(gateway.status().await.gateway_ca_expires, None);
    assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestRequired);
    gateway.join().await;
    gateway.stop().await;

    // And back: the fleet's verdict is not the site's word.
    gateway.config.fleet = None;
    gateway.config.est = Some(est);
    gateway.start().await.unwrap();
    assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestRequired);
    assert_eq!(state(&gateway).await.life, None);
}
