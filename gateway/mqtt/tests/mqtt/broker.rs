//! The broker's answer to each packet, and to each change of what is allowed.

use crate::common;

use std::collections::HashSet;
use std::time::Duration;

use common::*;
use edgewarden_mqtt::broker::*;
use edgewarden_mqtt::decode::DecodeError;
use edgewarden_mqtt::packet::*;
use edgewarden_mqtt::topic::TopicFilter;
use edgewarden_names::{Reason, Refusal};

#[test]
fn connecting_is_refused_with_the_code_that_says_why() {
    let rules = Rules::default().deny("out connect").deny("w publish will");
    let cases: Vec<(&'static str, Packet, ConnectCode, Reason)> = vec![
        ("out", hello("out", true), ConnectCode::NotAuthorized, Reason::PolicyDenied),
        ("a", hello("b", true), ConnectCode::IdentifierRejected, Reason::ClientIdMismatch),
        ("a", hello("a-2", true), ConnectCode::IdentifierRejected, Reason::ClientIdMismatch),
        ("a", hello("", true), ConnectCode::IdentifierRejected, Reason::ClientIdMismatch),
        ("a", hello("", false), ConnectCode::IdentifierRejected, Reason::ClientIdMismatch),
        ("w", with_will("w", Qos::AtLeastOnce, false), ConnectCode::NotAuthorized, Reason::PolicyDenied),
        ("a", with_will("a", Qos::ExactlyOnce, false), ConnectCode::NotAuthorized, Reason::RequestInvalid),
    ];
    for (client, connect, code, reason) in cases {
        let mut bench = Bench::new(rules.clone(), Limits::default());
        bench.accept(client);
        bench.send(client, connect);
        assert_eq!(bench.closed, [(ConnectionId(1), refused(code))], "{client} {code:?}");
        assert_eq!(bench.refusals, [reason]);
        assert_eq!(bench.broker.counts().sessions, 0);
    }
}

#[test]
fn too_many_sessions_are_refused() {
    let mut bench = Bench::new(Rules::default(), Limits { sessions_max: 1, ..Limits::default() });
    bench.connect("a", false);
    bench.lose("a");
    bench.connect("b", true);
    assert_eq!(bench.closed.last().unwrap().1, refused(ConnectCode::ServerUnavailable));
    assert_eq!(bench.connect("a", false).len(), 1, "who has a session comes back");
}

#[test]
fn another_protocol_level_is_told() {
    let mut bench = Bench::new(Rules::default(), Limits::default());
    bench.accept("a");
    bench.broker.malformed(ConnectionId(1), &DecodeError::ProtocolLevel(5), bench.now);
    bench.act();
    assert_eq!(bench.closed, [(ConnectionId(1), refused(ConnectCode::ProtocolVersion))]);
}

#[test]
fn packets_out_of_place_end_the_connection() {
    let ack = Packet::SubAck { id: id(1), codes: vec![SubscribeCode::Failure] };
    for packet in
        [message("t", b"", None), Packet::PingReq, Packet::Disconnect, Packet::PubAck(id(1)), ACCEPTED]
    {
        let mut bench = Bench::new(Rules::default(), Limits::default());
        bench.accept("a");
        bench.send("a", packet.clone());
        assert!(!bench.is_open("a"), "MQTT-3.1.0-1: {packet:?} before CONNECT");
    }
    for packet in [
        hello("a", true),
        ACCEPTED,
        ack,
        Packet::UnsubAck(id(1)),
        Packet::PingResp,
        Packet::PubRec(id(1)),
        Packet::PubRel(id(1)),
        Packet::PubComp(id(1)),
    ] {
        let mut bench = Bench::new(Rules::default(), Limits::default());
        bench.connect("a", true);
        bench.send("a", packet.clone());
        assert!(!bench.is_open("a"), "{packet:?} after CONNECT");
        assert_eq!(bench.refusals, [Reason::RequestInvalid]);
    }
}

