//! The IoT Edge workload API as a module finds it: whose it is, what it gives and what it does not.

use crate::common;

use common::container::{Container, Job};
use common::iotedge::{Running, Site, get, parse, post};
use edgewarden_names::{Reason, Refusal, UnixTime, pem};
use edgewarden_protocol::control::Request;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// `value` and `vector` in base64.
const VALUE: &str = "dmFsdWU=";
const VECTOR: &str = "dmVjdG9y";

#[expect(clippy::needless_pass_by_value, reason = "answers are made where they are judged")]
fn refused(answer: (u16, Value), status: u16, reason: Reason) {
    assert_eq!((answer.0, &answer.1["reason"]), (status, &json!(reason)), "{}", answer.1);
    assert!(answer.1["message"].is_string());
}

/// The DNS and URI names of the first certificate, and when it ends.
fn names(answer: &Value) -> (Vec<String>, u64) {
    let chain = pem::all(answer["certificate"].as_str().unwrap(), pem::CERTIFICATE).unwrap();
    assert_eq!(chain.len(), 3, "leaf, issuing CA, gateway CA");
    let leaf = X509Certificate::from_der(&chain[0]).unwrap().1;
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.iter();
    let names = names
        .map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => (*name).to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    (names, leaf.validity().not_after.timestamp().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_gets_what_azures_sdks_ask_for() {
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let (status, list) = alerts.get("/modules");
    assert_eq!((status, list["modules"].as_array().unwrap().len()), (200, 1), "its own module only");
    assert_eq!(list["modules"][0]["name"], "alerts");
    let (status, bundle) = alerts.get("/trust-bundle");
    let root = pem::one(bundle["certificate"].as_str().unwrap(), pem::CERTIFICATE).unwrap();
    assert_eq!((status, root.as_slice()), (200, site.gateway.root.certificate_der()));

    let (status, digest) = alerts.sign("primary", VALUE);
    assert_eq!((status, digest["digest"].as_str().unwrap().len()), (200, 44));
    assert_eq!(alerts.sign("primary", VALUE).1, digest, "the same value and key give the same digest");
    assert_ne!(alerts.sign("secondary", VALUE).1, digest);
    assert_ne!(alerts.sign("primary", VECTOR).1, digest);

    let (first, second) = (alerts.encrypt(VALUE, VECTOR), alerts.encrypt(VALUE, VECTOR));
    assert_ne!(first, second, "the caller's vector is not the nonce");
    for ciphertext in [first, second] {
        assert_eq!(alerts.decrypt(&ciphertext, VECTOR), (200, json!({"plaintext": VALUE})));
    }

    for (asked, expected) in [("alerts", "alerts"), ("Hub.Plant.Example", "hub.plant.example")] {
        let (status, certificate) = alerts.own("certificate/server", &json!({"commonName": asked}));
        assert_eq!(status, 201, "{certificate}");
        let id = "spiffe://plant.example/gateway/gw-1/module/alerts";
        assert_eq!(names(&certificate).0, [id, expected]);
        assert_eq!(certificate["privateKey"]["type"], "key");
        pem::one(certificate["privateKey"]["bytes"].as_str().unwrap(), pem::PRIVATE_KEY).unwrap();
    }
    let (status, certificate) = alerts.post("/modules/alerts/certificate/identity", &json!({}));
    assert_eq!((status, names(&certificate).0.len()), (201, 1), "no DNS name");
    assert_eq!(site.audited("iotedge.certificate").await.len(), 3);
    assert_eq!(site.audited("iotedge.keys_opened").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_ends_when_it_is_asked_to_but_never_later_than_ours_do() {
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let now = UnixTime::now().0;
    let identity =
        |date: &str| alerts.post("/modules/alerts/certificate/identity", &json!({ "expiration": date }));
    let (status, far) = identity("2126-01-01T00:00:00Z");
    let until = names(&far).1;
    assert!(status == 201 && until > now && until <= now + 3700, "an hour, not a century: {until}");
    let rfc3339 = |seconds: u64| {
        let at = i64::try_from(seconds).unwrap();
        x509_parser::time::ASN1Time::from_timestamp(at).unwrap().to_datetime()
    };
    let soon = rfc3339(now + 600);
    let text = format!("{}T{:02}:{:02}:{:02}Z", soon.date(), soon.hour(), soon.minute(), soon.second());
    let (_, near) = identity(&text);
    assert_eq!((names(&near).1, near["expiration"].as_str().unwrap()), (now + 600, text.as_str()));
    refused(identity("2020-01-01T00:00:00Z"), 400, Reason::RequestInvalid);
    refused(identity("never"), 400, Reason::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_granted_get_no_certificate() {
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    for name in [
        "analytics",
        "gateway",
        "gw-1",
        "gw-1.plant.example",
        "plant.example",
        "hub",
        "hub.plant.example.",
        "hub.plant.example\0",
        " hub.plant.example",
        "*.plant.example",
        "x.hub.plant.example",
        "localhost",
        "127.0.0.1",
        "",
    ] {
        let answer = alerts.own("certificate/server", &json!({ "commonName": name }));
        refused(answer, 403, Reason::IotedgeName);
    }
    assert!(site.audited("iotedge.certificate").await.is_empty());
    let told = common::until("the audit log", async || {
        Some(site.audited("refused").await).filter(|told| !told.is_empty())
    });
    assert!(told.await[0].1.contains("iotedge.name"));
    // What is granted to one is not to another.
    let analytics = site.start("analytics").await;
    let hub = json!({"commonName": "hub.plant.example"});
    refused(analytics.own("certificate/server", &hub), 403, Reason::IotedgeName);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_module_encrypts_no_other_opens_and_no_change_goes_unnoticed() {
    let site = Site::new().await;
    let (alerts, analytics) = (site.start("alerts").await, site.start("analytics").await);
    let sealed = alerts.encrypt(VALUE, VECTOR);
    refused(analytics.decrypt(&sealed, VECTOR), 400, Reason::IotedgeCiphertext);
    assert_ne!(alerts.sign("primary", VALUE).1, analytics.sign("primary", VALUE).1);
    for vector in ["", VALUE, "dmVjdG9yIA=="] {
        refused(alerts.decrypt(&sealed, vector), 400, Reason::IotedgeCiphertext);
    }
    for at in [0, 4, 20, 40, sealed.len() - 8] {
        let mut altered = sealed.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        refused(alerts.decrypt(&altered, VECTOR), 400, Reason::IotedgeCiphertext);
    }
    refused(
        alerts.decrypt(sealed.get(..sealed.len() / 8 * 4).unwrap(), VECTOR),
        400,
        Reason::IotedgeCiphertext,
    );
    refused(alerts.decrypt("", VECTOR), 400, Reason::IotedgeCiphertext);
    assert_eq!(alerts.decrypt(&sealed, VECTOR).0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_instance_itself_is_answered_and_only_about_itself() {
    let site = Site::new().await;
    let (alerts, analytics) = (site.start("alerts").await, site.start("analytics").await);
    let sign = json!({"keyId": "primary", "algo": "HMACSHA256", "data": VALUE});
    let path = |running: &Running| format!("/modules/{}/genid/{}/sign", running.module, running.generation);
    // The right path on the wrong socket, and the wrong path on the right one.
    refused(analytics.post(&path(&alerts), &sign), 403, Reason::IotedgeModule);
    refused(alerts.post("/modules/analytics/certificate/identity", &json!({})), 403, Reason::IotedgeModule);
    refused(alerts.post("/modules/alerts/genid/999/sign", &sign), 403, Reason::IotedgeModule);
    // Other processes on the socket: root, anybody, another module's.
    let job = alerts.job(post(&path(&alerts), &sign));
    for user in [0, common::STRANGER_UID] {
        refused(parse(&job.by_user(user).text()), 403, Reason::CallerNotModule);
    }
    refused(parse(&analytics.container.call(&job).text()), 403, Reason::CallerNotModule);
    refused(parse(&Container::new().call(&job).text()), 403, Reason::CallerNotModule);
    assert_eq!(alerts.post(&path(&alerts), &sign).0, 200);

    // The deployment gives that door to who asks for it.
    let plain = site.start("plain").await;
    assert!(!plain.socket.exists());
    let api = site.gateway.layout().workload_socket(&plain.instance);
    assert!(plain.container.call(&Job::Fetch { socket: api }).identity().ends_with("/module/plain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_start_is_a_new_generation_with_the_modules_keys() {
    let mut site = Site::new().await;
    let mut first = site.start("alerts").await;
    let sealed = first.encrypt(VALUE, VECTOR);
    let digest = first.sign("primary", VALUE);
    let old = first.generation.clone();
    first.container.kill();
    site.gateway.ask(Request::Stopped { instance: first.instance.clone() }).await.unwrap();
    assert!(!first.socket.exists());

    let second = site.start("alerts").await;
    let sign = json!({"keyId": "primary", "algo": "HMACSHA256", "data": VALUE});
    refused(second.post(&format!("/modules/alerts/genid/{old}/sign"), &sign), 403, Reason::IotedgeModule);
    assert_eq!(second.sign("primary", VALUE), digest);
    assert_eq!(second.decrypt(&sealed, VECTOR), (200, json!({"plaintext": VALUE})));

    // The same over a crash of identityd, for the container that outlived it.
    site.gateway.stop().await;
    site.gateway.start().await.unwrap();
    assert_eq!(second.decrypt(&sealed, VECTOR), (200, json!({"plaintext": VALUE})));
    assert_eq!(second.sign("primary", VALUE), digest);

    // A deployment that takes it back takes it from what runs.
    site.deploy(|_| {}).await;
    refused(second.sign("primary", VALUE), 403, Reason::PolicyDenied);
    refused(second.get("/trust-bundle"), 403, Reason::PolicyDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_without_a_good_verdict() {
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let sealed = alerts.encrypt(VALUE, VECTOR);
    let refusal = Refusal::new(Reason::AttestReference, "pcr 7", "differs");
    site.gateway.ask(Request::EnrolRefused(refusal)).await.unwrap();
    let closed = |answer| refused(answer, 503, Reason::AttestFailed);
    closed(alerts.get("/modules"));
    closed(alerts.get("/trust-bundle"));
    closed(alerts.sign("primary", VALUE));
    closed(alerts.own("encrypt", &json!({"plaintext": VALUE, "initializationVector": VECTOR})));
    closed(alerts.decrypt(&sealed, VECTOR));
    closed(alerts.own("certificate/server", &json!({"commonName": "alerts"})));
    closed(alerts.post("/modules/alerts/certificate/identity", &json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_rationed_and_the_rest_still_answers() {
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let ask = || alerts.post("/modules/alerts/certificate/identity", &json!({}));
    let mut given = 0;
    let last = loop {
        match ask() {
            (201, _) if given < 100 => given += 1,
            other => break other,
        }
    };
    assert!(given >= 16, "{given}");
    refused(last, 429, Reason::CallerBudget);
    assert_eq!(alerts.sign("primary", VALUE).0, 200);
    assert_eq!(parse(&alerts.container.call(&alerts.job(get("/modules"))).text()).0, 200);
}
