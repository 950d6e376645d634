//! The client against an EST server over TLS: enrolment, renewal, waiting, and every way in which a server goes wrong.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::elsewhere;
use edgewarden_est::{EnrolledChain, EstError, Names, Profile, Severity, Subject};
use edgewarden_est_client::{Client, ClientIdentity, Key};
use edgewarden_names::Reason;
use edgewarden_protocol::est::EstAuth;
use edgewarden_testkit::est::{Asked, Server, Site, Told, standard};

const PATIENCE: Duration = Duration::from_secs(30);
const GATEWAY_CA: Profile = Profile::CertificateAuthority { path_length: 1 };

fn subject(profile: Profile) -> Subject {
    let names = Names {
        common_name: "gw-1".into(),
        dns: vec!["gw-1.clinic.example".into()],
        uris: vec!["spiffe://clinic.example".into()],
        addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
    };
    Subject::new(&names, profile).unwrap()
}

fn client(site: &Site, server: &Server, auth: EstAuth) -> Client {
    Client::new(&site.config(server.port, auth)).unwrap()
}

async fn standard_server(site: &Arc<Site>) -> Server {
    let own = Arc::clone(site);
    Server::start(site, move |asked| standard(&own, asked)).await
}

async fn enroll(client: &Client) -> Result<EnrolledChain, EstError> {
    let key: Key = elsewhere();
    client.enroll(&key, &subject(Profile::EndEntity), PATIENCE).await
}