#[test]
fn qos_2_is_refused_and_granted_as_1() {
    let mut bench = pair(Rules::default(), Limits::default());
    let granted = Packet::SubAck { id: id(1), codes: vec![SubscribeCode::Granted(Qos::AtLeastOnce)] };
    assert_eq!(bench.subscribe("s", "x", Qos::ExactlyOnce), [granted]);
    let Packet::Publish(mut publish) = message("t/1", b"x", Some(1)) else { unreachable!() };
    publish.delivery = Delivery::ExactlyOnce(id(1));
    bench.send("p", Packet::Publish(publish));
    assert!(!bench.is_open("p"));
    assert_eq!(bench.got("s"), []);
}

#[test]
fn a_denied_publication_is_never_acknowledged_nor_delivered() {
    for qos in [None, Some(9)] {
        let mut bench = pair(Rules::default().deny("p publish t/other"), Limits::default());
        bench.send("p", message("t/other", b"x", qos));
        assert_eq!(bench.closed, [(bench.ids["p"], vec![])]);
        assert_eq!(bench.refusals, [Reason::PolicyDenied]);
        assert_eq!(bench.got("s"), []);
    }
}

#[test]
fn a_denied_subscription_fails_alone_and_receiving_is_asked_apart() {
    let mut bench =
        pair(Rules::default().deny("s subscribe #").deny("s receive t/secret"), Limits::default());
    let filters = ["#", "u"].map(|f| (TopicFilter::parse(f).unwrap(), Qos::AtMostOnce)).to_vec();
    bench.send("s", Packet::Subscribe(Subscribe { id: id(7), filters }));
    let codes = vec![SubscribeCode::Failure, SubscribeCode::Granted(Qos::AtMostOnce)];
    assert_eq!(bench.got("s"), [Packet::SubAck { id: id(7), codes }]);
    bench.send("p", message("t/secret", b"x", Some(1)));
    bench.send("p", message("t/open", b"x", Some(2)));
    assert_eq!(bench.got("s"), [message("t/open", b"x", Some(1))]);
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1)), Packet::PubAck(id(2))]);
}

#[test]
fn overlapping_subscriptions_deliver_once_with_the_highest_qos() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.subscribe("s", "t/+", Qos::AtMostOnce);
    bench.send("p", message("t/a", b"x", Some(1)));
    assert_eq!(bench.got("s"), [message("t/a", b"x", Some(1))]);
}

#[test]
fn what_was_not_acknowledged_comes_again_with_dup_in_order() {
    let mut bench = pair(Rules::default(), Limits::default());
    for n in 1..=3 {
        bench.send("p", message("t/a", &[n], Some(n.into())));
    }
    assert_eq!(bench.got("s").len(), 3);
    bench.send("s", Packet::PubAck(id(2)));
    bench.lose("s");
    bench.send("p", message("t/a", &[4], Some(4)));
    assert_eq!(
        bench.connect("s", false),
        [
            Packet::ConnAck { session_present: true, code: ConnectCode::Accepted },
            publish("t/a", &[1], Some(1), true, false),
            publish("t/a", &[3], Some(3), true, false),
            message("t/a", &[4], Some(4)),
        ]
    );
    for n in [1, 3, 4, 4] {
        bench.send("s", Packet::PubAck(id(n)));
    }
    assert_eq!(bench.broker.counts().waiting_messages, 0);
    assert_eq!(bench.broker.counts().waiting_bytes, 0);
    // A clean session forgets.
    bench.lose("s");
    assert_eq!(bench.connect("s", true), [ACCEPTED]);
    bench.send("p", message("t/a", b"x", Some(9)));
    assert_eq!(bench.got("s"), []);
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut bench = pair(Rules::default(), Limits { window_messages_max: 2, ..Limits::default() });
    for n in 1..=5 {
        bench.send("p", message("t/a", &[n], Some(n.into())));
    }
    assert_eq!(bench.got("p").len(), 5, "all are owned");
    assert_eq!(bench.got("s"), [message("t/a", &[1], Some(1)), message("t/a", &[2], Some(2))]);
    bench.send("s", Packet::PubAck(id(1)));
    assert_eq!(bench.got("s"), [message("t/a", &[3], Some(3))]);
}

