//! `gatewayd` as a process: who gets in, what is allowed, and what a change of policy does to open connections.

use crate::common;

use common::client::{ACCEPTED, Client, puback, publish};
use common::{POLICY, Site, identity, issuing, leaf, module};
use edgewarden_mqtt::packet::{Connect, ConnectCode, Delivery, Packet, PacketId, Qos, SubscribeCode, Will};
use edgewarden_mqtt::topic::TopicName;
use edgewarden_names::{Epoch, GatewayName, Reason, SpiffeId, UnixTime};

async fn site() -> Site {
    let site = Site::start(POLICY).await;
    site.identityd.run(&[("analytics", 1, site.address(1)), ("alerts", 2, site.address(2))]);
    site
}

fn granted() -> Packet {
    suback(SubscribeCode::Granted(Qos::AtLeastOnce))
}

fn with_will(name: &str, topic: &str, keep_alive_seconds: u16) -> Packet {
    Packet::Connect(Box::new(Connect {
        client_id: name.into(),
        clean_session: true,
        keep_alive_seconds,
        will: Some(Will {
            topic: TopicName::parse(topic).unwrap(),
            payload: b"gone".as_slice().into(),
            qos: Qos::AtLeastOnce,
            retain: false,
        }),
        user_name: None,
        password: None,
    }))
}

