//! A gateway whose certificate runs out is shown, counted and told as such, however it is otherwise.

use crate::common;

use std::time::{Duration, Instant};

use common::{Fleet, Gateway, report, web};
use edgewarden_fleet::lease::Certificate;
use edgewarden_fleet::store::Store;
use edgewarden_fleet::store::devices::{Admission, Attempt, NewReport};
use edgewarden_names::{Digest, Reason, UnixTime};

const DAY: Duration = Duration::from_secs(86_400);

/// As if the gateway had renewed for 30 days and been heard so many days ago, and never since.
async fn away(fleet: &mut Fleet, gateway: &Gateway, days: u32) {
    fleet.stop();
    let store = Store::open(&fleet.data().join("fleet.db")).await.unwrap();
    // And an hour, so that days are counted alike however long the test takes.
    let then = UnixTime::now().minus(DAY * days + DAY / 24);
    let name = &gateway.device.name;
    let device = store.device(name).await.unwrap().unwrap();
    let verdict = device.verdict;
    let attempt =
        Attempt { at: then, verdict, refusal: None, evidence: Digest::of(b"evidence"), event_log: None };
    let admission = Admission {
        gateway: name,
        binding: &device.binding,
        token: None,
        ca_key: &Digest::of(&gateway.device.ca.point()),
        certificate: &Certificate::lasting(then, then.plus(DAY * 30)),
        attempt: &attempt,
    };
    store.admit(&admission, then).await.unwrap().unwrap();
    let report = device.report.unwrap_or_else(report);
    store.keep_reports(&[NewReport { gateway: name, report: &report, seen: then }]).await.unwrap();
    store.close().await;
    fleet.run();
}

/// The events that tell of the certificate, once there are any.
fn told(fleet: &Fleet, name: &str) -> Vec<String> {
    let deadline = Instant::now() + common::DEADLINE;
    loop {
        let detail = fleet.json(&["device", "show", name]);
        let events = detail["events"].as_array().unwrap().iter();
        let told = events.filter(|event| event["reason"] == Reason::IdentityExpiring.code());
        let told: Vec<_> = told.map(|event| event["text"].as_str().unwrap().to_owned()).collect();
        if !told.is_empty() {
            return told;
        }
        assert!(Instant::now() < deadline, "{name} is not told: {detail}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn state(fleet: &Fleet, name: &str) -> (String, String) {
    let device = &fleet.json(&["device", "show", name])["device"];
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&device["state"]), text(&device["certificate"]["state"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_certificate_runs_out_is_a_state_with_a_counter() {
    let mut fleet = Fleet::start(&["--web", "127.0.0.1:0"]);
    let gateway = fleet.gateway("gw-1").await;
    let other = fleet.gateway("gw-2").await;
    gateway.sync(&fleet, None, 0).await.unwrap();
    other.sync(&fleet, None, 0).await.unwrap();
    let pair = |state: &str, certificate: &str| (state.to_owned(), certificate.to_owned());
    assert_eq!(state(&fleet, "gw-1"), pair("good", "good"));
    let list = fleet.cli(&["device", "list"]);
    assert!(list.errors().contains("2 gateways: 2 good"), "{}", list.errors());
    assert!(!list.errors().contains("certificates:"), "{}", list.errors());
    assert!(list.ok().matches(" d left").count() == 2);

    // Longer away than is ordinary, its certificate in its first third.
    away(&mut fleet, &gateway, 9).await;
    assert_eq!(state(&fleet, "gw-1"), pair("not-seen", "good"));
    for (days, json, shown, column, counted) in [
        (11, "expiring", "identity expiring", "expiring, 18 d left", "0 expired, 1 expiring"),
        (33, "expired", "identity expired", "expired 3 d ago", "1 expired, 0 expiring"),
    ] {
        away(&mut fleet, &gateway, days).await;
        assert_eq!(state(&fleet, "gw-1"), pair(json, json), "{days}");
        assert_eq!(state(&fleet, "gw-2").1, "good");
        let list = fleet.cli(&["device", "list"]);
        let summary = list.errors();
        assert!(summary.contains(&format!("1 {shown}")) && summary.contains(counted), "{summary}");
        assert!(summary.contains("edgewarden renew"), "what to do: {summary}");
        let rows = list.ok();
        let row = rows.lines().find(|line| line.starts_with("gw-1")).unwrap();
        assert!(row.contains(shown) && row.contains(column), "{row}");
        let detail = fleet.cli(&["device", "show", "gw-1"]).ok();
        assert!(detail.contains(shown) && detail.contains(column), "{detail}");
        for path in ["/", "/gateway/gw-1"] {
            let page = web::page(&fleet, path);
            assert!(page.contains(shown) && page.contains(column), "{page}");
            // The other one is fine, and this one nowhere.
            let fine = usize::from(path == "/");
            assert_eq!(page.matches("✓ fresh").count(), fine, "{page}");
            assert_eq!(page.matches("✓ good").count(), fine, "{page}");
        }
        assert!(web::page(&fleet, "/").contains(&counted.split(", ").next().unwrap().to_owned()));
        let events = told(&fleet, "gw-1");
        assert_eq!(events.len(), 1, "{events:?}");
    }

    // What is worse is said first, and the certificate is counted all the same.
    away(&mut fleet, &other, 11).await;
    let mut refused = report();
    refused.modules = vec![edgewarden_protocol::uplink::ModuleReport {
        name: "alerts".parse().unwrap(),
        image: "alerts".into(),
        state: edgewarden_protocol::uplink::ModuleState::Refused,
        generation: 1,
        restarts: 0,
        reason: None,
        update: None,
    }];
    let sync =
        edgewarden_protocol::uplink::Sync { have: None, wait_seconds: 0, report: refused, secrets: None };
    let client = other.client(&fleet, "runtimed");
    common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await.unwrap();
    assert_eq!(state(&fleet, "gw-2"), pair("refused", "expiring"));
    let summary = fleet.cli(&["device", "list"]).errors();
    assert!(summary.contains("1 expired, 1 expiring"), "{summary}");

    // A renewal is the end of it.
    gateway.device.enrol(&fleet, None).await.unwrap();
    gateway.sync(&fleet, None, 0).await.unwrap();
    assert_eq!(state(&fleet, "gw-1"), pair("good", "good"));
}
