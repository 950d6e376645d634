//! Joins and renewals through the server's door. The gateways have no TPM: the same messages, hand-made proofs.

use crate::common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Device, Fleet, domain};
use edgewarden_names::{Reason, SpiffeId, TrustDomain};
use edgewarden_protocol::enrol::{Begin, DeviceKeys, Proof, VerdictState};

#[tokio::test]
async fn a_gateway_joins_renews_and_joins_again() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let token = fleet.token("gw-1");
    let enrolled = device.enrol(&fleet, Some(&token)).await.unwrap();
    assert_eq!(enrolled.root.as_slice(), fleet.root());
    assert_eq!((enrolled.verdict.state, enrolled.verdict.hardware.as_str()), (VerdictState::Fresh, "none"));
    let facts = edgewarden_ca::chain::facts(enrolled.gateway_ca.as_slice()).unwrap();
    assert_eq!((facts.common_name.as_deref(), facts.is_ca, facts.path_length), (Some("gw-1"), true, Some(1)));
    assert_eq!((facts.uris, facts.point), (vec![domain().id().to_string()], common::Key::point(&device.ca)));

    device.enrol(&fleet, None).await.unwrap();
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();

    let listed = fleet.json(&["device", "list"]);
    assert_eq!(listed[0]["name"], "gw-1");
    assert_eq!((&listed[0]["verdict"], &listed[0]["hardware"]), (&"fresh".into(), &"none".into()));
    assert_eq!(listed[0]["labels"]["site"], "clinic");
    let table = fleet.cli(&["device", "list"]).ok();
    assert!(table.contains("gw-1") && table.contains("site=clinic") && table.contains("fresh"), "{table}");
    let shown = fleet.cli(&["device", "show", "gw-1"]).ok();
    assert!(shown.contains('✓') && shown.contains("joined") && shown.contains("renewed"), "{shown}");
}

#[tokio::test]
async fn tokens_are_refused() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let good = fleet.token("gw-1");
    let other = fleet.token("gw-2");
    let used = fleet.token("gw-1");
    device.enrol(&fleet, Some(&used)).await.unwrap();
    let stranger = Device::new("gw-3");
    for (case, device, token, reason) in [
        ("unknown token", &device, Some("00".repeat(32)), Reason::EnrolToken),
        ("empty token", &device, Some(String::new()), Reason::EnrolToken),
        ("used token", &device, Some(used), Reason::EnrolToken),
        ("no token, unknown gateway", &stranger, None, Reason::EnrolToken),
        ("token for another name", &device, Some(other), Reason::EnrolName),
        ("token for another name, unknown gateway", &stranger, Some(good.clone()), Reason::EnrolName),
    ] {
        let refused = fleet.begin(&device.begin(token.as_deref())).await.unwrap_err();
        assert_eq!(refused, reason, "{case}");
    }
    // None of this has spent the good one.
    device.enrol(&fleet, Some(&good)).await.unwrap();
}

#[tokio::test]
async fn a_token_is_for_a_tpm_unless_it_says_otherwise() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let tpm_only = fleet.token_with("gw-1", &["--label", "site=clinic"]);
    assert_eq!(device.enrol(&fleet, Some(&tpm_only)).await.unwrap_err(), Reason::EnrolHardware);
    assert!(fleet.log().contains("enrol.hardware"), "{}", fleet.log());
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();
    // Not to join again either. A renewal shows the key that it joined with, and needs no token.
    assert_eq!(device.enrol(&fleet, Some(&tpm_only)).await.unwrap_err(), Reason::EnrolHardware);
    device.enrol(&fleet, None).await.unwrap();
}