fn suback(code: SubscribeCode) -> Packet {
    Packet::SubAck { id: PacketId::MIN, codes: vec![code] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_goes_from_the_sensor_to_the_module_that_may_read_it() {
    let mut site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    assert_eq!(analytics.subscribe("leaf/+/glucose").await, Some(granted()));
    let mut sensor = site.leaf("sensor-1").await;
    sensor.publish("leaf/sensor-1/glucose", b"{\"mg_dl\":42}", Some(7)).await;
    assert_eq!(sensor.next().await, Some(puback(7)));
    assert_eq!(analytics.next().await, Some(publish("leaf/sensor-1/glucose", b"{\"mg_dl\":42}", Some(1))));
    let status = site.status().await;
    assert_eq!((status.epoch, status.trusted, status.connections.len()), (Some(Epoch(1)), true, 2));
    assert_eq!(status.connections[0].id, module("analytics").as_str());
    assert_eq!(site.identityd.refusals(), []);
    assert!(site.terminate(), "it ends well when asked to");
    assert_eq!(sensor.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_publication_is_not_acknowledged_and_ends_the_connection() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.subscribe("leaf/+/glucose").await;
    for (topic, qos) in [
        ("leaf/sensor-2/glucose", Some(1)),
        ("leaf/sensor-2/glucose", None),
        ("leaf/sensor-1/glucose/x", Some(1)),
        ("clinic/summary", Some(1)),
        ("undeclared", Some(1)),
    ] {
        let mut sensor = site.leaf("sensor-1").await;
        sensor.publish(topic, b"false", qos).await;
        assert_eq!(sensor.next().await, None, "{topic}");
    }
    let refusal = site.identityd.refused(Reason::PolicyDenied).await;
    assert_eq!(refusal.subject, "leaf sensor-1 publish leaf/sensor-2/glucose");
    assert!(refusal.rule.contains("epoch 1"), "{refusal}");
    assert!(analytics.is_open().await, "nothing was delivered before the answer to the ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_subscription_fails() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    for filter in ["#", "leaf/#", "+/+/glucose", "clinic/summary", "$SYS/#"] {
        assert_eq!(analytics.subscribe(filter).await, Some(suback(SubscribeCode::Failure)), "{filter}");
    }
    let mut sensor = site.leaf("sensor-1").await;
    assert_eq!(sensor.subscribe("leaf/sensor-1/glucose").await, Some(suback(SubscribeCode::Failure)));
    assert_eq!(
        analytics.subscribe("leaf/sensor-2/glucose").await,
        Some(granted()),
        "narrower than what is allowed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn place_and_key_must_agree() {
    let site = site().await;
    let svid = |id: &SpiffeId| identity(site.svid(id), &site.root);
    // A key of analytics used from the address of alerts, from no module's address, and by the leaves' door; a leaf's
    // key by the modules' door.
    let cases = [
        (module("analytics"), site.module_door(), site.address(2)),
        (module("analytics"), site.module_door(), site.address(9)),
        (module("analytics"), site.leaf_door(), [127, 0, 0, 1].into()),
        (leaf("sensor-1"), site.module_door(), site.address(1)),
    ];
    for (id, door, from) in cases {
        let mut client = Client::open(door, from, &svid(&id)).await.unwrap();
        assert_eq!(client.connect(id.as_str().rsplit('/').next().unwrap(), true).await, None, "{id} {from}");
    }
    site.identityd.refused(Reason::PlaceMismatch).await;
    assert_eq!(site.status().await.connections, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_identifier_is_the_name_in_the_certificate() {
    let site = site().await;
    for wrong in ["sensor-2", "", "sensor-1-2"] {
        let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
        let refused = Packet::ConnAck { session_present: false, code: ConnectCode::IdentifierRejected };
        assert_eq!(sensor.connect(wrong, true).await, Some(refused));
        assert_eq!(sensor.next().await, None);
    }
    site.identityd.refused(Reason::ClientIdMismatch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_in() {
    let site = site().await;
    // No policy for it: the handshake is fine, CONNECT is refused.
    let mut stranger = site.leaf_tls("unknown").await.unwrap();
    let refused = Packet::ConnAck { session_present: false, code: ConnectCode::NotAuthorized };
    assert_eq!(stranger.connect("unknown", true).await, Some(refused));
    // Another gateway of the same fleet, and a fleet of our name that is not ours.
    let elsewhere = GatewayName::parse("gw-2").unwrap();
    let id = SpiffeId::parse("spiffe://plant.example/gateway/gw-2/leaf/sensor-1").unwrap();
    let foreign =
        issuing(&site.root, &elsewhere).issue_svid(&id, &[], common::HOUR, UnixTime::now()).unwrap();
    let other_root =
        edgewarden_ca::RootCa::create(&common::domain(), common::HOUR * 1000, UnixTime::now()).unwrap();
    let false_svid = issuing(&other_root, &common::gateway())
        .issue_svid(&leaf("sensor-1"), &[], common::HOUR, UnixTime::now())
        .unwrap();
    for svid in [foreign, false_svid] {
        let identity = identity(svid, &site.root);
        if let Ok(mut client) = Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &identity).await {
            // In TLS 1.3 the client's handshake ends before the server has judged its certificate.
            assert_eq!(client.connect("sensor-1", true).await, None);
        }
    }
    assert_eq!(site.status().await.connections, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_mqtt_ends_the_connection() {
    let site = site().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x30, 0xff, 0xff, 0xff, 0x7f], &[0xc0, 0]] {
        let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
        sensor.send_bytes(bytes).await;
        assert_eq!(sensor.next().await, None);
    }
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    sensor
        .send_bytes(&[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 3, b'a', b'b', b'c'])
        .await;
    let refused = Packet::ConnAck { session_present: false, code: ConnectCode::ProtocolVersion };
    assert_eq!(sensor.next().await, Some(refused), "MQTT 5 is told which version is spoken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_bites_open_connections() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.subscribe("leaf/+/glucose").await;
    let mut one = site.leaf("sensor-1").await;
    let mut two = site.leaf("sensor-2").await;
    let quarantine = "@id(\"quarantine\") forbid (principal == Leaf::\"sensor-2\", action, resource);";
    site.identityd.enforce(&format!("{POLICY}{quarantine}"), 2);
    assert_eq!(two.next().await, None, "who may not connect any more is closed");
    site.identityd.enforced(Epoch(2)).await;
    assert!(one.is_open().await && analytics.is_open().await);

    let deaf = POLICY.replace("[Action::\"subscribe\", Action::\"receive\"]", "[Action::\"receive\"]");
    site.identityd.enforce(&deaf, 3);
    site.identityd.enforced(Epoch(3)).await;
    one.publish("leaf/sensor-1/glucose", b"x", Some(1)).await;
    assert_eq!(one.next().await, Some(puback(1)));
    assert!(analytics.is_open().await, "the subscription is gone, the connection is not");

    // An epoch that cannot be read leaves the last one in force.
    site.identityd.unreadable_epoch(4);
    site.identityd.run(&[]);
    assert!(one.is_open().await);
    assert_eq!(site.status().await.epoch, Some(Epoch(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_instance_and_a_failed_verdict_close_connections() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    // The same module at the same address, but another start.
    site.identityd.run(&[("analytics", 3, site.address(1))]);
    assert_eq!(analytics.next().await, None);
    site.identityd.refused(Reason::PlaceMismatch).await;
    let mut analytics = site.module_tls("analytics", 1).await.unwrap();
    let resumed = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };
    assert_eq!(analytics.connect("analytics", false).await, Some(resumed), "the new instance gets in");
    let mut sensor = site.leaf("sensor-1").await;
    site.identityd.trust(false);
    assert_eq!(analytics.next().await, None);
    assert_eq!(sensor.next().await, None);
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    let refused = Packet::ConnAck { session_present: false, code: ConnectCode::NotAuthorized };
    assert_eq!(sensor.connect("sensor-1", true).await, Some(refused));
    site.identityd.refused(Reason::AttestFailed).await;
    site.identityd.trust(true);
    site.until("trusted again", |status| status.trusted).await;
    site.leaf("sensor-1").await;
}

/// [MQTT-3.1.2-24] and section 3.1.2.5 on a broker where nothing else happens: the clock's effects wait for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_closed_and_its_will_goes_out_though_nothing_else_happens() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.subscribe("leaf/+/glucose").await;
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    sensor.send(&with_will("sensor-1", "leaf/sensor-1/glucose", 2)).await;
    assert_eq!(sensor.next().await, ACCEPTED);
    let start = std::time::Instant::now();
    // `next` gives up after 30 seconds; analytics has a keep alive of 60, and says nothing.
    let message = analytics.next().await;
    assert_eq!(message, Some(publish("leaf/sensor-1/glucose", b"gone", Some(1))));
    assert!(start.elapsed() >= std::time::Duration::from_secs(3), "one and a half times, not before");
    assert_eq!(sensor.next().await, None);
}

/// One 20 KB message ended its subscriber for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_its_topic_allows_is_refused_before_it_is_acknowledged() {
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.subscribe("leaf/+/glucose").await;
    let mut sensor = site.leaf("sensor-1").await;
    sensor.publish("leaf/sensor-1/glucose", &[7; 16 * 1024], Some(1)).await;
    assert_eq!(sensor.next().await, Some(puback(1)));
    assert!(matches!(analytics.next().await, Some(Packet::Publish(_))));
    sensor.publish("leaf/sensor-1/glucose", &vec![7; 20_000], Some(2)).await;
    assert_eq!(sensor.next().await, None);
    let refusal = site.identityd.refused(Reason::MessageTooLarge).await;
    assert_eq!(refusal.subject, "leaf sensor-1 publish leaf/sensor-1/glucose");
    assert!(refusal.rule.contains("20000 bytes") && refusal.rule.contains("16384"), "{refusal}");
    assert!(analytics.is_open().await, "it has never come near");
    // A topic for which the deployment says otherwise; and what it says bites those that are connected.
    analytics.publish("clinic/summary", &vec![7; 200_000], Some(1)).await;
    assert_eq!(analytics.next().await, Some(puback(1)));
    let mut sensor = site.leaf("sensor-1").await;
    site.identityd.enforce_with(POLICY, 2, &serde_json::json!({"bytes_max": 10}));
    site.identityd.enforced(Epoch(2)).await;
    sensor.publish("leaf/sensor-1/glucose", &[7; 11], Some(1)).await;
    assert_eq!(sensor.next().await, None);
}

/// `{leaf}` within a level stands for leaves' names there, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_size_for_leaves_within_a_level_is_of_their_topics_alone() {
    let policy = format!(
        "{POLICY}\n@id(\"raw\")\npermit (principal, action == Action::\"publish\", resource == \
         TopicFilter::\"everything\");"
    );
    let site = Site::start(&policy).await;
    for (topic, fits) in [
        ("raw/x-sensor-1/a", false),
        ("raw/x-pump-1", false),
        ("raw/sensor-1/a", true),
        ("raw/y-sensor-1/a", true),
        ("raw/x-/a", true),
        ("raw/x-No Leaf/a", true),
    ] {
        let mut sensor = site.leaf("sensor-1").await;
        sensor.publish(topic, &[7; 101], Some(1)).await;
        assert_eq!(sensor.next().await, fits.then(|| puback(1)), "{topic}");
    }
}

/// Whoever cleans `/run` does not lock the operator out.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_socket_is_put_back() {
    let site = site().await;
    let socket = site.layout.gateway_socket();
    for replaced in [false, true] {
        std::fs::remove_file(&socket).unwrap();
        if replaced {
            std::fs::write(&socket, "").unwrap();
        }
        for _ in 0..3000 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(site.status().await.trusted);
    }
    let refusal = site.identityd.refused(Reason::EnforcementAltered).await;
    assert!(refusal.subject.ends_with("control.sock") || refusal.subject.contains("gatewayd"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_certificate() {
    let site = site().await;
    let lifetime = std::time::Duration::from_secs(3);
    let svid = site.issuing.issue_svid(&leaf("sensor-1"), &[], lifetime, UnixTime::now()).unwrap();
    let end = svid.not_after;
    let identity = identity(svid, &site.root);
    let mut sensor = Client::open(site.leaf_door(), [127, 0, 0, 1].into(), &identity).await.unwrap();
    assert_eq!(sensor.connect("sensor-1", true).await, ACCEPTED);
    assert_eq!(sensor.next().await, None);
    assert!(UnixTime::now() >= end);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_has_given_up_rights() {
    let site = site().await;
    // Every thread: the test harness's own, in whose process it runs, too.
    let threads = std::fs::read_dir(format!("/proc/{}/task", site.pid())).unwrap();
    let mut count = 0;
    for thread in threads {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(field("Seccomp:"), "2");
        let filters = if cfg!(target_arch = "x86_64") { "4" } else { "3" };
        assert_eq!(field("Seccomp_filters:"), filters, "fatal calls, clone3, x32 calls, what is allowed");
        assert_eq!(field("NoNewPrivs:"), "1");
        count += 1;
    }
    assert!(count > 3);
}

/// A publisher that never waits, a reader that goes away again and again: what is acknowledged arrives, in order.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_under_pressure() {
    const MESSAGES: u16 = 3000;
    let site = site().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.subscribe("leaf/+/glucose").await;
    let mut sensor = site.leaf("sensor-1").await;
    let publisher = async {
        let mut acknowledged = 0;
        for n in 1..=MESSAGES {
            // All of it fits the session, should the reader be away for so long.
            let payload = [&n.to_be_bytes()[..], &[0; 1000]].concat();
            sensor.publish("leaf/sensor-1/glucose", &payload, Some(n)).await;
            // As many in flight as clients are wont to have, so that no side waits for the other for ever.
            if n > 100 {
                acknowledged += 1;
                assert_eq!(sensor.next().await, Some(puback(acknowledged)));
            }
        }
        while acknowledged < MESSAGES {
            acknowledged += 1;
            assert_eq!(sensor.next().await, Some(puback(acknowledged)));
        }
    };
    let reader = async {
        let mut next = 1;
        while next <= MESSAGES {
            let Some(Packet::Publish(message)) = analytics.next().await else { panic!("no message {next}") };
            let Delivery::AtLeastOnce(id) = message.delivery else { panic!("QoS 0") };
            let n = u16::from_be_bytes([message.payload[0], message.payload[1]]);
            assert!(n == next || (message.dup && n < next), "{n} came where {next} was due");
            next = next.max(n + 1);
            if n % 500 == 7 && !message.dup {
                // Gone without an acknowledgement, back with the session.
                analytics = site.module_tls("analytics", 1).await.unwrap();
                let resumed = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };
                assert_eq!(analytics.connect("analytics", false).await, Some(resumed));
                continue;
            }
            analytics.send(&Packet::PubAck(id)).await;
        }
    };
    tokio::join!(publisher, reader);
    let status = site.until("all taken", |status| status.waiting_messages == 0).await;
    assert_eq!((status.dropped_qos0, status.refused), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_judged_by_the_time_that_identityd_tells_and_not_by_the_system_clock() {
    let site = site().await;
    let shows = async |identity: &edgewarden_transport::Identity| {
        let mut client = Client::open(site.leaf_door(), std::net::Ipv4Addr::LOCALHOST, identity).await?;
        Ok::<_, std::io::Error>(client.connect("sensor-1", true).await == ACCEPTED)
    };
    // The system clock of this machine is right; identityd says that it is ten days later.
    let later = UnixTime::now().plus(common::HOUR * 240);
    let issuer = common::issuing_at(&site.root, &common::gateway(), later);
    let certify = |now| issuer.issue_svid(&leaf("sensor-1"), &[], common::HOUR, now).unwrap();
    let clock = edgewarden_transport::Clock::new();
    clock.tell(common::identityd::told(later).offset_millis);
    let of_then = identity(certify(later), &site.root).with_clock(clock.clone());
    let of_now = identity(site.svid(&leaf("sensor-1")), &site.root);
    assert!(shows(&of_now).await.unwrap());
    assert!(!shows(&of_then).await.is_ok_and(|taken| taken), "it begins in ten days");
    site.identityd.tell(later);
    site.identityd.enforce(POLICY, 2);
    site.identityd.enforced(Epoch(2)).await;
    // Its own certificate has ended by then; until it has another it meets nobody.
    assert!(!shows(&of_now).await.is_ok_and(|taken| taken), "it ended nine days ago");
    site.identityd.certify(&issuer, later, &site.root);
    let mut taken = false;
    for _ in 0..100 {
        taken = shows(&of_then).await.is_ok_and(|taken| taken);
        if taken {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(taken, "valid at the time that identityd tells");
    site.identityd.tell(UnixTime::now());
    site.identityd.enforce(POLICY, 3);
    site.identityd.enforced(Epoch(3)).await;
    assert!(!shows(&of_then).await.is_ok_and(|taken| taken), "and not when it takes that back");
}
