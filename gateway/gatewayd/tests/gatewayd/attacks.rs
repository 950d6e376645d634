//! Attempts of strangers and of members of the wrong kind, while an honest sensor and an honest module go on.

use crate::common;

use std::net::Ipv4Addr;

use common::client::{ACCEPTED, Client, puback};
use common::{POLICY, Site, identity, leaf};
use edgewarden_mqtt::packet::{
    Connect, ConnectCode, Delivery, Packet, PacketId, Publish, Qos, Subscribe, SubscribeCode, Will,
};
use edgewarden_mqtt::topic::{TopicFilter, TopicName};
use edgewarden_names::{Epoch, Reason, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const TOPIC: &str = "leaf/sensor-1/glucose";

async fn site() -> Site {
    let site = Site::start(POLICY).await;
    site.identityd.run(&[("analytics", 1, site.address(1)), ("alerts", 2, site.address(2))]);
    site
}

/// A reading from `sensor-1` reaches `analytics`.
async fn works(site: &Site, analytics: &mut Client) {
    let mut sensor = site.leaf("sensor-1").await;
    sensor.publish(TOPIC, b"42", Some(1)).await;
    assert_eq!(sensor.next().await, Some(puback(1)));
    let Some(Packet::Publish(message)) = analytics.next().await else { panic!("no message") };
    let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
    analytics.send(&Packet::PubAck(id)).await;
}

async fn analytics(site: &Site) -> Client {
    let mut analytics = site.module("analytics", 1).await;
    assert!(analytics.subscribe("leaf/+/glucose").await.is_some());
    analytics
}

async fn open(site: &Site, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(site.leaf_door()).await
}

/// Connections that say nothing, or half of a handshake: more than there are places, from many addresses.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_silent_connections_keep_nobody_out() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let mut member = site.leaf("sensor-2").await;
    let mut silent = Vec::new();
    for n in 0..5000u16 {
        let [a, b] = (n / 200).to_be_bytes();
        let Ok(mut stream) = open(&site, Ipv4Addr::new(127, 99, a, b + 1)).await else { break };
        if n % 2 == 0 {
            // The head of a TLS record that never ends.
            drop(stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await);
        }
        silent.push(stream);
    }
    assert!(silent.len() >= 5000, "{}", silent.len());
    works(&site, &mut analytics).await;
    assert!(member.is_open().await, "who is known keeps its place");
    // The oldest had to make room.
    let mut end = [0];
    assert!(matches!(silent[0].read(&mut end).await, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_its_share_and_no_more() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        streams.push(open(&site, Ipv4Addr::new(127, 98, 0, 1)).await.unwrap());
    }
    let mut end = [0];
    for late in &mut streams[256..] {
        assert!(matches!(late.read(&mut end).await, Ok(0) | Err(_)));
    }
    works(&site, &mut analytics).await;
}

/// A member that sends CONNECT byte by byte, or not at all, is let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connect_is_not_waited_for() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let mut slow = site.leaf_tls("sensor-2").await.unwrap();
    let mut bytes = Vec::new();
    connect("sensor-2", None).encode(&mut bytes).unwrap();
    let (now, started) = (UnixTime::now(), std::time::Instant::now());
    let trickle = async {
        for byte in bytes {
            slow.send_bytes(&[byte]).await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), trickle).await;
    works(&site, &mut analytics).await;
    assert_eq!(slow.next().await, None, "{ended:?} {now:?} {:?}", started.elapsed());
}

fn connect(name: &str, will: Option<Will>) -> Packet {
    Packet::Connect(Box::new(Connect {
        client_id: name.into(),
        clean_session: true,
        keep_alive_seconds: 60,
        will,
        user_name: None,
        password: None,
    }))
}

