//! The sensor enrols and publishes; each thing that a false gateway may try is refused.

use crate::common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Broker, GATEWAY, Program, Said, certify, identity, issue, root, trace};
use edgewarden_testkit::Authority;
use glucose_monitor::leaf::{Enrolment, enrol, load};
use glucose_monitor::mtls::server_config;
use glucose_monitor::reading::Reading;
use glucose_monitor::sensor::{Run, run};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers one request; `answer` makes the reply from the request's body.
async fn gateway(
    root: &Authority,
    id: &str,
    status: &'static str,
    answer: impl Fn(&Value) -> String + Send + 'static,
) -> String {
    let mut config = server_config(identity(root, id), Box::new(|_| true)).unwrap();
    // A device that enrols has no certificate yet.
    let own = issue(root, id);
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.key);
    config = rustls::ServerConfig::builder_with_provider(Arc::clone(config.crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain.into_iter().map(Into::into).collect(), key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
        let mut request = Vec::new();
        let body = loop {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).await.unwrap();
            request.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&request);
            assert!(text.starts_with("POST /v1/leaf/enrol HTTP/1.1\r\n"), "{text}");
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
            if let Ok(body) = serde_json::from_str::<Value>(&body) {
                break body;
            }
        };
        let body = answer(&body);
        let reply = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(reply.as_bytes()).await;
        let _ = stream.shutdown().await;
    });
    address
}

fn gatewayd() -> String {
    format!("{GATEWAY}/module/gatewayd")
}

