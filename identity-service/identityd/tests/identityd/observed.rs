//! The audit log with its signed heads, and the metrics, through their own doors.

use crate::common;
use edgewarden_testkit::samples;

use std::os::unix::fs::PermissionsExt as _;

use common::{Gateway, until};
use edgewarden_audit::{Head, Keys, Query, Verifier, folder};
use edgewarden_ca::chain;
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::{ModuleName, Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{AuditEntry, Origin, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use edgewarden_testkit::samples::Samples;

async fn http(gateway: &Gateway, request: &str) -> String {
    let path = gateway.layout().identity_run().join(SOCKET);
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn samples(gateway: &Gateway) -> Samples {
    samples::scrape(&gateway.layout().identity_run().join(SOCKET)).await
}

fn near(value: Option<f64>, expected: f64, by: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() <= by)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_happened() {
    let gateway = Gateway::started().await;
    let before = samples(&gateway).await;
    assert!(near(before.get("verdict", &[("state", "unknown")]), 1.0, 0.0));
    assert_eq!(before.get("ca_expires_in_seconds", &[("ca", "gateway")]), None);
    assert!(near(before.get("certificates_issued_total", &[("kind", "svid")]), 0.0, 0.0));

    gateway.join().await;
    gateway.deploy(&common::document(1)).await;
    gateway.ask(Request::StorageKey).await.unwrap();
    for n in 0..3 {
        let refusal = Refusal::new(Reason::PolicyDenied, format!("leaf/{n}\"\n"), "no rule");
        gateway.ask(Request::Refused { origin: Origin::Enforcer, refusal }).await.unwrap();
    }
    assert_eq!(gateway.refused(Request::StartPrepare { permit: "x".into() }).await, Reason::StartPermit);

    let after = samples(&gateway).await;
    let month = 30.0 * 86400.0;
    for (name, labels, expected, by) in [
        ("verdict", &[("state", "fresh")][..], 1.0, 0.0),
        ("verdict", &[("state", "unknown")], 0.0, 0.0),
        ("ca_expires_in_seconds", &[("ca", "gateway")], month, 100.0),
        ("ca_expires_in_seconds", &[("ca", "issuing")], 8.0 * 86400.0, 100.0),
        ("svid_expires_in_seconds", &[("module", "runtimed")], 3600.0, 100.0),
        ("svid_expires_in_seconds", &[("module", "gatewayd")], 3600.0, 100.0),
        ("certificates_issued_total", &[("kind", "svid")], 2.0, 0.0),
        ("certificates_issued_total", &[("kind", "issuing_ca")], 1.0, 0.0),
        ("issuance_seconds_count", &[("kind", "svid")], 2.0, 0.0),
        ("refusals_total", &[("reason", "policy.denied")], 3.0, 0.0),
        ("refusals_total", &[("reason", "start.permit")], 1.0, 0.0),
        ("refusals_total", &[("reason", "mqtt.client_id")], 0.0, 0.0),
        ("policy_epoch", &[], 1.0, 0.0),
        ("renewal_problems", &[], 0.0, 0.0),
        ("clock_not_believed", &[], 0.0, 0.0),
        ("keystore_up", &[], 1.0, 0.0),
        ("keystore_waiting", &[], 0.0, 0.0),
        (
            "build_info",
            &[("version", env!("CARGO_PKG_VERSION")), ("hardware", "false"), ("dangerous", "false")],
            1.0,
            0.0,
        ),
    ] {
        assert!(
            near(after.get(name, labels), expected, by),
            "{name} {labels:?}: {:?}",
            after.get(name, labels)
        );
    }
    assert!(after.get("audit_sequence", &[]) > before.get("audit_sequence", &[]));
    assert_eq!(
        after.values.keys().filter(|(name, _)| name == "edgewarden_refusals_total").count(),
        Reason::ALL.len(),
        "each reason has its series from the start"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_socket_answers_one_question_and_is_closed_to_strangers() {
    let gateway = Gateway::started().await;
    let path = gateway.layout().identity_run().join(SOCKET);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        (&format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(10_000)), "431"),
    ] {
        let answer = http(&gateway, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    for (accept, kind) in [
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("text/plain", "text/plain; version=0.0.4"),
    ] {
        let (_, head, _) = samples::get(&path, "/metrics", accept).await;
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
    }
    assert_eq!(samples::health(&path).await, (200, "ok".into()));
    // Callers that say nothing hold a place each, for a few seconds, and nobody out for longer.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    drop(silent);
    samples(&gateway).await;
}

async fn keys(gateway: &Gateway) -> Keys {
    let Reply::AuditKey(key) = gateway.ask(Request::AuditKey).await.unwrap() else { panic!() };
    if let Some(certificate) = &key.certificate {
        assert_eq!(
            chain::facts(certificate.as_slice()).unwrap().point,
            key.point.0,
            "the certificate is for it"
        );
    }
    Keys::new([key.point.0])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_signed_by_the_gateways_key_and_judged_without_the_gateway() {
    let mut gateway = Gateway::started().await;
    gateway.join().await;
    let keys = keys(&gateway).await;
    let folder = gateway.layout().identity_state();
    let judge = |known: Option<Head>| folder::verify(&folder, || Verifier::new(keys.clone(), known.clone()));
    let first = until("a signed head", async || judge(None).ok()).await;
    assert_eq!(first.gateway.as_ref(), Some(&common::gateway_name()));

    // Another run goes on with the chain, and vouches for what the one before left unsigned.
    gateway.stop().await;
    gateway.start().await.unwrap();
    let second = until("another signed head", async || {
        judge(first.head.clone()).ok().filter(|r| r.heads > first.heads)
    });
    let second = second.await;
    assert!(second.head.as_ref().unwrap().sequence > first.head.as_ref().unwrap().sequence);
    gateway.stop().await;

    // A copy, cut off at the end of a line below what the newest head covers.
    let copy = tempfile::tempdir().unwrap();
    let file = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.to_string_lossy().contains("audit-")).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let signature = &first.head.as_ref().unwrap().signature;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let kept = lines.iter().position(|line| line.contains(signature)).unwrap() + 1;
    let cut = lines[..kept].concat();
    std::fs::write(copy.path().join(file.file_name().unwrap()), cut).unwrap();
    let judge =
        |known: Option<Head>| folder::verify(copy.path(), || Verifier::new(keys.clone(), known.clone()));
    judge(first.head.clone()).unwrap();
    let broken = judge(second.head.clone()).unwrap_err().to_string();
    assert!(broken.contains("its end was cut off"), "{broken}");
    let foreign =
        folder::verify(copy.path(), || Verifier::new(Keys::default(), None)).unwrap_err().to_string();
    assert!(foreign.contains("another key"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_found_by_time_and_module() {
    let gateway = Gateway::started().await;
    gateway.join().await;
    let ask = async |since: Option<UnixTime>, module: Option<&str>, last: u32| -> Vec<AuditEntry> {
        let module = module.map(|name| ModuleName::parse(name).unwrap());
        match gateway.ask(Request::AuditQuery { since, module, last }).await.unwrap() {
            Reply::Audit(entries) => entries,
            other => panic!("{other:?}"),
        }
    };
    let all = ask(None, None, 1000).await;
    assert!(all.len() > 4 && all.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    assert_eq!(ask(None, None, 2).await.len(), 2);
    assert!(ask(None, None, 0).await.is_empty());
    assert!(ask(Some(UnixTime::now().plus(common::DAY)), None, 1000).await.is_empty());
    assert_eq!(ask(Some(UnixTime(0)), None, 3).await.len(), 3);
    let runtimed = ask(None, Some("runtimed"), 1000).await;
    assert!(!runtimed.is_empty() && runtimed.iter().all(|entry| entry.subject.ends_with("/module/runtimed")));
    assert!(
        runtimed.iter().all(|entry| entry.event == "svid.issued" && entry.detail.ends_with("key issuing-ca"))
    );
    assert!(ask(None, Some("nobody"), 1000).await.is_empty());
    // The folder says the same as the daemon.
    let query = Query { since: None, module: Some(ModuleName::parse("runtimed").unwrap()), last: 1000 };
    assert_eq!(folder::query(&gateway.layout().identity_state(), &query).unwrap(), runtimed);
}