fn will(topic: &str, retain: bool) -> Will {
    Will {
        topic: TopicName::parse(topic).unwrap(),
        payload: b"13".as_slice().into(),
        qos: Qos::AtLeastOnce,
        retain,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_goes_only_where_its_client_may_publish_also_when_it_is_due() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let refused = Some(Packet::ConnAck { session_present: false, code: ConnectCode::NotAuthorized });
    for topic in ["leaf/sensor-2/glucose", "clinic/summary", "$SYS/x", "undeclared"] {
        let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
        sensor.send(&connect("sensor-1", Some(will(topic, true)))).await;
        assert_eq!(sensor.next().await, refused, "{topic}");
    }
    // Allowed when it was left, forbidden when it is due.
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    sensor.send(&connect("sensor-1", Some(will(TOPIC, true)))).await;
    assert_eq!(sensor.next().await, ACCEPTED);
    let mute =
        "@id(\"mute\") forbid (principal == Leaf::\"sensor-1\", action == Action::\"publish\", resource);";
    site.identityd.enforce(&format!("{POLICY}{mute}"), 2);
    site.identityd.enforced(Epoch(2)).await;
    drop(sensor);
    site.until("gone", |status| status.connections.len() == 1).await;
    assert!(analytics.is_open().await, "no message before the answer");
    assert_eq!(site.status().await.retained_messages, 0);
}

/// The same change of policy ends the connection and forbids the will; an ended instance's will is judged by the policy
/// that came with the word of its end; and a failed verdict lets nothing out.
#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_judged_by_the_policy_that_ends_its_connection() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let leave = async |epoch: Option<(&str, u64)>, sensor: &str| {
        let mut client = site.leaf_tls(sensor).await.unwrap();
        client.send(&connect(sensor, Some(will(&format!("leaf/{sensor}/glucose"), true)))).await;
        assert_eq!(client.next().await, ACCEPTED);
        match epoch {
            Some((policy, epoch)) => site.identityd.enforce(policy, epoch),
            None => site.identityd.trust(false),
        }
        assert_eq!(client.next().await, None);
    };
    let out = "@id(\"out\") forbid (principal == Leaf::\"sensor-1\", action, resource);";
    leave(Some((&format!("{POLICY}{out}"), 2)), "sensor-1").await;
    site.identityd.enforced(Epoch(2)).await;
    assert!(analytics.is_open().await, "no message before the answer");
    // May not connect, but what it has left may be said.
    let quiet =
        "@id(\"quiet\") forbid (principal == Leaf::\"sensor-2\", action == Action::\"connect\", resource);";
    leave(Some((&format!("{POLICY}{quiet}"), 3)), "sensor-2").await;
    assert!(matches!(analytics.next().await, Some(Packet::Publish(_))));
    site.identityd.enforce(POLICY, 4);
    site.identityd.enforced(Epoch(4)).await;
    assert_eq!(site.status().await.retained_messages, 1);
    leave(None, "sensor-1").await;
    let status = site.until("not trusted", |status| !status.trusted).await;
    assert_eq!(status.retained_messages, 1, "neither a new one, nor is one lost");
    site.identityd.trust(true);
    site.until("trusted", |status| status.trusted).await;
    let mut client = site.module_tls("analytics", 1).await.unwrap();
    let resumed = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };
    assert_eq!(client.connect("analytics", false).await, Some(resumed));
    // What was in flight to it comes again; of the will of sensor-1 there is nothing.
    let Some(Packet::Publish(message)) = client.next().await else { panic!("no message") };
    assert_eq!(message.topic.as_str(), "leaf/sensor-2/glucose");
    assert!(client.is_open().await);
}

/// The modules' port is not there for anybody outside of their network, whatever way the packets take.
#[tokio::test(flavor = "multi_thread")]
async fn the_modules_port_does_not_answer_other_networks() {
    let site = site().await;
    let _analytics = analytics(&site).await;
    let [_, second, third, _] = site.network.octets();
    for from in
        [[127, 0, 0, 1], [127, second, third.wrapping_add(1), 2], [127, second.wrapping_add(1), third, 2]]
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
        let connecting = socket.connect(site.module_door());
        let answer = tokio::time::timeout(std::time::Duration::from_secs(2), connecting).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{from:?} is answered");
    }
    let inside = TcpSocket::new_v4().unwrap();
    inside.bind((site.address(9), 0).into()).unwrap();
    inside.connect(site.module_door()).await.unwrap();
}