#[tokio::test]
async fn a_first_certificate_by_password_is_one_that_openssl_verifies() {
    let site = Arc::new(Site::new());
    let server = standard_server(&site).await;
    let client = client(&site, &server, site.password("correct horse"));
    for profile in [Profile::EndEntity, GATEWAY_CA] {
        let key = elsewhere();
        let chain = client.enroll(&(Arc::clone(&key) as Key), &subject(profile), PATIENCE).await.unwrap();
        assert_eq!(chain.point(), key.point());
        assert_eq!(chain.certificates().len(), 2);
        site.verify(chain.certificates());
    }
    assert_eq!(server.operations()[..3], ["csrattrs", "cacerts", "simpleenroll"]);
    for asked in server.log() {
        let expected =
            (asked.operation() != "cacerts").then(|| "Basic Z2F0ZXdheTpjb3JyZWN0IGhvcnNl".to_owned());
        assert_eq!(asked.authorization, expected, "{}", asked.path);
    }
    // The request as openssl reads it.
    let log = server.log();
    let request = log.iter().find(|asked| asked.operation() == "simpleenroll").unwrap();
    assert_eq!(request.content_type.as_deref(), Some("application/pkcs10"));
    assert_eq!(request.encoding.as_deref(), Some("base64"));
    let text = site.describe(&request.csr());
    for expected in [
        "Subject: CN = gw-1",
        "NIST CURVE: P-256",
        "ecdsa-with-SHA256",
        "DNS:gw-1.clinic.example, URI:spiffe://clinic.example, IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let ca = log.iter().rfind(|asked| asked.operation() == "simpleenroll").unwrap();
    let text = site.describe(&ca.csr());
    assert!(text.contains("CA:TRUE, pathlen:1") && text.contains("Certificate Sign"), "{text}");
}

#[tokio::test]
async fn a_renewal_shows_the_certificate_that_it_renews_and_asks_for_the_same_names() {
    let site = Arc::new(Site::new());
    let own = Arc::clone(&site);
    let server = Server::start(&site, move |asked| match (asked.operation(), &asked.shown) {
        ("simpleenroll" | "simplereenroll", None) => Told::status(401),
        _ => standard(&own, asked),
    })
    .await;
    let client = client(&site, &server, site.device());
    let (first, second): (Key, Key) = (elsewhere(), elsewhere());
    let enrolled = client.enroll(&first, &subject(Profile::EndEntity), PATIENCE).await.unwrap();
    // The same key, then another.
    let renewed = client.reenroll(&enrolled, &first, &first, PATIENCE).await.unwrap();
    let rekeyed = client.reenroll(&renewed, &first, &second, PATIENCE).await.unwrap();
    assert_eq!(renewed.point(), enrolled.point());
    assert_ne!(rekeyed.point(), enrolled.point());
    site.verify(rekeyed.certificates());
    let log = server.log();
    let shown: Vec<_> =
        log.iter().filter(|asked| asked.method == "POST").map(|asked| asked.shown.clone()).collect();
    let (device, enrolled, renewed) =
        (site.der("device.pem"), enrolled.certificates()[0].clone(), renewed.certificates()[0].clone());
    assert_eq!(shown, [Some(device), Some(enrolled), Some(renewed)]);
    let last = log.iter().rfind(|asked| asked.operation() == "simplereenroll").unwrap();
    let text = site.describe(&last.csr());
    assert!(
        text.contains("Subject: CN = gw-1") && text.contains("DNS:gw-1.clinic.example, URI:spiffe"),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_of_another_key_is_not_shown() {
    let site = Arc::new(Site::new());
    let server = standard_server(&site).await;
    let client = client(&site, &server, EstAuth::Identity {});
    let (key, other): (Key, Key) = (elsewhere(), elsewhere());
    let enrolled = client.enroll(&key, &subject(Profile::EndEntity), PATIENCE).await.unwrap();
    let before = server.log().len();
    let error = client.reenroll(&enrolled, &other, &other, PATIENCE).await.unwrap_err();
    assert_eq!(error.reason(), Reason::EstConfig);
    assert_eq!(server.log().len(), before);
    // With its own key it is, for any operation.
    let identity = ClientIdentity::enrolled(&enrolled, key).unwrap();
    client.with_identity(identity).unwrap().cacerts().await.unwrap();
    assert_eq!(server.log().last().unwrap().shown.as_ref(), enrolled.certificates().first());
}

#[tokio::test]
async fn a_label_is_part_of_each_path() {
    let site = Arc::new(Site::new());
    let server = standard_server(&site).await;
    let mut config = site.config(server.port, site.password("x"));
    config.label = Some("gateways".into());
    enroll(&Client::new(&config).unwrap()).await.unwrap();
    assert!(server.log().iter().all(|asked| asked.path.starts_with("/.well-known/est/gateways/")));
}

#[tokio::test]
async fn what_the_ca_asks_for_is_read_before_a_key_signs() {
    let site = Arc::new(Site::new());
    let own = Arc::clone(&site);
    // challengePassword: linking.
    let wishes = common::tlv(0x30, &common::tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07]));
    let server = Server::start(&site, move |asked| match asked.operation() {
        "csrattrs" => Told::encoded("application/csrattrs", &wishes),
        _ => standard(&own, asked),
    })
    .await;
    let error = enroll(&client(&site, &server, site.password("x"))).await.unwrap_err();
    assert_eq!((error.reason(), error.severity), (Reason::EstAttributes, Severity::Fatal));
    assert_eq!(server.operations(), ["csrattrs"]);
}

#[tokio::test]
async fn less_patience_than_the_ca_wants_is_told_with_the_time_to_wait() {
    let site = Arc::new(Site::new());
    let own = Arc::clone(&site);
    let server = Server::start(&site, move |asked| match asked.operation() {
        "simpleenroll" => Told::status(202).header("retry-after", "1"),
        _ => standard(&own, asked),
    })
    .await;
    let client = client(&site, &server, site.password("x"));
    let key: Key = elsewhere();
    let error = client.enroll(&key, &subject(Profile::EndEntity), Duration::from_secs(1)).await.unwrap_err();
    let later = Severity::Transient { retry_after: Some(edgewarden_est::wire::RETRY_AFTER_MIN) };
    assert_eq!((error.reason(), error.severity), (Reason::EstPending, later));
}

#[tokio::test]
async fn with_patience_the_same_request_is_sent_until_it_is_decided() {
    let site = Arc::new(Site::new());
    let (own, count) = (Arc::clone(&site), AtomicU32::new(0));
    let server = Server::start(&site, move |asked| match asked.operation() {
        "simpleenroll" if count.fetch_add(1, Ordering::Relaxed) == 0 => {
            Told::status(202).header("retry-after", "0")
        }
        _ => standard(&own, asked),
    })
    .await;
    enroll(&client(&site, &server, site.password("x"))).await.unwrap();
    let requests: Vec<Asked> =
        server.log().into_iter().filter(|asked| asked.operation() == "simpleenroll").collect();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
}

type Wrong = Box<dyn Fn(&Site, &Asked) -> Told + Send + Sync>;

#[tokio::test]
async fn servers_that_go_wrong_are_refused() {
    let site = Arc::new(Site::new());
    let (stranger, expired) = (Site::new(), site.der("device.pem"));
    let elsewhere = stranger.der("issuing.pem");
    let says = |status: u16| -> Wrong { Box::new(move |_, _| Told::status(status)) };
    let cases: Vec<(&str, Wrong, Reason, bool)> = vec![
        ("401", says(401), Reason::EstAuthorization, true),
        ("403", says(403), Reason::EstAuthorization, true),
        ("404", says(404), Reason::EstRejected, true),
        ("413", says(413), Reason::EstRejected, true),
        ("500", says(500), Reason::EstUnavailable, false),
        (
            "a redirect",
            Box::new(|_, asked| Told::status(307).header("location", &format!("/elsewhere{}", asked.path))),
            Reason::EstRejected,
            true,
        ),
        (
            "an HTML error page",
            Box::new(|_, _| {
                let mut told = Told::status(200).header("content-type", "text/html");
                told.body = b"<html>maintenance</html>".to_vec();
                told
            }),
            Reason::EstAnswer,
            true,
        ),
        (
            "a flood",
            Box::new(|_, _| {
                let mut told = Told::status(200).header("content-type", "application/pkcs7-mime");
                told.body = vec![b'A'; 300 * 1024];
                told
            }),
            Reason::EstAnswer,
            true,
        ),
        ("202 for ever", Box::new(|_, _| Told::status(202)), Reason::EstAnswer, true),
        (
            "a certificate of another key",
            { Box::new(move |_, _| Told::certificates(&[expired.clone()])) },
            Reason::EstCertificate,
            true,
        ),
        (
            "a signed message",
            Box::new(|_, _| {
                let mut message = common::Message::of(&[common::tlv(0x30, &[])]);
                message.signers = common::tlv(0x31, &common::tlv(0x30, &[]));
                Told::encoded("application/pkcs7-mime", &message.der())
            }),
            Reason::EstAnswer,
            true,
        ),
        (
            "another site's CA",
            Box::new(move |_, asked| {
                let issued = stranger.issue(&asked.csr(), 30);
                Told::certificates(&[issued, elsewhere.clone()])
            }),
            Reason::EstCertificate,
            true,
        ),
        (
            "a certificate that has ended",
            Box::new(|site, asked| {
                let issued = site.issue(&asked.csr(), 0);
                // A certificate of no days ends in the second in which it begins.
                std::thread::sleep(Duration::from_millis(1100));
                Told::certificates(&[issued])
            }),
            Reason::EstCertificate,
            true,
        ),
    ];
    for (name, wrong, reason, fatal) in cases {
        let own = Arc::clone(&site);
        let server = Server::start(&site, move |asked| match asked.operation() {
            "simpleenroll" => wrong(&own, asked),
            _ => standard(&own, asked),
        })
        .await;
        let error = enroll(&client(&site, &server, site.password("x"))).await.expect_err(name);
        assert_eq!((error.reason(), error.severity == Severity::Fatal), (reason, fatal), "{name}: {error}");
        let enrolments = server.operations().into_iter().filter(|operation| operation == "simpleenroll");
        assert_eq!(enrolments.count(), 1, "{name}: asked once, and nobody else");
        assert!(server.log().iter().all(|asked| !asked.path.starts_with("/elsewhere")), "{name}");
    }
}

#[tokio::test]
async fn a_server_that_never_ends_its_answer_is_left() {
    let site = Site::new();
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\nContent-Length: 100000\r\n\r\nAAAA"[..],
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"",
    ] {
        let server = Server::hanging(&site, bytes).await;
        let mut config = site.config(server.port, site.password("x"));
        config.timeout_seconds = 1;
        let error = Client::new(&config).unwrap().cacerts().await.unwrap_err();
        let expected = (Reason::EstUnavailable, Severity::Transient { retry_after: None });
        assert_eq!((error.reason(), error.severity), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn a_server_that_the_anchors_or_the_url_do_not_name_learns_nothing() {
    let (site, stranger) = (Arc::new(Site::new()), Site::new());
    let server = standard_server(&site).await;
    // Another root.
    let mut config = site.config(server.port, site.password("secret"));
    config.trust_anchors = stranger.path("root.pem");
    let error = enroll(&Client::new(&config).unwrap()).await.unwrap_err();
    assert_eq!((error.reason(), error.severity), (Reason::EstUntrusted, Severity::Fatal));
    // Another name: the certificate has `localhost` and 127.0.0.1.
    let own = Arc::clone(&site);
    let misnamed = Server::start_on("127.0.0.2", &site, move |asked| standard(&own, asked)).await;
    let mut config = site.config(misnamed.port, site.password("secret"));
    config.url = format!("https://127.0.0.2:{}", misnamed.port);
    let error = enroll(&Client::new(&config).unwrap()).await.unwrap_err();
    assert_eq!((error.reason(), error.severity), (Reason::EstUntrusted, Severity::Fatal));
    assert!(misnamed.log().is_empty());
    config.url = format!("https://127.0.0.1:{}", server.port);
    assert!(server.log().is_empty());
    enroll(&Client::new(&config).unwrap()).await.unwrap();
    // Nobody there at all.
    drop(server);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let error = enroll(&Client::new(&config).unwrap()).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.severity),
        (Reason::EstUnavailable, Severity::Transient { retry_after: None })
    );
}

#[tokio::test]
async fn a_server_that_does_not_accept_our_certificate_is_asked_nothing() {
    let (site, stranger) = (Arc::new(Site::new()), Site::new());
    let server = standard_server(&site).await;
    let error = enroll(&client(&site, &server, stranger.device())).await.unwrap_err();
    // In TLS 1.3 the server's word comes after we have begun to send; a server that hangs up at once may lose it.
    assert!(matches!(error.reason(), Reason::EstUntrusted | Reason::EstUnavailable), "{error}");
    assert!(server.log().is_empty());
}

/// A key that is out of order, as one in a TPM may be for a while.
struct Broken;

impl edgewarden_ca::CaSigner for Broken {
    fn public_point(&self) -> Result<Vec<u8>, edgewarden_ca::SignError> {
        Ok(elsewhere().point())
    }

    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, edgewarden_ca::SignError> {
        Err(edgewarden_ca::SignError::new(std::io::Error::other("the TPM is busy")))
    }
}

/// A key that signs as another than it shows.
struct Impostor(Arc<edgewarden_testkit::Key>);

impl edgewarden_ca::CaSigner for Impostor {
    fn public_point(&self) -> Result<Vec<u8>, edgewarden_ca::SignError> {
        Ok(elsewhere().point())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, edgewarden_ca::SignError> {
        edgewarden_ca::CaSigner::sign(&*self.0, message)
    }
}

#[tokio::test]
async fn a_key_that_does_not_sign_sends_nothing() {
    let site = Arc::new(Site::new());
    let server = standard_server(&site).await;
    let client = client(&site, &server, site.password("x"));
    for key in [Arc::new(Broken) as Key, Arc::new(Impostor(elsewhere()))] {
        let error = client.enroll(&key, &subject(Profile::EndEntity), PATIENCE).await.unwrap_err();
        let expected = (Reason::IdentityUnavailable, Severity::Transient { retry_after: None });
        assert_eq!((error.reason(), error.severity), expected);
    }
    assert!(!server.operations().contains(&"simpleenroll".to_owned()));
}

#[tokio::test]
async fn cacerts_are_read_and_believed_only_as_far_as_they_chain() {
    let (site, stranger) = (Arc::new(Site::new()), Site::new());
    let foreign = stranger.der("root.pem");
    let (own, sent) = (Arc::clone(&site), foreign.clone());
    let server = Server::start(&site, move |_| {
        Told::certificates(&[own.der("root.pem"), own.der("issuing.pem"), sent.clone()])
    })
    .await;
    let client = client(&site, &server, EstAuth::Identity {});
    let bag = client.cacerts().await.unwrap();
    assert_eq!(bag.certificates().count(), 3);
    let trusted = bag.trusted(client.anchors(), edgewarden_names::UnixTime::now());
    assert_eq!(trusted.len(), 2);
    assert!(!trusted.contains(&foreign.as_slice()));
}
