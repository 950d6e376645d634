//! Persistent sessions: what was acknowledged arrives, whatever happens to the process, and what ends a session.

use crate::common;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use common::client::{ACCEPTED, Client, puback, publish};
use common::{POLICY, Site, identity, leaf, module};
use edgewarden_mqtt::packet::{
    ConnectCode, Delivery, Packet, PacketId, Publish, Qos, SubscribeCode, Unsubscribe,
};
use edgewarden_mqtt::topic::{TopicFilter, TopicName};
use edgewarden_names::{Epoch, Reason};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::gateway_console::{Reply as StatusReply, Request as StatusRequest};
use serde_json::json;

const TOPIC: &str = "leaf/sensor-1/glucose";
const RESUMED: Option<Packet> = Some(Packet::ConnAck { session_present: true, code: ConnectCode::Accepted });
const NEW: Option<Packet> = ACCEPTED;

async fn site() -> Site {
    let site = Site::start(POLICY).await;
    site.identityd.run(&[("analytics", 1, site.address(1)), ("alerts", 2, site.address(2))]);
    site
}

/// A subscriber with a persistent session, which is away.
async fn subscribed() -> Site {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    let granted = Packet::SubAck { id: PacketId::MIN, codes: vec![SubscribeCode::Granted(Qos::AtLeastOnce)] };
    assert_eq!(analytics.subscribe("leaf/+/glucose").await, Some(granted));
    away(analytics).await;
    site
}

async fn away(mut client: Client) {
    client.send(&Packet::Disconnect).await;
    assert_eq!(client.next().await, None);
    // The broker has forgotten the connection before it closes it.
}

async fn publish_acknowledged(site: &Site, numbers: std::ops::Range<u16>) {
    let mut sensor = site.leaf("sensor-1").await;
    for n in numbers.clone() {
        sensor.publish(TOPIC, &n.to_be_bytes(), Some(n)).await;
    }
    for n in numbers {
        assert_eq!(sensor.next().await, Some(puback(n)));
    }
}

async fn analytics(site: &Site, clean: bool, expected: Option<&Packet>) -> Client {
    let mut client = site.module_tls("analytics", 1).await.unwrap();
    assert_eq!(client.connect("analytics", clean).await.as_ref(), expected);
    client
}

/// The next message: its number and whether it is marked as sent before. It is acknowledged.
async fn take(client: &mut Client) -> (u16, bool) {
    let Some(Packet::Publish(message)) = client.next().await else { panic!("no message") };
    let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
    client.send(&Packet::PubAck(id)).await;
    (u16::from_be_bytes([message.payload[0], message.payload[1]]), message.dup)
}

async fn take_all(client: &mut Client, numbers: std::ops::Range<u16>) {
    for n in numbers {
        assert_eq!(take(client).await.0, n);
    }
}

fn document(site: &Site, name: &str) -> PathBuf {
    site.layout.gateway_state().join("sessions/documents").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_receiver_that_is_away_survives_a_kill() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..51).await;
    site.kill();
    site.spawn().await;
    publish_acknowledged(&site, 51..61).await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    for n in 1..61 {
        assert_eq!(take(&mut client).await, (n, n < 51), "in order; DUP for what may have been sent before");
    }
    site.until("all taken", |status| status.waiting_messages == 0).await;
    // The subscription is there without a word of the client.
    publish_acknowledged(&site, 61..62).await;
    assert_eq!(take(&mut client).await, (61, false));
    // Nothing comes twice after an orderly end.
    assert!(client.is_open().await);
    assert!(site.terminate());
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert!(client.is_open().await, "no message before the answer to the ping");
    assert_eq!(site.status().await.journal.unwrap().messages, 0);
}

/// A sensor: at most so many in flight, and after a lost connection again from the oldest without a PUBACK.
struct Sensor {
    next: u16,
    unacknowledged: VecDeque<u16>,
    acknowledged: Vec<u16>,
}

impl Sensor {
    const WINDOW: usize = 20;

