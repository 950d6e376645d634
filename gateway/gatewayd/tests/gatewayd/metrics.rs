//! The broker's numbers as a monitoring system reads them, through its own door.

use crate::common;
use edgewarden_testkit::samples;

use std::path::PathBuf;
use std::time::Duration;

use common::client::puback;
use common::{POLICY, Site};
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::{Epoch, Reason};
use serde_json::json;

use edgewarden_testkit::samples::Samples;

const TOPIC: &str = "leaf/sensor-1/glucose";

async fn site() -> Site {
    let site = Site::start(POLICY).await;
    site.identityd.run(&[("analytics", 1, site.address(1))]);
    // It listens for clients a moment before.
    for _ in 0..3000 {
        if door(&site).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site
}

fn door(site: &Site) -> PathBuf {
    site.layout.gateway_run().join(SOCKET)
}

async fn until(site: &Site, what: &str, wanted: impl Fn(&Samples) -> bool) -> Samples {
    for _ in 0..3000 {
        let seen = samples::scrape(&door(site)).await;
        if wanted(&seen) {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: {:?}", samples::scrape(&door(site)).await);
}

async fn health(site: &Site, expected: (u16, &str)) {
    for _ in 0..3000 {
        let (status, line) = samples::health(&door(site)).await;
        if (status, line.as_str()) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{expected:?}: {:?}", samples::health(&door(site)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_rise_with_what_clients_do() {
    let site = site().await;
    let before =
        until(&site, "open", |s| s.get("gatewayd_queue_open", &[("queue", "upstream")]) == Some(1.0)).await;
    let denied = [("reason", Reason::PolicyDenied.code())];
    for (name, labels, expected) in [
        ("policy_epoch", &[][..], 1.0),
        ("trusted", &[], 1.0),
        ("connections", &[("kind", "leaf")], 0.0),
        ("connections", &[("kind", "module")], 0.0),
        ("messages_received_total", &[], 0.0),
        ("messages_lost_total", &[], 0.0),
        ("messages_set_aside", &[], 0.0),
        ("refusals_total", &denied, 0.0),
        ("upstream", &[("state", "none")], 1.0),
        ("upstream", &[("state", "unreachable")], 0.0),
        ("queue_messages", &[("queue", "upstream")], 0.0),
        ("queue_bytes_max", &[("queue", "upstream")], f64::from(1 << 20)),
    ] {
        let seen = before.get(&format!("gatewayd_{name}"), labels);
        assert_eq!(seen, Some(expected), "{name} {labels:?}");
    }
    let reasons =
        before.values.keys().filter(|(name, _)| name == "edgewarden_gatewayd_refusals_total").count();
    assert_eq!(reasons, Reason::ALL.len(), "each reason has its series from the start");

    let mut analytics = site.module("analytics", 1).await;
    assert!(analytics.subscribe("leaf/+/glucose").await.is_some());
    let mut sensor = site.leaf("sensor-1").await;
    for n in 1..=3 {
        sensor.publish(TOPIC, b"42", Some(n)).await;
        assert_eq!(sensor.next().await, Some(puback(n)));
        assert!(analytics.next().await.is_some());
    }
    let connected = samples::scrape(&door(&site)).await;
    for (name, labels, expected) in [
        ("connections", &[("kind", "leaf")][..], 1.0),
        ("connections", &[("kind", "module")], 1.0),
        ("subscriptions", &[], 1.0),
        ("messages_received_total", &[], 3.0),
        ("messages_delivered_total", &[], 3.0),
        ("messages_waiting", &[], 3.0),
    ] {
        assert_eq!(connected.get(&format!("gatewayd_{name}"), labels), Some(expected), "{name} {labels:?}");
    }
    // Refused, and so neither received nor delivered.
    sensor.publish("leaf/sensor-2/glucose", b"42", Some(9)).await;
    assert_eq!(sensor.next().await, None);
    let after = samples::scrape(&door(&site)).await;
    assert_eq!(after.get("gatewayd_refusals_total", &denied), Some(1.0));
    assert_eq!(after.get("gatewayd_messages_received_total", &[]), Some(3.0));
    assert_eq!(after.get("gatewayd_connections", &[("kind", "leaf")]), Some(0.0));
    assert!(!format!("{after:?}").contains("sensor"), "no leaf device and no topic is a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_are_counted() {
    let site = site().await;
    site.identityd.enforce_with(POLICY, 2, &json!({"bytes_max": 200_000}));
    site.identityd.enforced(Epoch(2)).await;
    let mut analytics = site.module("analytics", 1).await;
    assert!(analytics.subscribe("leaf/+/glucose").await.is_some());
    drop(analytics);
    let mut sensor = site.leaf("sensor-1").await;
    for n in 1..=100 {
        sensor.publish(TOPIC, &vec![0; 100_000], Some(n)).await;
        assert_eq!(sensor.next().await, Some(puback(n)));
    }
    let lost = |s: &Samples| s.get("gatewayd_messages_lost_total", &[]).is_some_and(|lost| lost >= 50.0);
    let after = until(&site, "lost", lost).await;
    let waiting = after.get("gatewayd_messages_waiting", &[]).unwrap();
    let lost = after.get("gatewayd_messages_lost_total", &[]).unwrap();
    assert!((lost + waiting - 100.0).abs() < 0.5, "{lost} {waiting}");
    assert_eq!(
        after.get("gatewayd_refusals_total", &[("reason", Reason::ReceiverLagging.code())]),
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_by_its_reason_what_keeps_the_broker_from_its_work() {
    let mut site = site().await;
    health(&site, (200, "ok")).await;
    site.identityd.trust(false);
    health(&site, (503, Reason::AttestFailed.code())).await;
    site.identityd.trust(true);
    health(&site, (200, "ok")).await;
    // A queue that does not open.
    site.kill();
    let folder = site.layout.gateway_state().join("queue");
    std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    site.spawn().await;
    health(&site, (503, Reason::Internal.code())).await;
    let open = |s: &Samples, queue| s.get("gatewayd_queue_open", &[("queue", queue)]);
    let seen = until(&site, "sessions are open", |s| open(s, "sessions") == Some(1.0)).await;
    assert_eq!(open(&seen, "upstream"), Some(0.0));
    assert_eq!(seen.get("gatewayd_queue_bytes", &[("queue", "upstream")]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_is_put_back_and_that_is_told() {
    let site = site().await;
    samples::scrape(&door(&site)).await;
    std::fs::remove_file(door(&site)).unwrap();
    let refusal = site.identityd.refused(Reason::EnforcementAltered).await;
    assert_eq!(refusal.subject, door(&site).display().to_string());
    samples::scrape(&door(&site)).await;
}
