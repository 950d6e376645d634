//! Stock clients, `mosquitto_pub` and `mosquitto_sub`, and a leaf device's way to its certificate.

use crate::common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use common::identityd::TOKEN;
use common::{POLICY, Site, domain, identity_of, leaf, module};
use edgewarden_names::{Reason, SpiffeId};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::Certificate;
use edgewarden_protocol::leaf::{ENROL_BYTES_MAX, ENROL_PATH, Enrol, RENEW_PATH, Renew, renewal_statement};
use edgewarden_svid::X509Context;
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::tls::{client_config, only, pinned_client_config};
use rustls::pki_types::CertificateDer;

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The program with the identity's files. The host name is not checked: who the server is says its SPIFFE ID, and
/// these clients know only its CA.
fn mosquitto(program: &str, site: &Site, id: &SpiffeId, more: &[&str]) -> Command {
    let [chain, key, ca] = site.pem_files(id);
    let name = id.as_str().rsplit('/').next().unwrap();
    let mut command = Command::new(program);
    command.args(["--insecure", "-V", "mqttv311", "-q", "1", "-i", name, "--cert"]).arg(chain);
    command.arg("--key").arg(key).arg("--cafile").arg(ca).args(more);
    command
}

fn publish(site: &Site, leaf_name: &str, topic: &str, message: &str) -> Output {
    let port = site.leaf_port.to_string();
    let more = ["-h", "127.0.0.1", "-p", &port, "-t", topic, "-m", message];
    mosquitto("mosquitto_pub", site, &leaf(leaf_name), &more).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_publish_and_subscribe() {
    let site = Site::start(POLICY).await;
    site.identityd.run(&[("analytics", 1, site.address(1))]);
    let (host, port) = (site.network.to_string(), site.module_port.to_string());
    let address = site.address(1).to_string();
    let more = ["-h", &host, "-p", &port, "-A", &address, "-t", "leaf/+/glucose", "-C", "2", "-v", "-c"];
    let mut subscriber = mosquitto("mosquitto_sub", &site, &module("analytics"), &more);
    let mut subscriber = KillOnDrop(subscriber.stdout(Stdio::piped()).spawn().unwrap());
    let denied = publish(&site, "sensor-1", "leaf/sensor-2/glucose", "13");
    assert!(!denied.status.success(), "a refused publication is told: {denied:?}");
    // Until the subscriber has its two; what is published before it has subscribed is for nobody.
    while subscriber.0.try_wait().unwrap().is_none() {
        let sent = publish(&site, "sensor-1", "leaf/sensor-1/glucose", "42");
        assert!(sent.status.success(), "{sent:?}");
    }
    let lines: Vec<String> =
        BufReader::new(subscriber.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["leaf/sensor-1/glucose 42", "leaf/sensor-1/glucose 42"]);
    assert!(subscriber.0.wait().unwrap().success());
}

/// A device that makes its key and request with openssl. Returns the key (PKCS#8) and the request, both DER.
fn openssl_device(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let run = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    run(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "device.pem"]);
    let key = run(&["pkcs8", "-topk8", "-nocrypt", "-in", "device.pem", "-outform", "DER"]);
    let request = run(&["req", "-new", "-key", "device.pem", "-subj", "/CN=ignored", "-outform", "DER"]);
    (key, request)
}

fn enrolment_client(site: &Site) -> Client {
    let root = CertificateDer::from(site.root.certificate_der().to_vec());
    let config = pinned_client_config(&root, &domain(), only(module("gatewayd"))).unwrap();
    Client::new(&format!("https://127.0.0.1:{}", site.enrol_port), config).unwrap()
}