#[tokio::test]
async fn labels_are_the_operators() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let labels = || fleet.json(&["device", "list"])[0]["labels"].clone();
    for given in [&["--allow-software"][..], &["--allow-software", "--label", "site=plant"]] {
        let token = fleet.token_with("gw-1", given);
        assert_eq!(device.enrol(&fleet, Some(&token)).await.unwrap_err(), Reason::EnrolLabels, "{given:?}");
    }
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();
    assert_eq!(labels(), serde_json::json!({ "site": "clinic" }));

    // A renewal changes none, whatever it says.
    let mut begin = device.begin(None);
    begin.labels = BTreeMap::from([("site".into(), "plant".into()), ("ward".into(), "north".into())]);
    let challenge = fleet.begin(&begin).await.unwrap();
    fleet.finish(&device.answer(&challenge)).await.unwrap();
    assert_eq!(labels(), serde_json::json!({ "site": "clinic" }));

    // An operator does.
    let said = fleet.cli(&["device", "label", "gw-1", "site=plant", "ward=north"]).ok();
    assert_eq!(said.trim(), "site=plant,ward=north");
    fleet.cli(&["device", "label", "gw-1", "--remove", "site"]).ok();
    device.enrol(&fleet, None).await.unwrap();
    assert_eq!(labels(), serde_json::json!({ "ward": "north" }));
    let events = fleet.json(&["device", "show", "gw-1"])["events"].to_string();
    assert!(events.contains("labels set by an operator: site=plant,ward=north"), "{events}");

    // To join again is to get the token's.
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();
    assert_eq!(labels(), serde_json::json!({ "site": "clinic" }));

    fleet.cli(&["device", "label", "gw-2", "site=plant"]).refused(Reason::RequestInvalid);
    let long = format!("site={}", "x".repeat(129));
    fleet.cli(&["device", "label", "gw-1", &long]).refused(Reason::RequestInvalid);
    let many: Vec<String> = (0..32).map(|n| format!("k{n}=x")).collect();
    let many: Vec<&str> =
        ["device", "label", "gw-1"].into_iter().chain(many.iter().map(String::as_str)).collect();
    fleet.cli(&many).refused(Reason::RequestInvalid);
    assert_eq!(labels(), serde_json::json!({ "site": "clinic" }));
}

/// A stranger hears the same of a name that is taken and of one that is free.
#[tokio::test]
async fn without_a_token_nobody_learns_which_names_are_taken() {
    let fleet = Fleet::start(&[]);
    fleet.gateway("gw-1").await;
    let mut heard = Vec::new();
    for name in ["gw-1", "gw-2"] {
        for token in [None, Some("00")] {
            let begin = Device::new(name).begin(token);
            let said = fleet
                .stranger()
                .post_json::<_, serde_json::Value>("/v1/enrol/begin", &begin, 4096, common::DEADLINE)
                .await;
            heard.push(format!("{token:?} {said:?}").replace(name, "NAME"));
        }
    }
    assert_eq!(heard[..2], heard[2..]);
    assert!(heard[0].contains("EnrolToken"), "{}", heard[0]);
}

#[tokio::test]
async fn a_token_is_spent_by_success_only_and_by_one_of_two() {
    let fleet = Fleet::start(&[]);
    let token = fleet.token("gw-1");
    let device = Device::new("gw-1");
    let challenge = fleet.begin(&device.begin(Some(&token))).await.unwrap();
    let mut wrong = device.answer(&challenge);
    wrong.session = "0".repeat(64);
    assert_eq!(fleet.finish(&wrong).await.unwrap_err(), Reason::AttestNonce);

    let (one, two) = (Device::new("gw-1"), Device::new("gw-1"));
    let first = fleet.begin(&one.begin(Some(&token))).await.unwrap();
    let second = fleet.begin(&two.begin(Some(&token))).await.unwrap();
    fleet.finish(&one.answer(&first)).await.unwrap();
    assert_eq!(fleet.finish(&two.answer(&second)).await.unwrap_err(), Reason::EnrolToken);
}

#[tokio::test]
async fn a_name_belongs_to_one_key_and_a_key_to_one_name() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();

    let impostor = Device::new("gw-1");
    assert_eq!(impostor.enrol(&fleet, None).await.unwrap_err(), Reason::EnrolToken);
    let token = fleet.token("gw-1");
    assert_eq!(impostor.enrol(&fleet, Some(&token)).await.unwrap_err(), Reason::AttestEkMismatch);

    let second = Device { name: common::name("gw-2"), ..device };
    let token_2 = fleet.token("gw-2");
    assert_eq!(second.enrol(&fleet, Some(&token_2)).await.unwrap_err(), Reason::AttestEkMismatch);

    // Only an operator frees the name.
    fleet.cli(&["device", "remove", "gw-1"]).ok();
    let token = fleet.token("gw-1");
    impostor.enrol(&fleet, Some(&token)).await.unwrap();
}