#[test]
fn a_durable_publication_is_acknowledged_when_stored_and_in_order() {
    let rules = Rules { durable: HashSet::from(["t/up"]), ..Rules::default() };
    let mut bench = pair(rules, Limits::default());
    bench.credit = 0;
    bench.send("p", message("t/up", b"1", Some(1)));
    bench.send("p", message("t/a", b"2", Some(2)));
    bench.send("p", message("t/up", b"3", Some(3)));
    assert_eq!(bench.got("p"), [], "MQTT-4.6.0-2: the second waits for the first");
    assert_eq!(bench.got("s").len(), 3, "local delivery does not wait for the disk");
    let tickets: Vec<_> = bench.stores.iter().map(|(ticket, _)| *ticket).collect();
    bench.broker.stored(tickets[1], Ok(()), bench.now);
    bench.act();
    assert_eq!(bench.got("p"), []);
    bench.broker.stored(tickets[0], Ok(()), bench.now);
    bench.act();
    assert_eq!(bench.got("p"), [1, 2, 3].map(|n| Packet::PubAck(id(n))));
    assert_eq!(bench.credit, 3);
    // A full queue: no acknowledgement, the connection ends, the reason is on record.
    bench.send("p", message("t/up", b"4", Some(4)));
    let full = Refusal::new(Reason::QueueFull, "p", "full");
    bench.broker.stored(bench.stores[2].0, Err(full.clone()), bench.now);
    bench.act();
    assert_eq!(bench.closed, [(bench.ids["p"], vec![])]);
    assert_eq!(bench.refusals, [Reason::QueueFull]);
    // QoS 0 is lost with a record, and the connection stays.
    bench.connect("p", true);
    bench.send("p", message("t/up", b"5", None));
    bench.broker.stored(bench.stores[3].0, Err(full), bench.now);
    bench.act();
    assert!(bench.is_open("p"));
}

#[test]
fn a_repetition_of_what_is_under_way_is_let_be_and_a_reused_identifier_is_a_violation() {
    let rules = Rules { durable: HashSet::from(["t/up"]), ..Rules::default() };
    let mut bench = pair(rules, Limits::default());
    bench.send("p", message("t/up", b"1", Some(1)));
    bench.send("p", publish("t/up", b"1", Some(1), true, false));
    assert_eq!(bench.stores.len(), 1);
    assert!(bench.is_open("p"));
    bench.send("p", message("t/up", b"2", Some(1)));
    assert!(!bench.is_open("p"));
}

#[test]
fn retained_messages_are_kept_replaced_and_removed() {
    let mut bench = Bench::new(Rules::default().deny("late receive c"), Limits::default());
    bench.connect("p", true);
    for (topic, payload) in [("a", &b"1"[..]), ("a", b"2"), ("b", b"x"), ("b", b""), ("c", b"y")] {
        bench.send("p", publish(topic, payload, Some(1), false, true));
    }
    assert_eq!(bench.got("p").len(), 5);
    bench.connect("late", true);
    let got = bench.subscribe("late", "#", Qos::AtLeastOnce);
    let retained = publish("a", b"2", Some(1), false, true);
    assert_eq!(got[1..], [retained], "the newest, with RETAIN, and only what it may receive");
    // MQTT-3.3.1-9: to a live subscription it goes without RETAIN.
    bench.send("p", publish("a", b"3", None, false, true));
    assert_eq!(bench.got("late"), [message("a", b"3", None)]);
}

#[test]
fn a_will_is_published_unless_the_client_said_goodbye() {
    for (goodbye, expected) in [(false, vec![message("will", &[1], Some(1))]), (true, vec![])] {
        let mut bench = Bench::new(Rules::default(), Limits::default());
        bench.connect("s", true);
        bench.subscribe("s", "will", Qos::AtLeastOnce);
        bench.accept("w");
        bench.send("w", with_will("w", Qos::AtLeastOnce, false));
        if goodbye {
            bench.send("w", Packet::Disconnect);
        }
        bench.lose("w");
        assert_eq!(bench.got("s"), expected, "goodbye {goodbye}");
    }
}

