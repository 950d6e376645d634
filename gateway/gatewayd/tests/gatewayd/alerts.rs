//! Alerts: what is wrong and stays so is retained for whom the policy lets read it, and cleared when it is mended.

use crate::common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::client::{Client, puback};
use common::{POLICY, Site, leaf};
use edgewarden_gatewayd::alerts::{ALERTS, Alert};
use edgewarden_mqtt::packet::{Connect, Delivery, Packet, PacketId, Publish, Qos, SubscribeCode, Will};
use edgewarden_mqtt::topic::TopicName;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::Standing;

const EXPIRY: &str = "$edgewarden/alerts/expiry";

/// The sensors of the clinic and `alerts` may read alerts, `analytics` may read `#`, and everybody may publish everywhere.
const READERS: &str = r#"
@id("alerts")
permit (principal in LeafGroup::"pumps", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"alerts");
@id("everything")
permit (principal == Module::"analytics", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"everything");
@id("publishers")
permit (principal, action == Action::"publish", resource);
"#;

async fn site() -> Site {
    let site = Site::start(&format!("{POLICY}{READERS}")).await;
    site.identityd.run(&[("analytics", 1, site.address(1)), ("alerts", 2, site.address(2))]);
    site
}

fn expiring() -> Standing {
    let rule = "its certificate was to be renewed 3 days ago and was not";
    let refusal = Refusal::new(Reason::IdentityExpiring, "gateway CA", rule);
    Standing { refusal, expires: Some(UnixTime(2_000_000_000)) }
}

fn granted(answer: Option<Packet>) -> bool {
    match answer {
        Some(Packet::SubAck { codes, .. }) => codes[..] == [SubscribeCode::Granted(Qos::AtLeastOnce)],
        other => panic!("{other:?}"),
    }
}

/// The next message, acknowledged: its topic, its payload, and whether it was retained.
async fn take(client: &mut Client) -> (String, Vec<u8>, bool) {
    let Some(Packet::Publish(message)) = client.next().await else { panic!("no message") };
    let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
    client.send(&Packet::PubAck(id)).await;
    (message.topic.to_string(), message.payload.to_vec(), message.retain)
}