/// Publications under way while the policy changes: none that is acknowledged after the change was forbidden by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_during_a_change_of_policy_is_judged_by_one_of_the_two() {
    let site = site().await;
    let _analytics = analytics(&site).await;
    for epoch in (2..20).step_by(2) {
        let mut sensor = site.leaf("sensor-1").await;
        for n in 1..=200 {
            sensor.publish(TOPIC, b"42", Some(n)).await;
        }
        let out =
            "@id(\"out\") forbid (principal == Leaf::\"sensor-1\", action == Action::\"publish\", resource);";
        site.identityd.enforce(&format!("{POLICY}{out}"), epoch);
        site.identityd.enforced(Epoch(epoch)).await;
        sensor.publish(TOPIC, b"late", Some(1000)).await;
        while let Some(packet) = sensor.next().await {
            assert_ne!(packet, puback(1000));
        }
        site.identityd.enforce(POLICY, epoch + 1);
        site.identityd.enforced(Epoch(epoch + 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giants_and_nonsense_end_their_own_connection_only() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let topic = |name: &[u8]| {
        let mut packet =
            vec![0x32, u8::try_from(name.len() + 5).unwrap(), 0, u8::try_from(name.len()).unwrap()];
        packet.extend_from_slice(name);
        packet.extend_from_slice(&[0, 1, b'x']);
        packet
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("256 MiB announced", vec![0x32, 0xff, 0xff, 0xff, 0x7f]),
        ("U+0000 in the topic", topic(b"leaf/sensor-1\0/glucose")),
        ("no UTF-8 in the topic", topic(b"leaf/\xff\xfe/glucose")),
        ("a surrogate in the topic", topic(b"leaf/\xed\xa0\x80/glucose")),
        ("a wildcard in the topic", topic(b"leaf/+/glucose")),
        ("an empty topic", topic(b"")),
        ("a second CONNECT", {
            let mut bytes = Vec::new();
            connect("sensor-1", None).encode(&mut bytes).unwrap();
            bytes
        }),
        ("a length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1]),
        ("an answer that is ours to give", vec![0x20, 2, 0, 0]),
        ("QoS 3", vec![0x36, 6, 0, 1, b'a', 0, 1, b'x']),
        ("packet identifier 0", vec![0x32, 6, 0, 1, b'a', 0, 0, b'x']),
    ];
    for (what, bytes) in cases {
        let mut sensor = site.leaf("sensor-1").await;
        sensor.send_bytes(&bytes).await;
        assert_eq!(sensor.next().await, None, "{what}");
    }
    works(&site, &mut analytics).await;
}

/// Filters by the ten thousand, allowed and not, from a module with a persistent session.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_subscriptions_is_bounded_and_the_alarm_still_comes() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let storm = async {
        let mut sensor = site.leaf_tls("sensor-2").await.unwrap();
        assert_eq!(sensor.connect("sensor-2", false).await, ACCEPTED);
        for packet in 0..200u16 {
            let filters = (0..64)
                .map(|n| (TopicFilter::parse(&format!("leaf/{packet}/{n}")).unwrap(), Qos::AtLeastOnce))
                .collect();
            sensor.send(&Packet::Subscribe(Subscribe { id: PacketId::MIN, filters })).await;
        }
        for _ in 0..200 {
            let Some(Packet::SubAck { codes, .. }) = sensor.next().await else { panic!("no SUBACK") };
            assert!(codes.iter().all(|code| *code == SubscribeCode::Failure));
        }
    };
    let honest = async {
        for _ in 0..5 {
            works(&site, &mut analytics).await;
        }
    };
    tokio::join!(storm, honest);
    // Of its own, the module has as many as it may.
    let mut granted = 0;
    for n in 0..200 {
        let answer = analytics.subscribe(&format!("leaf/other-{n}/glucose")).await;
        granted += usize::from(
            matches!(answer, Some(Packet::SubAck { codes, .. }) if codes != [SubscribeCode::Failure]),
        );
    }
    assert_eq!(granted, 127, "and the one that it had");
    works(&site, &mut analytics).await;
}

/// The same client over and over: each connection ends the one before, none is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_over_and_over_has_one_connection() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let mut all = Vec::new();
    for n in 0..50 {
        let mut sensor = site.leaf_tls("sensor-2").await.unwrap();
        assert!(sensor.connect("sensor-2", n % 2 == 0).await.is_some());
        all.push(sensor);
    }
    let mut last = all.pop().unwrap();
    for mut earlier in all {
        assert_eq!(earlier.next().await, None);
    }
    assert!(last.is_open().await);
    assert_eq!(site.status().await.connections.len(), 2);
    works(&site, &mut analytics).await;
}