#[test]
fn a_second_connection_takes_over() {
    let mut bench = pair(Rules::default(), Limits::default());
    let first = bench.ids["s"];
    bench.send("p", message("t/a", b"x", Some(1)));
    let got = bench.connect("s", false);
    assert!(bench.closed.iter().any(|(id, _)| *id == first), "MQTT-3.1.4-2");
    assert_eq!(got[1], publish("t/a", b"x", Some(1), true, false));
    bench.broker.lost(first, bench.now);
    bench.act();
    assert!(bench.is_open("s"));
}

#[test]
fn the_silent_are_closed() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.accept("mute");
    for (seconds, mute, s) in [(9, true, true), (11, false, true), (89, false, true), (91, false, false)] {
        bench.now = Duration::from_secs(seconds);
        bench.send("p", Packet::PingReq);
        bench.broker.tick(bench.now);
        bench.act();
        assert_eq!((bench.is_open("mute"), bench.is_open("s")), (mute, s), "MQTT-3.1.2-24 at {seconds} s");
    }
    assert!(bench.is_open("p"));
}

#[test]
fn a_new_policy_bites_what_is_open() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.connect("gone", false);
    bench.subscribe("gone", "t/#", Qos::AtLeastOnce);
    bench.subscribe("s", "u", Qos::AtLeastOnce);
    bench.send("p", publish("t/kept", b"r", Some(1), false, true));
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(2)));
    let rules = Rules::default()
        .deny("gone connect")
        .deny("s subscribe t/#")
        .deny("s receive t/a")
        .deny("p publish t/kept");
    bench.policy(rules);
    assert!(!bench.is_open("gone"));
    assert!(bench.is_open("p"));
    assert_eq!(bench.broker.counts().retained_messages, 0);
    let got = bench.connect("s", false);
    assert_eq!(got[1..], [publish("t/kept", b"r", Some(1), true, false)], "what it may still receive");
    bench.send("p", message("t/a", b"2", Some(3)));
    bench.send("p", message("u", b"3", Some(4)));
    assert_eq!(bench.got("s"), [message("u", b"3", Some(2))]);
}

#[test]
fn a_reader_that_does_not_read_is_bounded() {
    let limits = Limits { output_bytes_max: 1000, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    bench.connect("slow", true);
    bench.subscribe("slow", "t/#", Qos::AtMostOnce);
    for n in 0..100 {
        bench.send("p", message("t/a", &[n; 100], None));
    }
    assert!(bench.broker.counts().dropped_qos0 > 150, "QoS 0 is dropped, and counted");
    assert!(bench.got("slow").len() < 20);
    for _ in 0..2000 {
        bench.send("slow", Packet::PingReq);
    }
    assert!(!bench.is_open("slow"), "one that lets answers pile up is closed");
}

#[test]
fn subscriptions_are_bounded_and_unsubscribing_ends_delivery() {
    let mut bench = pair(Rules::default(), Limits { subscriptions_per_session_max: 2, ..Limits::default() });
    bench.subscribe("s", "a", Qos::AtMostOnce);
    let failure = [Packet::SubAck { id: id(1), codes: vec![SubscribeCode::Failure] }];
    assert_eq!(bench.subscribe("s", "b", Qos::AtMostOnce), failure);
    let filters = vec![TopicFilter::parse("t/#").unwrap(), TopicFilter::parse("never").unwrap()];
    bench.send("s", Packet::Unsubscribe(Unsubscribe { id: id(5), filters }));
    assert_eq!(bench.got("s"), [Packet::UnsubAck(id(5))]);
    bench.send("p", message("t/a", b"x", Some(1)));
    assert_eq!(bench.got("s"), []);
}