async fn take_alert(client: &mut Client) -> (Alert, bool) {
    let (topic, payload, retained) = take(client).await;
    let alert: Alert = serde_json::from_slice(&payload).unwrap();
    assert_eq!(topic, format!("$edgewarden/alerts/{}", alert.alert));
    (alert, retained)
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_ahead_is_told_to_who_may_read_it_and_cleared_by_the_renewal() {
    let mut site = site().await;
    let mut pump = site.leaf("pump-1").await;
    assert!(granted(pump.subscribe("$edgewarden/alerts/#").await));
    assert!(pump.is_open().await, "nothing is wrong, and nothing is said");
    site.identityd.stand(vec![expiring()]);
    let (first, retained) = take_alert(&mut pump).await;
    assert!(!retained);
    let since = first.since;
    let expected = Alert {
        schema: "edgewarden/alert/v1".into(),
        gateway: common::gateway(),
        alert: "expiry".into(),
        reason: Reason::IdentityExpiring,
        subject: "gateway CA".into(),
        rule: "its certificate was to be renewed 3 days ago and was not".into(),
        hint: Reason::IdentityExpiring.next_step().into(),
        since,
        expires: Some(UnixTime(2_000_000_000)),
    };
    assert_eq!(first, expected);
    assert!(since.0.abs_diff(UnixTime::now().0) < 600);
    // Who has no right to it does not even hold the subscription, and `#` is not about it ([MQTT-4.7.2-1]).
    let mut sensor = site.leaf("sensor-1").await;
    assert!(!granted(sensor.subscribe(EXPIRY).await));
    let mut analytics = site.module("analytics", 1).await;
    assert!(granted(analytics.subscribe("#").await));
    assert!(analytics.is_open().await, "no message before the answer to the ping");
    // Who comes later has it at once, after a kill too: and it began when it began.
    let mut later = site.leaf_tls("pump-1").await.unwrap();
    assert_eq!(later.connect("pump-1", false).await, common::client::ACCEPTED);
    assert!(granted(later.subscribe(EXPIRY).await));
    assert_eq!(take_alert(&mut later).await, (expected.clone(), true));
    site.kill();
    site.spawn().await;
    let mut worse = expiring();
    worse.refusal.rule = "its certificate was to be renewed 4 days ago and was not".into();
    site.identityd.stand(vec![worse.clone()]);
    let mut later = site.leaf_tls("pump-1").await.unwrap();
    later.connect("pump-1", false).await.unwrap();
    let next = loop {
        // The one before may come again.
        let (alert, _) = take_alert(&mut later).await;
        if alert != expected {
            break alert;
        }
    };
    assert_eq!(next, Alert { rule: worse.refusal.rule, ..expected });
    // The renewal.
    site.identityd.stand(Vec::new());
    assert_eq!(take(&mut later).await, (EXPIRY.into(), Vec::new(), false));
    site.until("cleared", |status| status.retained_messages == 0).await;
    site.kill();
    site.spawn().await;
    let mut again = site.leaf("pump-1").await;
    assert!(granted(again.subscribe(EXPIRY).await));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(again.is_open().await, "cleared for good");
}

/// An alert about what was mended while the process was away is cleared when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_mended_meanwhile_is_cleared_at_the_start() {
    let mut site = site().await;
    site.identityd.stand(vec![expiring()]);
    site.until("told", |status| status.retained_messages == 1).await;
    site.until("on disk", |status| status.journal.as_ref().is_some_and(|journal| journal.messages == 1))
        .await;
    site.kill();
    site.identityd.stand(Vec::new());
    site.spawn().await;
    site.until("cleared", |status| status.retained_messages == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_gateway_publishes_beneath_its_topics() {
    let site = site().await;
    let mut pump = site.leaf("pump-1").await;
    assert!(granted(pump.subscribe("$edgewarden/alerts/#").await));
    for (topic, qos) in
        [(EXPIRY, Some(1)), (EXPIRY, None), ("$edgewarden", Some(1)), ("$edgewarden/alerts/new", Some(1))]
    {
        let mut sensor = site.leaf("sensor-1").await;
        sensor.publish(topic, b"false", qos).await;
        assert_eq!(sensor.next().await, None, "{topic}: not acknowledged");
    }
    let refusal = site.identityd.refused(Reason::TopicReserved).await;
    assert_eq!(refusal.subject, format!("leaf sensor-1 publish {EXPIRY}"));
    // Nor by a will, and nor can anybody clear one.
    let mut sensor = site.leaf_tls("sensor-2").await.unwrap();
    let connect = Connect {
        client_id: "sensor-2".into(),
        clean_session: true,
        keep_alive_seconds: 60,
        will: Some(Will {
            topic: TopicName::parse(EXPIRY).unwrap(),
            payload: b"false".as_slice().into(),
            qos: Qos::AtLeastOnce,
            retain: true,
        }),
        user_name: None,
        password: None,
    };
    sensor.send(&Packet::Connect(Box::new(connect))).await;
    assert!(!matches!(sensor.next().await, common::client::ACCEPTED));
    site.identityd.stand(vec![expiring()]);
    take_alert(&mut pump).await;
    let mut sensor = site.leaf("sensor-1").await;
    sensor
        .send(&Packet::Publish(Publish {
            dup: false,
            retain: true,
            delivery: Delivery::AtLeastOnce(PacketId::MIN),
            topic: TopicName::parse(EXPIRY).unwrap(),
            payload: b"".as_slice().into(),
        }))
        .await;
    assert_eq!(sensor.next().await, None);
    assert!(pump.is_open().await, "and nothing of all that has come");
    // Names that only look alike are anybody's.
    let mut sensor = site.leaf("sensor-1").await;
    sensor.publish("leaf/sensor-1/glucose", b"1", Some(1)).await;
    assert_eq!(sensor.next().await, Some(puback(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_problem_has_its_topic() {
    let site = site().await;
    let mut pump = site.leaf("pump-1").await;
    assert!(granted(pump.subscribe("$edgewarden/alerts/+").await));
    let standing = |reason| Standing { refusal: Refusal::new(reason, "subject", "rule"), expires: None };
    let reasons = [Reason::ClockDoubted, Reason::Storage, Reason::EnforcementAltered];
    site.identityd.stand(reasons.map(standing).into());
    let mut told = Vec::new();
    for _ in reasons {
        let (alert, _) = take_alert(&mut pump).await;
        assert!(ALERTS.iter().any(|(name, reasons)| *name == alert.alert && reasons.contains(&alert.reason)));
        told.push(alert.alert);
    }
    assert_eq!(told, ["clock", "disk", "enforcement"]);
    site.identityd.stand(Vec::new());
    for name in told {
        assert_eq!(take(&mut pump).await, (format!("$edgewarden/alerts/{name}"), Vec::new(), false));
    }
}

/// An alert of the gateway's own: a message that nobody survives.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_set_aside_is_an_alert_and_a_number() {
    let site = site().await;
    let mut pump = site.leaf("pump-1").await;
    assert!(granted(pump.subscribe("$edgewarden/alerts/set-aside").await));
    let mut analytics = site.module("analytics", 1).await;
    assert!(granted(analytics.subscribe("leaf/+/glucose").await));
    let mut sensor = site.leaf("sensor-1").await;
    sensor.publish("leaf/sensor-1/glucose", b"poison", Some(1)).await;
    assert_eq!(sensor.next().await, Some(puback(1)));
    for _ in 0..3 {
        assert!(matches!(analytics.next().await, Some(Packet::Publish(_))));
        drop(analytics);
        analytics = site.module_tls("analytics", 1).await.unwrap();
        analytics.connect("analytics", false).await.unwrap();
    }
    let (alert, _) = take_alert(&mut pump).await;
    assert_eq!((alert.alert.as_str(), alert.reason), ("set-aside", Reason::MessageSetAside));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_read_alerts() {
    let site = site().await;
    site.identityd.stand(vec![expiring()]);
    let [chain, key, ca] = site.pem_files(&leaf("pump-1"));
    let port = site.leaf_port.to_string();
    let mut subscriber = Command::new("mosquitto_sub");
    subscriber.args([
        "--insecure",
        "-V",
        "mqttv311",
        "-q",
        "1",
        "-i",
        "pump-1",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
    ]);
    subscriber.args(["-t", EXPIRY, "-C", "1", "-W", "60", "--cert"]).arg(chain).arg("--key").arg(key);
    let output = subscriber.arg("--cafile").arg(ca).stdin(Stdio::null()).output().unwrap();
    let alert: Alert = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((alert.reason, alert.expires), (Reason::IdentityExpiring, Some(UnixTime(2_000_000_000))));
}