async fn enrol(client: &Client, leaf: &str, token: &str, csr: Vec<u8>) -> Result<Certificate, HttpError> {
    let leaf = edgewarden_names::LeafName::parse(leaf).unwrap();
    let request = Enrol { leaf, token: token.into(), csr: Bytes(csr) };
    client.post_json(ENROL_PATH, &request, 64 * 1024, Duration::from_secs(10)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_gets_its_certificate_and_connects_with_it() {
    let site = Site::start(POLICY).await;
    let (key, csr) = openssl_device(site.folder.path());
    let client = enrolment_client(&site);
    let certificate = enrol(&client, "sensor-1", TOKEN, csr.clone()).await.unwrap();
    assert_eq!(certificate.root.as_slice(), site.root.certificate_der());
    let svid = X509Context {
        id: leaf("sensor-1"),
        chain_der: certificate.chain.into_iter().map(|bytes| bytes.0).collect(),
        key_pkcs8: key.into(),
        bundle_der: vec![certificate.root.0],
        trust_domain: domain(),
    };
    let identity = identity_of(svid);
    let mut sensor =
        common::client::Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &identity).await.unwrap();
    assert_eq!(sensor.connect("sensor-1", true).await, common::client::ACCEPTED);

    let refused = enrol(&client, "sensor-1", "bad", csr.clone()).await;
    assert!(matches!(&refused, Err(HttpError::Refused(r)) if r.reason == Reason::LeafToken), "{refused:?}");
    site.identityd.refused(Reason::LeafToken).await;
    let large = enrol(&client, "sensor-1", TOKEN, vec![0; ENROL_BYTES_MAX]).await;
    assert!(matches!(&large, Err(HttpError::Refused(r)) if r.reason == Reason::RequestTooLarge), "{large:?}");
    let elsewhere: Result<Certificate, _> = client.get_json("/", 1024, Duration::from_secs(10)).await;
    assert!(
        matches!(&elsewhere, Err(HttpError::Refused(r)) if r.reason == Reason::RequestInvalid),
        "{elsewhere:?}"
    );
    let other: Result<Certificate, _> = client
        .post_json(ENROL_PATH, &serde_json::json!({"leaf": "sensor-1"}), 1024, Duration::from_secs(10))
        .await;
    assert!(matches!(&other, Err(HttpError::Refused(r)) if r.reason == Reason::RequestInvalid), "{other:?}");
    // Who tries on and on is made to wait.
    let mut last = enrol(&client, "sensor-1", "bad", csr.clone()).await;
    for _ in 0..20 {
        last = enrol(&client, "sensor-1", "bad", csr.clone()).await;
    }
    assert!(matches!(&last, Err(HttpError::Refused(r)) if r.reason == Reason::Busy), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_renews_with_the_certificate_that_it_shows() {
    let site = Site::start(POLICY).await;
    let (_, csr) = openssl_device(site.folder.path());
    let svid = site.svid(&leaf("sensor-1"));
    let (own, key) = (svid.chain_der[0].clone(), svid.key_pkcs8.clone());
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key).unwrap();
    let proof = |csr: &[u8]| {
        let statement = renewal_statement(&own, csr);
        Bytes(key.sign(&SystemRandom::new(), &statement).unwrap().as_ref().to_vec())
    };
    let url = format!("https://127.0.0.1:{}", site.enrol_port);
    let identity = common::identity(svid, &site.root);
    let client = Client::new(&url, client_config(&identity, only(module("gatewayd"))).unwrap()).unwrap();
    let renew = async |client: &Client, request: &Renew| -> Result<Certificate, HttpError> {
        client.post_json(RENEW_PATH, request, 64 * 1024, Duration::from_secs(10)).await
    };
    let good = Renew { proof: proof(&csr), csr: Bytes(csr.clone()) };
    let renewed = renew(&client, &good).await.unwrap();
    let facts = edgewarden_ca::chain::facts(renewed.chain[0].as_slice()).unwrap();
    assert_eq!(facts.uris, [leaf("sensor-1").as_str()]);
    let refused = |answer: Result<Certificate, HttpError>| match answer {
        Err(HttpError::Refused(refusal)) => refusal.reason,
        other => panic!("{other:?}"),
    };
    // Who shows no certificate, or has another's proof, gets none.
    assert_eq!(refused(renew(&enrolment_client(&site), &good).await), Reason::LeafRenewal);
    let other = Renew { proof: proof(b"another request"), csr: Bytes(csr.clone()) };
    assert_eq!(refused(renew(&client, &other).await), Reason::LeafRenewal);
    let large = Renew { proof: proof(&csr), csr: Bytes(vec![0; ENROL_BYTES_MAX]) };
    assert_eq!(refused(renew(&client, &large).await), Reason::RequestTooLarge);
    site.identityd.refused(Reason::LeafRenewal).await;
}