fn enrolment(folder: &Path, gateway: String, root: &Authority) -> Enrolment {
    let pem = STANDARD.encode(&root.der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
    std::fs::write(folder.join("fleet.pem"), pem).unwrap();
    Enrolment {
        gateway,
        leaf: "sensor-1".into(),
        token: "once".into(),
        trust_domain: "clinic.example".into(),
        root: folder.join("fleet.pem"),
        dir: folder.join("device"),
    }
}

/// An honest answer with another ID for the device, or another root named.
fn certifying(root: Arc<Authority>, id: String, named: &Authority) -> Box<dyn Fn(&Value) -> String + Send> {
    let named = STANDARD.encode(&named.der);
    Box::new(move |asked| {
        assert_eq!((&asked["leaf"], &asked["token"]), (&json!("sensor-1"), &json!("once")));
        let csr = STANDARD.decode(asked["csr"].as_str().unwrap()).unwrap();
        json!({"chain": [STANDARD.encode(certify(&root, &csr, &id))], "root": named}).to_string()
    })
}

#[tokio::test]
async fn a_sensor_enrols_and_publishes_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let root = Arc::new(root());
    let id = format!("{GATEWAY}/leaf/sensor-1");
    let address =
        gateway(&root, &gatewayd(), "200 OK", certifying(Arc::clone(&root), id.clone(), &root)).await;
    enrol(&enrolment(folder.path(), address, &root)).await.unwrap();
    let device = folder.path().join("device");
    for file in ["key.pem", "chain.pem", "root.pem"] {
        let mode = std::fs::metadata(device.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(load(&device).unwrap().id.to_string(), id);

    let mut broker = Broker::start(&root, |topic| topic == "leaf/sensor-1/glucose").await;
    let arguments = |topic: Option<&str>| Run {
        gateway: broker.address.clone(),
        dir: device.clone(),
        trace: trace("adolescent-001.csv").into(),
        speed: 0.0,
        limit: Some(500),
        topic: topic.map(Into::into),
        every: 0,
    };
    let all = arguments(None);
    let foreign = arguments(Some("leaf/sensor-2/glucose"));
    run(&all).await.unwrap();
    assert_eq!(broker.next().await, Said::Connect("sensor-1".into()));
    // The trace has 480 readings, and begins anew.
    for number in 0..500 {
        let Said::Publish(topic, payload) = broker.next().await else { panic!("not a reading") };
        assert_eq!(topic, "leaf/sensor-1/glucose");
        let reading = Reading::parse(&payload).unwrap();
        assert_eq!(reading.patient, "adolescent-001");
        if number == 0 || number == 480 {
            assert_eq!(reading.sampled, "2026-01-12T06:00");
        }
    }
    // A gateway that refuses closes the connection: the sensor says so and ends.
    let error = run(&foreign).await.unwrap_err().to_string();
    assert!(error.contains("closes the connection"), "{error}");
}

#[tokio::test]
async fn a_false_gateway_is_refused() {
    let (root, stranger) = (Arc::new(root()), Arc::new(root()));
    let own = || format!("{GATEWAY}/leaf/sensor-1");
    let honest = |root: &Arc<Authority>| certifying(Arc::clone(root), own(), root);
    for (what, address) in [
        ("another root", gateway(&stranger, &gatewayd(), "200 OK", honest(&stranger)).await),
        (
            "another module",
            gateway(&root, &format!("{GATEWAY}/module/analytics"), "200 OK", honest(&root)).await,
        ),
        ("another trust domain", {
            let id = "spiffe://other.example/gateway/gw-1/module/gatewayd";
            gateway(&root, id, "200 OK", honest(&root)).await
        }),
        ("a deeper path", gateway(&root, &format!("{}/x", gatewayd()), "200 OK", honest(&root)).await),
        ("another root named", {
            let answer = certifying(Arc::clone(&root), own(), &stranger);
            gateway(&root, &gatewayd(), "200 OK", answer).await
        }),
        ("a certificate for another leaf", {
            let answer = certifying(Arc::clone(&root), format!("{GATEWAY}/leaf/sensor-2"), &root);
            gateway(&root, &gatewayd(), "200 OK", answer).await
        }),
        ("a certificate for another key", {
            let other = STANDARD.encode(&issue(&root, &own()).chain[0]);
            let der = STANDARD.encode(&root.der);
            let answer = move |_: &Value| json!({"chain": [other], "root": der}).to_string();
            gateway(&root, &gatewayd(), "200 OK", answer).await
        }),
        ("no certificate", {
            let der = STANDARD.encode(&root.der);
            let answer = move |_: &Value| json!({"chain": [], "root": der}).to_string();
            gateway(&root, &gatewayd(), "200 OK", answer).await
        }),
        ("an endless answer", gateway(&root, &gatewayd(), "200 OK", |_| "x".repeat(1 << 20)).await),
        ("not JSON", gateway(&root, &gatewayd(), "200 OK", |_| "yes".into()).await),
        ("a refusal", {
            let refusal = |_: &Value| r#"{"reason":"leaf.token","subject":"sensor-1","rule":"used"}"#.into();
            gateway(&root, &gatewayd(), "403 Forbidden", refusal).await
        }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = enrol(&enrolment(folder.path(), address, &root)).await.expect_err(what).to_string();
        assert!(!folder.path().join("device/key.pem").exists(), "{what}: a key was kept");
        assert!(what != "a refusal" || error.contains("leaf.token"), "{error}");
    }
}

/// The program as the story calls it.
#[tokio::test]
async fn the_program_fails_without_an_enrolment() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    let trace = trace("adult-001.csv");
    let arguments = ["run", "--gateway", "127.0.0.1:1", "--dir", &dir, "--trace", &trace, "--speed", "0"];
    assert!(!Program::start(env!("CARGO_BIN_EXE_sensor"), &[], &arguments).ended().await);
}

#[test]
fn a_renewal_is_signed_as_the_gateway_checks_it() {
    let (own, csr) = ([0x30, 1, 2, 3], [0x30, 9, 9]);
    let expected = edgewarden_protocol::leaf::renewal_statement(&own, &csr);
    assert_eq!(glucose_monitor::leaf::renewal_statement(&own, &csr).unwrap(), expected);
}