#[tokio::test]
async fn two_at_once_do_not_get_the_same_name() {
    let fleet = Fleet::start(&[]);
    let (one, two) = (Device::new("gw-1"), Device::new("gw-1"));
    let (token_1, token_2) = (fleet.token("gw-1"), fleet.token("gw-1"));
    let first = fleet.begin(&one.begin(Some(&token_1))).await.unwrap();
    let second = fleet.begin(&two.begin(Some(&token_2))).await.unwrap();
    fleet.finish(&one.answer(&first)).await.unwrap();
    assert_eq!(fleet.finish(&two.answer(&second)).await.unwrap_err(), Reason::AttestEkMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_gets_the_token_and_the_name() {
    let fleet = Arc::new(Fleet::start(&[]));
    let token = fleet.token("gw-1");
    let mut begun = Vec::new();
    for _ in 0..8 {
        let device = Device::new("gw-1");
        let challenge = fleet.begin(&device.begin(Some(&token))).await.unwrap();
        begun.push(device.answer(&challenge));
    }
    // Each answer goes off twice: a session is good for one of them.
    let all = begun.iter().chain(&begun).cloned().map(|answer| {
        let fleet = fleet.clone();
        tokio::spawn(async move { fleet.finish(&answer).await.map(drop) })
    });
    let mut ends = Vec::new();
    for end in all.collect::<Vec<_>>() {
        ends.push(end.await.unwrap());
    }
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "{ends:?}");
    assert_eq!(ends.iter().filter(|end| **end == Err(Reason::AttestNonce)).count(), 8, "{ends:?}");
    assert_eq!(ends.iter().filter(|end| **end == Err(Reason::EnrolToken)).count(), 7, "{ends:?}");
    assert_eq!(fleet.json(&["device", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn answers_are_refused() {
    let fleet = Fleet::start(&[]);
    let device = Device::new("gw-1");
    let token = fleet.token("gw-1");
    device.enrol(&fleet, Some(&token)).await.unwrap();
    let stranger =
        Device { name: device.name.clone(), key: common::Key::generate(), ca: common::Key::generate() };

    // Each answer spends its session, so each case begins anew. The device itself stays fresh: none of these is a
    // fact about it.
    let begun = fleet.begin(&device.begin(None)).await.unwrap();
    let good = device.answer(&begun);
    fleet.finish(&good).await.unwrap();
    assert_eq!(fleet.finish(&good).await.unwrap_err(), Reason::AttestNonce, "replayed session");

    let again = fleet.begin(&device.begin(None)).await.unwrap();
    assert_ne!(again.nonce, begun.nonce, "nonces differ");
    assert_ne!(again.session, begun.session, "sessions differ");
    let replayed = edgewarden_protocol::enrol::Finish { session: again.session, ..good };
    assert_eq!(fleet.finish(&replayed).await.unwrap_err(), Reason::AttestNonce, "old proof in a new session");

    for (case, reason) in
        [("nonce", Reason::AttestNonce), ("key", Reason::AttestNonce), ("csr", Reason::AttestCsr)]
    {
        let challenge = fleet.begin(&device.begin(None)).await.unwrap();
        let answer = match case {
            "nonce" => device.answer_to(&challenge.session, &[7; 32]),
            "key" => stranger.answer(&challenge),
            _ => {
                let Proof::None { signature, .. } = device.answer(&challenge).proof else {
                    panic!("no TPM here")
                };
                let proof = Proof::None { csr: b"no request"[..].into(), signature };
                edgewarden_protocol::enrol::Finish { session: challenge.session.clone(), proof }
            }
        };
        assert_eq!(fleet.finish(&answer).await.unwrap_err(), reason, "wrong {case}");
        let session_again = device.answer(&challenge);
        assert_eq!(
            fleet.finish(&session_again).await.unwrap_err(),
            Reason::AttestNonce,
            "spent by a wrong {case}"
        );
    }
    assert_eq!(fleet.json(&["device", "list"])[0]["verdict"], "fresh");
    let events = fleet.json(&["device", "show", "gw-1"])["events"].to_string();
    assert!(events.contains("attest.nonce") && events.contains("attest.csr"), "{events}");
}

#[tokio::test]
async fn malformed_beginnings_are_refused() {
    let fleet = Fleet::start(&[]);
    let token = fleet.token("gw-1");
    let good = Device::new("gw-1").begin(Some(&token));
    let many = (0..33).map(|n| (n.to_string(), "x".to_owned())).collect();
    let none = |bytes: &[u8]| DeviceKeys::None { device_public: bytes.into() };
    for (case, begin) in [
        (
            "trust domain",
            Begin { trust_domain: TrustDomain::parse("other.example").unwrap(), ..good.clone() },
        ),
        ("labels", Begin { labels: many, ..good.clone() }),
        ("label", Begin { labels: BTreeMap::from([("a\nb".into(), "x".into())]), ..good.clone() }),
        ("no key", Begin { keys: none(b""), ..good.clone() }),
        ("key off the curve", Begin { keys: none(&[4; 65]), ..good.clone() }),
    ] {
        fleet.begin(&begin).await.expect_err(case);
    }
    let tpm = DeviceKeys::Tpm {
        ek_certificates: vec![b"x"[..].into()],
        ek_public: b"x"[..].into(),
        ak_public: b"x"[..].into(),
    };
    fleet.begin(&Begin { keys: tpm, ..good.clone() }).await.expect_err("garbage instead of a TPM");

    let mut unknown = serde_json::to_value(&good).unwrap();
    unknown["admin"] = true.into();
    let client = fleet.stranger();
    let refused = common::post::<_, serde_json::Value>(&client, "/v1/enrol/begin", &unknown).await;
    assert_eq!(refused.unwrap_err(), Reason::RequestInvalid);
    let large = "x".repeat(65 * 1024);
    let refused = common::post::<_, serde_json::Value>(&client, "/v1/enrol/begin", &large).await;
    assert_eq!(refused.unwrap_err(), Reason::RequestTooLarge);
    let large = "x".repeat(4 * 1024 * 1024);
    let refused = common::post::<_, serde_json::Value>(&client, "/v1/enrol/finish", &large).await;
    assert_eq!(refused.unwrap_err(), Reason::RequestTooLarge);
    // And after all that the token is still good.
    fleet.begin(&good).await.unwrap();
}

#[tokio::test]
async fn nobody_begins_without_end() {
    let fleet = Fleet::start(&[]);
    let token = fleet.token("gw-1");
    let device = Device::new("gw-1");
    let client = fleet.stranger();
    let mut refused = None;
    for _ in 0..=edgewarden_fleet::enrol::sessions::SESSIONS_PER_SOURCE_MAX {
        let begun =
            common::post::<_, serde_json::Value>(&client, "/v1/enrol/begin", &device.begin(Some(&token)))
                .await;
        refused = begun.err();
    }
    assert_eq!(refused, Some(Reason::Busy));

    // Nor fills the log by being refused.
    for _ in 0..50 {
        let begun =
            common::post::<_, serde_json::Value>(&client, "/v1/enrol/begin", &device.begin(None)).await;
        assert_eq!(begun.unwrap_err(), Reason::EnrolToken);
    }
    let lines = fleet.log().matches("enrolment refused").count();
    assert!((1..50).contains(&lines), "{lines}");
}

#[tokio::test]
async fn the_server_is_who_it_should_be() {
    let (fleet, other) = (Fleet::start(&[]), Fleet::start(&[]));
    let domain = domain();
    let tls = |root: Vec<u8>, id: SpiffeId| {
        let only = edgewarden_transport::tls::only(id);
        edgewarden_transport::tls::pinned_client_config(&root.as_slice().into(), &domain, only).unwrap()
    };
    let fleet_id = SpiffeId::fleet(&domain);
    for (case, root, id) in [
        ("another root", other.root(), fleet_id.clone()),
        ("another identity", fleet.root(), SpiffeId::gateway(&domain, &common::name("gw-1"))),
    ] {
        let client = edgewarden_transport::http::Client::new(&fleet.url(), tls(root, id)).unwrap();
        let answer = client.get_json::<serde_json::Value>("/v1/admin/devices", 1024, common::DEADLINE).await;
        assert!(
            matches!(answer, Err(edgewarden_transport::http::HttpError::Untrusted { .. })),
            "{case}: {answer:?}"
        );
    }
}