/// Nothing that the client says outlives its certificate, and a clean session ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_after_the_end_of_the_certificate() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let lifetime = std::time::Duration::from_secs(3);
    let svid = site.issuing.issue_svid(&leaf("sensor-1"), &[], lifetime, UnixTime::now()).unwrap();
    let end = svid.not_after;
    let short = identity(svid, &site.root);
    let mut sensor = Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &short).await.unwrap();
    assert_eq!(sensor.connect("sensor-1", true).await, ACCEPTED);
    let mut n = 0;
    loop {
        n += 1;
        sensor.publish(TOPIC, b"42", Some(n)).await;
        match sensor.next().await {
            Some(packet) => assert_eq!(packet, puback(n)),
            None => break,
        }
        assert!(UnixTime::now().0 <= end.0 + 1, "acknowledged after the end");
        let Some(Packet::Publish(message)) = analytics.next().await else { panic!("no message") };
        let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
        analytics.send(&Packet::PubAck(id)).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Nor does the ended certificate open a new connection.
    if let Ok(mut again) = Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &short).await {
        assert_eq!(again.connect("sensor-1", true).await, None);
    }
    assert_eq!(site.status().await.sessions, 1, "analytics' own");
}

/// Handshakes under a root of one's own, each with another name, from many addresses: they hide nobody's refusal.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_with_invented_names_hide_no_refusal_of_a_leaf() {
    let site = site().await;
    let own_root =
        edgewarden_ca::RootCa::create(&common::domain(), common::HOUR * 1000, UnixTime::now()).unwrap();
    let forger = common::issuing(&own_root, &common::gateway());
    for n in 0..115u8 {
        let name = format!("invented-{n}");
        let svid = forger.issue_svid(&leaf(&name), &[], common::HOUR, UnixTime::now()).unwrap();
        let from = Ipv4Addr::new(127, 97, 0, n + 1);
        if let Ok(mut client) = Client::open(site.leaf_door(), from, &identity(svid, &site.root)).await {
            assert_eq!(client.connect(&name, true).await, None);
        }
    }
    let mut sensor = site.leaf("sensor-2").await;
    sensor.publish(TOPIC, b"42", Some(1)).await;
    let denied = site.identityd.refused(Reason::PolicyDenied).await;
    assert!(denied.subject.contains("sensor-2"), "{denied}");
    site.identityd.refused(Reason::PeerUnauthorized).await;
    let refusals = site.identityd.refusals();
    let strangers = refusals.iter().filter(|refusal| refusal.reason == Reason::PeerUnauthorized);
    assert!(strangers.clone().count() <= 64, "{refusals:?}");
    for refusal in strangers {
        assert!(refusal.subject.parse::<std::net::IpAddr>().is_ok(), "a claim, not an address: {refusal}");
    }
}

/// A member whose packets are never read to the end by itself: its output is bounded, the others do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_reads_holds_up_nobody() {
    let site = site().await;
    let mut analytics = analytics(&site).await;
    let mut deaf = site.leaf("sensor-2").await;
    for _ in 0..20_000 {
        deaf.send(&Packet::PingReq).await;
    }
    works(&site, &mut analytics).await;
    let retained = Packet::Publish(Publish {
        dup: false,
        retain: true,
        delivery: Delivery::AtLeastOnce(PacketId::MIN),
        topic: TopicName::parse("leaf/sensor-1/glucose").unwrap(),
        payload: vec![0; 255 * 1024].into(),
    });
    // Too much to be retained with what a topic and an entry cost.
    let mut sensor = site.leaf("sensor-1").await;
    for _ in 0..2 {
        sensor.send(&retained).await;
    }
    drop(sensor.next().await);
    assert!(site.status().await.retained_messages <= 1);
    assert_eq!(site.identityd.refusals().iter().filter(|r| r.reason == Reason::Internal).count(), 0);
}