    async fn until_lost(&mut self, mut client: Client) {
        for n in &self.unacknowledged {
            let Packet::Publish(again) = publish(TOPIC, &n.to_be_bytes(), Some(*n)) else { unreachable!() };
            client.send(&Packet::Publish(Publish { dup: true, ..again })).await;
        }
        loop {
            while self.unacknowledged.len() < Self::WINDOW {
                client.publish(TOPIC, &self.next.to_be_bytes(), Some(self.next)).await;
                self.unacknowledged.push_back(self.next);
                self.next += 1;
            }
            let Some(packet) = client.next().await else { return };
            let n = self.unacknowledged.pop_front().unwrap();
            assert_eq!(packet, puback(n));
            self.acknowledged.push(n);
        }
    }
}

/// Receives until the connection is lost; now and then keeps an acknowledgement back.
async fn receive_until_lost(client: Option<Client>, received: &mut Vec<u16>) {
    let Some(mut client) = client else { return };
    while let Some(packet) = client.next().await {
        let Packet::Publish(message) = packet else { panic!("{packet:?}") };
        let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
        let n = u16::from_be_bytes([message.payload[0], message.payload[1]]);
        received.push(n);
        if n % 17 != 5 {
            client.send(&Packet::PubAck(id)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_thirty_kills() {
    let mut site = subscribed().await;
    let mut sensor = Sensor { next: 1, unacknowledged: VecDeque::new(), acknowledged: Vec::new() };
    let mut received = Vec::new();
    for round in 0..30u64 {
        let publisher = site.leaf("sensor-1").await;
        // Every third time nobody is there to receive, before and during the kill.
        let reader =
            if round % 3 == 2 { None } else { Some(analytics(&site, false, RESUMED.as_ref()).await) };
        let random =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        let moment = Duration::from_micros(u64::from(random) % 60_000 + round);
        let kill = async {
            tokio::time::sleep(moment).await;
            site.kill();
        };
        tokio::join!(sensor.until_lost(publisher), receive_until_lost(reader, &mut received), kill);
        site.spawn().await;
    }
    // All that waits, until one that is published last.
    let mut sensor_again = site.leaf("sensor-1").await;
    sensor_again.publish(TOPIC, &u16::MAX.to_be_bytes(), Some(1)).await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    while received.last() != Some(&u16::MAX) {
        received.push(take(&mut client).await.0);
    }
    assert_eq!(sensor_again.next().await, Some(puback(1)));
    assert!(sensor.acknowledged.len() > 50, "{} were acknowledged", sensor.acknowledged.len());
    let mut firsts = Vec::new();
    for n in &received {
        if !firsts.contains(n) {
            firsts.push(*n);
        }
    }
    assert!(firsts.is_sorted(), "in order, but for repetitions: {received:?}");
    let missing: Vec<_> = sensor.acknowledged.iter().filter(|n| !firsts.contains(n)).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_on_disk_when_they_are_acknowledged() {
    let mut site = site().await;
    for round in 0..5 {
        let expected = if round == 0 { NEW } else { RESUMED };
        let mut client = analytics(&site, false, expected.as_ref()).await;
        assert!(client.subscribe("leaf/+/glucose").await.is_some());
        site.kill();
        site.spawn().await;
        publish_acknowledged(&site, 1..2).await;
        let mut client = analytics(&site, false, RESUMED.as_ref()).await;
        assert_eq!(take(&mut client).await.0, 1);
        site.until("written down", |status| status.journal.as_ref().is_some_and(|j| j.messages == 0)).await;
        let filters = vec![TopicFilter::parse("leaf/+/glucose").unwrap()];
        client.send(&Packet::Unsubscribe(Unsubscribe { id: PacketId::MIN, filters })).await;
        assert_eq!(client.next().await, Some(Packet::UnsubAck(PacketId::MIN)));
        site.kill();
        site.spawn().await;
        publish_acknowledged(&site, 1..2).await;
        assert_eq!(site.status().await.waiting_messages, 0, "it has unsubscribed");
    }
}

/// Killed at the moment of the answer, the session has what was answered. A copy that is older than that says so: the client
/// is told that there is no session, and what waited in the copy comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lacks_later_subscriptions_is_not_said_to_be_present() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..3).await;
    site.kill();
    let (state, backup) = (site.layout.gateway_state(), site.folder.path().join("backup"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&state, &backup);
    for _ in 0..3 {
        site.spawn().await;
        let mut client = analytics(&site, false, RESUMED.as_ref()).await;
        assert!(client.subscribe("leaf/sensor-1/glucose").await.is_some());
        site.kill();
    }
    std::fs::remove_dir_all(&state).unwrap();
    copy(&backup, &state);
    site.spawn().await;
    let refusal = site.identityd.refused(Reason::SessionsRestored).await;
    assert!(refusal.rule.contains("clients of 1 sessions"), "{refusal}");
    // Until the client comes, what it had subscribed to is better than nothing.
    publish_acknowledged(&site, 3..4).await;
    for _ in 0..2 {
        let client = analytics(&site, false, NEW.as_ref()).await;
        drop(client);
        site.kill();
        site.spawn().await;
    }
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    take_all(&mut client, 1..4).await;
    assert!(client.is_open().await);
    client.subscribe("leaf/+/glucose").await;
    site.kill();
    site.spawn().await;
    analytics(&site, false, RESUMED.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_session_ends_the_one_before_it_for_good() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..11).await;
    let mut client = analytics(&site, true, NEW.as_ref()).await;
    assert!(client.is_open().await, "nothing of the old session comes");
    site.kill();
    assert!(!document(&site, "module.analytics").exists());
    site.spawn().await;
    // Nor in a new persistent one.
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    assert!(client.is_open().await);
    away(client).await;
    publish_acknowledged(&site, 1..2).await;
    assert_eq!(site.status().await.waiting_messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_the_policy_no_longer_has_its_client_and_not_before() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..4).await;
    // While the verdict forbids everybody, everybody keeps what is theirs.
    site.identityd.trust(false);
    site.until("not trusted", |status| !status.trusted).await;
    site.kill();
    site.spawn().await;
    site.identityd.trust(true);
    site.until("trusted", |status| status.trusted).await;
    site.until("loaded", |status| status.waiting_messages == 3).await;
    let quarantine = "@id(\"quarantine\") forbid (principal == Module::\"analytics\", action, resource);";
    site.identityd.enforce(&format!("{POLICY}{quarantine}"), 2);
    site.identityd.enforced(Epoch(2)).await;
    let status = site.status().await;
    assert_eq!((status.waiting_messages, status.sessions), (0, 0));
    let refusal = site.identityd.refused(Reason::PolicyDenied).await;
    assert_eq!(refusal.subject, "module analytics keep its session");
    assert!(refusal.rule.contains("epoch 2"), "{refusal}");
    site.identityd.enforce(POLICY, 3);
    site.identityd.enforced(Epoch(3)).await;
    site.kill();
    site.spawn().await;
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    assert!(client.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_may_no_longer_be_received_is_not_there_after_a_restart_either() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..4).await;
    let deaf = POLICY.replace("Action::\"subscribe\", Action::\"receive\"", "Action::\"subscribe\"");
    site.identityd.enforce(&deaf, 2);
    site.identityd.enforced(Epoch(2)).await;
    site.until("dropped", |status| status.waiting_messages == 0).await;
    assert!(site.terminate());
    site.identityd.enforce(POLICY, 3);
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert!(client.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_session_is_told_and_put_aside_and_the_others_go_on() {
    let mut site = subscribed().await;
    let mut sensor = site.leaf_tls("sensor-2").await.unwrap();
    assert_eq!(sensor.connect("sensor-2", false).await, NEW);
    publish_acknowledged(&site, 1..4).await;
    site.kill();
    let path = document(&site, "module.analytics");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(document(&site, "leaf.UPPER"), "not ours").unwrap();
    site.spawn().await;
    let refusal = site.identityd.refused(Reason::Internal).await;
    for part in [path.to_str().unwrap(), "module.analytics.damaged", "must subscribe again"] {
        assert!(refusal.to_string().contains(part), "{refusal}");
    }
    // Once more, before the client has been here: it is still told.
    site.kill();
    site.spawn().await;
    let mut sensor = site.leaf_tls("sensor-2").await.unwrap();
    assert_eq!(sensor.connect("sensor-2", false).await, RESUMED);
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    take_all(&mut client, 1..4).await;
    assert!(client.subscribe("leaf/+/glucose").await.is_some());
    away(client).await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert!(client.is_open().await);
    assert!(document(&site, "module.analytics.damaged").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_lets_nobody_in_and_names_the_file() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..4).await;
    publish_acknowledged(&site, 4..8).await;
    site.kill();
    let folder = site.layout.gateway_state().join("sessions/journal");
    let segment = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    site.spawn().await;
    let refusal = site.identityd.refused(Reason::Internal).await;
    for part in [segment.to_str().unwrap(), "move its folder away"] {
        assert!(refusal.to_string().contains(part), "{refusal}");
    }
    let unavailable = Some(Packet::ConnAck { session_present: false, code: ConnectCode::ServerUnavailable });
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    assert_eq!(sensor.connect("sensor-1", true).await, unavailable);
    // What it says to do helps.
    site.kill();
    std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    publish_acknowledged(&site, 9..10).await;
    assert_eq!(take(&mut client).await.0, 9);
}

/// More than a session may hold, for a subscriber that is away: the publisher and a subscriber that is well do not notice;
/// the one that is away has the newest, also after a kill, and it is known what it has lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_away_holds_up_nobody() {
    let mut site = subscribed().await;
    let both = POLICY.replace(
        "permit (principal == Module::\"analytics\", action in [Action::\"subscribe\"",
        "permit (principal, action in [Action::\"subscribe\"",
    );
    let sized = json!({"bytes_max": 200_000});
    site.identityd.enforce_with(&both, 2, &sized);
    site.identityd.enforced(Epoch(2)).await;
    let mut alerts = site.module("alerts", 2).await;
    assert!(alerts.subscribe("leaf/+/glucose").await.is_some());
    let mut sensor = site.leaf("sensor-1").await;
    let payload = |n: u16| [&n.to_be_bytes()[..], &vec![0; 100_000]].concat();
    for n in 1..=100 {
        sensor.publish(TOPIC, &payload(n), Some(n)).await;
        assert_eq!(sensor.next().await, Some(puback(n)), "nobody is waited for");
        assert_eq!(take(&mut alerts).await.0, n);
    }
    let status = site.until("taken", |s| s.receivers.iter().all(|r| r.client != "module alerts")).await;
    let held = u16::try_from(status.waiting_messages).unwrap();
    assert!((30..50).contains(&held), "{held}");
    let [behind] = &status.receivers[..] else { panic!("{:?}", status.receivers) };
    assert_eq!(
        (behind.client.as_str(), behind.connected, behind.lost),
        ("module analytics", false, 100 - u64::from(held))
    );
    assert_eq!(status.lost, behind.lost);
    let refusal = site.identityd.refused(Reason::ReceiverLagging).await;
    assert_eq!(refusal.subject, "module analytics");
    site.until("written down", |s| s.journal.as_ref().is_some_and(|journal| journal.messages < 120)).await;
    site.kill();
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    take_all(&mut client, 101 - held..101).await;
    assert!(client.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_by_the_declared_time_without_its_client() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..4).await;
    // A deployment cannot say less.
    site.identityd.enforce_with(
        POLICY,
        2,
        &json!({"modules": {"analytics": {"session_expiry_seconds": 60}}}),
    );
    site.identityd.enforced(Epoch(2)).await;
    site.kill();
    let before = std::time::Instant::now();
    site.spawn().await;
    site.until("loaded", |status| status.waiting_messages == 3).await;
    while site.status().await.sessions > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(before.elapsed() < Duration::from_secs(300), "the session does not end");
    }
    let refusal = site.identityd.refused(Reason::SessionExpired).await;
    assert_eq!(refusal.subject, "module analytics");
    assert_eq!(site.status().await.lost, 3);
    site.until("forgotten", |_| !document(&site, "module.analytics").exists()).await;
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    assert!(client.is_open().await);
}

/// The subscriber dies of one message. The others are judged all the same, the one is on disk and can be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_survives_is_set_aside_and_the_rest_arrives() {
    let mut site = subscribed().await;
    publish_acknowledged(&site, 1..961).await;
    let mut connections = 0;
    let mut next = 1;
    while next < 961 {
        let mut client = analytics(&site, false, RESUMED.as_ref()).await;
        connections += 1;
        assert!(connections < 20, "a loop without an end");
        while next < 961 {
            let Some(Packet::Publish(message)) = client.next().await else { panic!("no message") };
            let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
            let n = u16::from_be_bytes([message.payload[0], message.payload[1]]);
            if n == 5 {
                break;
            }
            // What was acknowledged as the connection ended may come again.
            assert!(n == next || (message.dup && n < next), "{n} came where {next} was due");
            next = next.max(if n == 4 { 6 } else { n + 1 });
            client.send(&Packet::PubAck(id)).await;
        }
        if next >= 961 {
            // A connection that ends takes an acknowledgement with it that is not read yet.
            site.until("all taken", |status| status.waiting_messages == 0).await;
        }
        drop(client);
    }
    let refusal = site.identityd.refused(Reason::MessageSetAside).await;
    assert_eq!(refusal.subject, "module analytics");
    assert!(refusal.rule.contains("of leaf sensor-1 on leaf/sensor-1/glucose"), "{refusal}");
    let status = site.until("all taken", |status| status.waiting_messages == 0).await;
    assert_eq!((status.set_aside, status.lost, status.receivers[0].set_aside), (1, 0, 1));
    site.until("written down", |status| status.journal.as_ref().is_some_and(|j| j.messages == 0)).await;
    site.kill();
    site.spawn().await;
    site.until("loaded", |status| status.set_aside == 1).await;
    let StatusReply::SetAside(all) = site.ask(&StatusRequest::SetAside).await else { panic!() };
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!((one.topic.as_str(), one.bytes, one.connections), (TOPIC, 2, 3));
    let (client, number) = (one.client.clone(), one.number);
    let show = StatusRequest::SetAsideShow { client: client.clone(), number };
    assert_eq!(site.ask(&show).await, StatusReply::Message(Bytes(vec![0, 5])));
    let other = StatusRequest::SetAsideDrop { client: client.clone(), number: number + 1 };
    assert!(matches!(site.ask(&other).await, StatusReply::Refused(_)));
    // Nobody is told that it is gone while the disk has it.
    let path = document(&site, "module.analytics");
    let kept = path.with_file_name("kept");
    std::fs::rename(&path, &kept).unwrap();
    std::fs::create_dir_all(path.join("in-the-way")).unwrap();
    let drop_it = StatusRequest::SetAsideDrop { client, number };
    assert!(matches!(site.ask(&drop_it).await, StatusReply::Refused(_)));
    // Before it can be tried once more.
    site.kill();
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&kept, &path).unwrap();
    site.spawn().await;
    site.until("loaded", |status| status.set_aside == 1).await;
    assert_eq!(site.ask(&drop_it).await, StatusReply::Done);
    site.kill();
    site.spawn().await;
    assert_eq!(site.status().await.set_aside, 0, "gone for good when that was said");
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert!(client.is_open().await, "nothing of it comes back");
    site.kill();
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert!(client.is_open().await);
    assert_eq!(site.status().await.set_aside, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_acknowledges_nothing_and_heals() {
    let mut site = Site::prepare(POLICY, None, 1 << 20);
    site.identityd.enforce_with(POLICY, 2, &json!({"bytes_max": 60_000}));
    site.identityd.run(&[("analytics", 1, site.address(1))]);
    site.disk_bytes = Some(1 << 20);
    site.spawn().await;
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    assert!(client.subscribe("leaf/+/glucose").await.is_some());
    away(client).await;
    let payload = |n: u16, bytes: usize| [&n.to_be_bytes()[..], &vec![0; bytes]].concat();
    let mut acknowledged = Vec::new();
    let mut n = 0;
    // To the last page.
    for bytes in [50_000, 2000, 10] {
        let mut sensor = site.leaf("sensor-1").await;
        loop {
            n += 1;
            sensor.publish(TOPIC, &payload(n, bytes), Some(n)).await;
            match sensor.next().await {
                Some(packet) => assert_eq!(packet, puback(n)),
                None => break,
            }
            acknowledged.push(n);
            assert!(acknowledged.len() < 1000, "the disk has no end");
        }
    }
    assert!(acknowledged.len() > 5, "{acknowledged:?}");
    let refusal = site.identityd.refused(Reason::Storage).await;
    assert!(refusal.to_string().contains("No space left"), "{refusal}");
    // A new session has no place either, and is not promised one.
    let mut other = site.leaf_tls("sensor-2").await.unwrap();
    assert_eq!(other.connect("sensor-2", false).await, None);
    // Reading makes room.
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    // What was never acknowledged may come as well.
    let mut got = Vec::new();
    while got.last() != acknowledged.last() {
        got.push(take(&mut client).await.0);
    }
    assert!(got.is_sorted() && acknowledged.iter().all(|n| got.contains(n)), "{got:?} of {acknowledged:?}");
    let mut sensor = loop {
        let mut sensor = site.leaf("sensor-1").await;
        sensor.publish(TOPIC, &payload(99, 50_000), Some(99)).await;
        if sensor.next().await == Some(puback(99)) {
            break sensor;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(sensor.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_survive_and_only_their_owner_sets_them() {
    let mut site = site().await;
    let retained = |topic: &str, payload: &[u8], id: u16| {
        Packet::Publish(Publish {
            dup: false,
            retain: true,
            delivery: Delivery::AtLeastOnce(PacketId::new(id).unwrap()),
            topic: TopicName::parse(topic).unwrap(),
            payload: payload.into(),
        })
    };
    let mut sensor = site.leaf("sensor-1").await;
    sensor.send(&retained(TOPIC, b"old", 1)).await;
    assert_eq!(sensor.next().await, Some(puback(1)));
    sensor.send(&retained(TOPIC, b"\x00\x07", 2)).await;
    assert_eq!(sensor.next().await, Some(puback(2)));
    sensor.send(&retained("leaf/sensor-2/glucose", b"false", 3)).await;
    assert_eq!(sensor.next().await, None, "another's topic");
    site.kill();
    for file in std::fs::read_dir(site.layout.gateway_state().join("sessions/journal")).unwrap() {
        let on_disk = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!on_disk.windows(4).any(|window| window == b"leaf"), "encrypted");
    }
    site.spawn().await;
    let mut client = analytics(&site, false, NEW.as_ref()).await;
    let before = site.status().await.journal.unwrap().bytes;
    client.subscribe("leaf/+/glucose").await;
    let Some(Packet::Publish(message)) = client.next().await else { panic!("no message") };
    assert!(message.retain && message.payload[..] == *b"\x00\x07");
    // Not acknowledged, so it comes again, after a kill too.
    site.until("in the journal", |status| status.journal.as_ref().is_some_and(|j| j.bytes > before)).await;
    site.kill();
    site.spawn().await;
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    assert_eq!(take(&mut client).await, (7, true));
    // Removed for good by who may.
    let mut sensor = site.leaf("sensor-1").await;
    sensor.send(&retained(TOPIC, b"", 4)).await;
    assert_eq!(sensor.next().await, Some(puback(4)));
    site.kill();
    site.spawn().await;
    assert_eq!(site.status().await.retained_messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_cannot_take_a_session_over() {
    let site = subscribed().await;
    publish_acknowledged(&site, 1..3).await;
    // A leaf device that calls itself as the module does, through its own door; and the module's name at another place.
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    let refused = Some(Packet::ConnAck { session_present: false, code: ConnectCode::IdentifierRejected });
    assert_eq!(sensor.connect("analytics", false).await, refused);
    let mut alerts = site.module_tls("alerts", 2).await.unwrap();
    assert_eq!(alerts.connect("analytics", true).await, refused);
    let named_alike = identity(site.svid(&leaf("analytics")), &site.root);
    let mut alike = Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &named_alike).await.unwrap();
    let stranger = Some(Packet::ConnAck { session_present: false, code: ConnectCode::NotAuthorized });
    assert_eq!(alike.connect("analytics", true).await, stranger, "a leaf of that name is another client");
    let elsewhere = identity(site.svid(&module("analytics")), &site.root);
    let mut elsewhere = Client::open(site.module_door(), site.address(2), &elsewhere).await.unwrap();
    assert_eq!(elsewhere.connect("analytics", true).await, None);
    let mut client = analytics(&site, false, RESUMED.as_ref()).await;
    take_all(&mut client, 1..3).await;
}
