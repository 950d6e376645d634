//! Every normative statement of MQTT 3.1.1 (OASIS Standard, appendix B) with the test that shows it, or why there is none.

use crate::common;

use std::collections::BTreeSet;

use common::*;
use edgewarden_mqtt::broker::*;
use edgewarden_mqtt::decode::decode;
use edgewarden_mqtt::packet::*;
use edgewarden_mqtt::topic::TopicFilter;

const CODEC: &str = "mqtt/tests/mqtt/codec.rs::what_the_specification_calls_malformed_is_refused";
const ROUND_TRIP: &str = "mqtt/tests/mqtt/codec.rs::what_is_encoded_decodes_to_itself";
const MATCHING: &str = "../foundation/names/src/topic.rs::matching";
const CONNECTING: &str = "mqtt/tests/mqtt/broker.rs::connecting_is_refused_with_the_code_that_says_why";
const WILL: &str = "mqtt/tests/mqtt/conformance.rs::a_will_is_published_once_as_it_was_left";
const RESUME: &str = "mqtt/tests/mqtt/broker.rs::what_was_not_acknowledged_comes_again_with_dup_in_order";
const RETAINED: &str =
    "mqtt/tests/mqtt/conformance.rs::retain_is_a_matter_of_the_publisher_and_of_new_subscriptions";
const UNSUBSCRIBING: &str = "mqtt/tests/mqtt/conformance.rs::unsubscribing_is_exact_and_always_answered";
const SUBSCRIBING: &str =
    "mqtt/tests/mqtt/conformance.rs::a_subscribe_is_answered_filter_by_filter_in_one_suback";
const ACKNOWLEDGING: &str =
    "mqtt/tests/mqtt/conformance.rs::a_publication_is_acknowledged_and_its_identifier_is_free";
/// A duty of clients.
const CLIENT: &str = "client";
/// QoS 2 is not offered.
const QOS_2: &str = "QoS 2";
/// WebSocket is not offered.
const WEBSOCKET: &str = "WebSocket";
/// Says of the broker as a whole, or of what carries it.
const WHOLE: &str = "whole";
/// The client identifier is the name in the certificate: another is answered with CONNACK 2, which MQTT-3.1.3-9 allows.
const NAMED: &str = CONNECTING;

const STATEMENTS: &[(&str, &str)] = &[
    ("1.5.3-1", CODEC),
    ("1.5.3-2", CODEC),
    ("1.5.3-3", "mqtt/tests/mqtt/conformance.rs::texts_are_taken_as_they_are"),
    ("2.2.2-1", ROUND_TRIP),
    ("2.2.2-2", CODEC),
    ("2.3.1-1", CODEC),
    ("2.3.1-2", CLIENT),
    ("2.3.1-3", CLIENT),
    ("2.3.1-4", "mqtt/src/broker/session.rs::no_identifier_is_in_flight_twice"),
    ("2.3.1-5", ROUND_TRIP),
    ("2.3.1-6", ACKNOWLEDGING),
    ("2.3.1-7", SUBSCRIBING),
    ("3.1.0-1", "mqtt/tests/mqtt/broker.rs::packets_out_of_place_end_the_connection"),
    ("3.1.0-2", "mqtt/tests/mqtt/broker.rs::packets_out_of_place_end_the_connection"),
    ("3.1.2-1", CODEC),
    ("3.1.2-2", "mqtt/tests/mqtt/broker.rs::another_protocol_level_is_told"),
    ("3.1.2-3", CODEC),
    ("3.1.2-4", RESUME),
    ("3.1.2-5", RESUME),
    ("3.1.2-6", RESUME),
    ("3.1.2-7", RETAINED),
    ("3.1.2-8", WILL),
    ("3.1.2-9", WILL),
    ("3.1.2-10", WILL),
    ("3.1.2-11", CODEC),
    ("3.1.2-12", WILL),
    ("3.1.2-13", CODEC),
    ("3.1.2-14", CODEC),
    ("3.1.2-15", CODEC),
    ("3.1.2-16", WILL),
    ("3.1.2-17", WILL),
    ("3.1.2-18", ROUND_TRIP),
    ("3.1.2-19", ROUND_TRIP),
    ("3.1.2-20", ROUND_TRIP),
    ("3.1.2-21", ROUND_TRIP),
    ("3.1.2-22", CODEC),
    ("3.1.2-23", CLIENT),
    (
        "3.1.2-24",
        "gatewayd/tests/gatewayd/broker.rs::a_silent_client_is_closed_and_its_will_goes_out_though_nothing_else_happens",
    ),
    ("3.1.3-1", ROUND_TRIP),
    ("3.1.3-2", "gatewayd/tests/gatewayd/sessions.rs::another_certificate_cannot_take_a_session_over"),
    ("3.1.3-3", CODEC),
    ("3.1.3-4", CODEC),
    ("3.1.3-5", NAMED),
    ("3.1.3-6", NAMED),
    ("3.1.3-7", CLIENT),
    ("3.1.3-8", NAMED),
    ("3.1.3-9", CONNECTING),
    ("3.1.3-10", CODEC),
    ("3.1.3-11", CODEC),
    ("3.1.4-1", "gatewayd/tests/gatewayd/broker.rs::what_is_not_mqtt_ends_the_connection"),
    ("3.1.4-2", "mqtt/tests/mqtt/broker.rs::a_second_connection_takes_over"),
    ("3.1.4-3", RESUME),
    ("3.1.4-4", "mqtt/tests/mqtt/conformance.rs::connack_comes_first_and_says_whether_there_is_a_session"),
    ("3.1.4-5", "mqtt/tests/mqtt/conformance.rs::nothing_is_taken_after_a_refused_connect"),
    ("3.2.0-1", "mqtt/tests/mqtt/conformance.rs::connack_comes_first_and_says_whether_there_is_a_session"),
    ("3.2.2-1", RESUME),
    ("3.2.2-2", RESUME),
    ("3.2.2-3", "mqtt/tests/mqtt/conformance.rs::connack_comes_first_and_says_whether_there_is_a_session"),
    ("3.2.2-4", CONNECTING),
    ("3.2.2-5", CONNECTING),
    ("3.2.2-6", "gatewayd/tests/gatewayd/broker.rs::what_is_not_mqtt_ends_the_connection"),
    ("3.3.1-1", RESUME),
    ("3.3.1-2", CODEC),
    ("3.3.1-3", "mqtt/tests/mqtt/conformance.rs::dup_is_of_one_connection_only"),
    ("3.3.1-4", CODEC),
    ("3.3.1-5", RETAINED),
    ("3.3.1-6", RETAINED),
    ("3.3.1-7", RETAINED),
    ("3.3.1-8", RETAINED),
    ("3.3.1-9", RETAINED),
    ("3.3.1-10", RETAINED),
    ("3.3.1-11", RETAINED),
    ("3.3.1-12", RETAINED),
    ("3.3.2-1", CODEC),
    ("3.3.2-2", CODEC),
    ("3.3.2-3", MATCHING),
    ("3.3.4-1", ACKNOWLEDGING),
    ("3.3.5-1", "mqtt/tests/mqtt/broker.rs::overlapping_subscriptions_deliver_once_with_the_highest_qos"),
    ("3.3.5-2", "mqtt/tests/mqtt/broker.rs::a_denied_publication_is_never_acknowledged_nor_delivered"),
    ("3.6.1-1", CODEC),
    ("3.8.1-1", CODEC),
    ("3.8.3-1", CODEC),
    ("3.8.3-2", MATCHING),
    ("3.8.3-3", CODEC),
    ("3-8.3-4", CODEC),
    ("3.8.4-1", SUBSCRIBING),
    ("3.8.4-2", SUBSCRIBING),
    ("3.8.4-3", "mqtt/tests/mqtt/conformance.rs::a_subscription_is_replaced_by_its_equal"),
    ("3.8.4-4", SUBSCRIBING),
    ("3.8.4-5", SUBSCRIBING),
    ("3.8.4-6", SUBSCRIBING),
    ("3.9.3-1", SUBSCRIBING),
    ("3.9.3-2", CODEC),
    ("3.10.1-1", CODEC),
    ("3.10.3-1", CODEC),
    ("3.10.3-2", CODEC),
    ("3.10.4-1", UNSUBSCRIBING),
    ("3.10.4-2", UNSUBSCRIBING),
    ("3.10.4-3", UNSUBSCRIBING),
    ("3.10.4-4", UNSUBSCRIBING),
    ("3.10.4-5", UNSUBSCRIBING),
    ("3.10.4-6", UNSUBSCRIBING),
    (
        "3.12.4-1",
        "mqtt/tests/mqtt/durable.rs::an_answer_waits_for_the_document_and_what_follows_waits_behind_it",
    ),
    ("3.14.1-1", CODEC),
    ("3.14.4-1", CLIENT),
    ("3.14.4-2", CLIENT),
    ("3.14.4-3", WILL),
    (
        "4.1.0-1",
        "gatewayd/tests/gatewayd/sessions.rs::what_waits_for_a_receiver_that_is_away_survives_a_kill",
    ),
    ("4.1.0-2", "mqtt/tests/mqtt/durable.rs::a_session_ends_when_its_client_was_away_for_too_long"),
    ("4.2.0-1", WHOLE),
    ("4.3.1-1", ROUND_TRIP),
    ("4.3.2-1", RESUME),
    ("4.3.2-2", ACKNOWLEDGING),
    ("4.3.3-1", QOS_2),
    ("4.3.3-2", QOS_2),
    ("4.4.0-1", RESUME),
    ("4.5.0-1", "gatewayd/tests/gatewayd/sessions.rs::nothing_acknowledged_is_lost_by_thirty_kills"),
    ("4.5.0-2", CLIENT),
    ("4.6.0-1", RESUME),
    ("4.6.0-2", "mqtt/tests/mqtt/broker.rs::a_durable_publication_is_acknowledged_when_stored_and_in_order"),
    ("4.6.0-3", QOS_2),
    ("4.6.0-4", QOS_2),
    ("4.6.0-5", "gatewayd/tests/gatewayd/broker.rs::nothing_acknowledged_is_lost_under_pressure"),
    ("4.6.0-6", "gatewayd/tests/gatewayd/broker.rs::nothing_acknowledged_is_lost_under_pressure"),
    ("4.7.1-1", CODEC),
    ("4.7.1-2", CODEC),
    ("4.7.1-3", CODEC),
    ("4.7.2-1", MATCHING),
    ("4.7.3-1", CODEC),
    ("4.7.3-2", CODEC),
    ("4.7.3-3", "../foundation/names/src/topic.rs::names"),
    ("4.7.3-4", "mqtt/tests/mqtt/conformance.rs::texts_are_taken_as_they_are"),
    ("4.8.0-1", "gatewayd/tests/gatewayd/attacks.rs::giants_and_nonsense_end_their_own_connection_only"),
    ("4.8.0-2", "mqtt/tests/mqtt/durable.rs::a_document_that_cannot_be_written_is_promised_to_nobody"),
    ("6.0.0-1", WEBSOCKET),
    ("6.0.0-2", WEBSOCKET),
    ("6.0.0-3", WEBSOCKET),
    ("6.0.0-4", WEBSOCKET),
    ("7.0.0-1", WHOLE),
    ("7.0.0-2", CLIENT),
];

#[test]
fn each_statement_is_there_once_and_each_test_exists() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut seen = BTreeSet::new();
    for (statement, shown_by) in STATEMENTS {
        assert!(seen.insert(statement), "{statement} is there twice");
        if [CLIENT, QOS_2, WEBSOCKET, WHOLE].contains(shown_by) {
            continue;
        }
        let (file, name) = shown_by.split_once("::").unwrap();
        let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
        assert!(text.contains(&format!("fn {name}(")), "{statement}: there is no {shown_by}");
    }
    assert_eq!(seen.len(), 140);
}

#[test]
fn texts_are_taken_as_they_are() {
    // U+FEFF first, and an e with an accent in two ways.
    for topic in ["\u{feff}a", "e\u{301}", "\u{e9}"] {
        let mut bytes = Vec::new();
        message(topic, b"", None).encode(&mut bytes).unwrap();
        let (decoded, _) = decode(&bytes, 100).unwrap().unwrap();
        assert_eq!(decoded, message(topic, b"", None));
    }
    assert!(!TopicFilter::parse("\u{e9}").unwrap().matches(&"e\u{301}".parse_topic()));
}

trait ParseTopic {
    fn parse_topic(&self) -> edgewarden_mqtt::TopicName;
}

impl ParseTopic for str {
    fn parse_topic(&self) -> edgewarden_mqtt::TopicName {
        edgewarden_mqtt::TopicName::parse(self).unwrap()
    }
}

#[test]
fn connack_comes_first_and_says_whether_there_is_a_session() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(1)));
    let got = bench.connect("s", false);
    assert_eq!(got[0], Packet::ConnAck { session_present: true, code: ConnectCode::Accepted });
    assert_eq!(got.len(), 2, "what waits comes behind it");
    bench.lose("s");
    assert_eq!(bench.connect("s", true), [ACCEPTED]);
    bench.lose("s");
    assert_eq!(bench.connect("s", false), [ACCEPTED], "nothing is stored");
}

#[test]
fn nothing_is_taken_after_a_refused_connect() {
    let mut bench = pair(Rules::default().deny("x connect"), Limits::default());
    bench.accept("x");
    bench.send("x", hello("x", true));
    for packet in [message("t/a", b"1", Some(1)), Packet::PingReq, hello("x", true)] {
        bench.send("x", packet);
    }
    assert_eq!(bench.got("s"), []);
    assert_eq!(bench.closed.len(), 1);
    assert_eq!(bench.broker.counts().sessions, 2);
}

#[test]
fn a_will_is_published_once_as_it_was_left() {
    for (retain, expected) in [(false, 0), (true, 1)] {
        let mut bench = Bench::new(Rules::default(), Limits::default());
        bench.connect("s", true);
        bench.subscribe("s", "#", Qos::AtLeastOnce);
        bench.accept("w");
        bench.send("w", with_will("w", Qos::AtLeastOnce, retain));
        bench.lose("w");
        bench.lose("w");
        assert_eq!(bench.got("s"), [message("will", &[1], Some(1))]);
        assert_eq!(bench.broker.counts().retained_messages, expected);
        // Gone with the connection that left it: neither a later one nor a farewell brings it back.
        bench.connect("w", true);
        bench.lose("w");
        bench.accept("w");
        bench.send("w", with_will("w", Qos::AtLeastOnce, retain));
        bench.send("w", Packet::Disconnect);
        assert_eq!(bench.got("s"), []);
        // QoS 0 goes out with QoS 0.
        bench.accept("w");
        bench.send("w", with_will("w", Qos::AtMostOnce, retain));
        bench.connect("w", true);
        assert_eq!(bench.got("s"), [message("will", &[1], None)], "also when another connection takes over");
    }
}

#[test]
fn retain_is_a_matter_of_the_publisher_and_of_new_subscriptions() {
    let mut bench = Bench::new(Rules::default(), Limits::default());
    bench.connect("live", true);
    bench.subscribe("live", "#", Qos::AtLeastOnce);
    bench.connect("p", true);
    let retained = |bench: &mut Bench| {
        bench.connect("late", true);
        let got = bench.subscribe("late", "#", Qos::AtLeastOnce);
        bench.send("late", Packet::Disconnect);
        got.into_iter().skip(1).collect::<Vec<_>>()
    };
    bench.send("p", publish("a", b"1", Some(1), false, true));
    assert_eq!(bench.got("live"), [message("a", b"1", Some(1))], "without RETAIN to who is there");
    assert_eq!(retained(&mut bench), [publish("a", b"1", Some(1), false, true)]);
    // Without RETAIN nothing is kept and nothing goes.
    bench.send("p", message("a", b"2", Some(1)));
    bench.send("p", message("a", b"", Some(2)));
    bench.send("p", message("b", b"3", Some(3)));
    assert_eq!(retained(&mut bench), [publish("a", b"1", Some(1), false, true)]);
    // With QoS 0 it takes the place of the one before, too.
    bench.send("p", publish("a", b"4", None, false, true));
    assert_eq!(retained(&mut bench), [publish("a", b"4", None, false, true)]);
    // The end of its publisher's session is not its end.
    bench.send("p", Packet::Disconnect);
    assert_eq!(retained(&mut bench).len(), 1);
    bench.got("live");
    bench.connect("p", true);
    bench.send("p", publish("a", b"", Some(1), false, true));
    let got = bench.got("live");
    assert!(
        matches!(&got[..], [Packet::Publish(Publish { retain: false, payload, .. })] if payload.is_empty())
    );
    assert_eq!(retained(&mut bench), []);
}

#[test]
fn dup_is_of_one_connection_only() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.send("p", publish("t/a", b"1", Some(1), true, false));
    assert_eq!(bench.got("s"), [message("t/a", b"1", Some(1))]);
}

#[test]
fn a_publication_is_acknowledged_and_its_identifier_is_free() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.send("p", message("t/a", b"0", None));
    assert_eq!(bench.got("p"), [], "QoS 0 has no answer");
    for n in 0..3 {
        // Acknowledged, so the same identifier is a new publication, whatever its DUP says.
        bench.send("p", publish("t/a", &[n], Some(7), n == 2, false));
        assert_eq!(bench.got("p"), [Packet::PubAck(id(7))]);
    }
    assert_eq!(bench.got("s").len(), 4);
}

#[test]
fn a_subscribe_is_answered_filter_by_filter_in_one_suback() {
    let mut bench = pair(Rules::default().deny("s subscribe no"), Limits::default());
    bench.send("p", publish("r", b"r", Some(1), false, true));
    let filters = [("r", Qos::AtMostOnce), ("no", Qos::AtLeastOnce), ("x/#", Qos::AtLeastOnce)];
    let filters = filters.map(|(text, qos)| (TopicFilter::parse(text).unwrap(), qos)).to_vec();
    bench.send("s", Packet::Subscribe(Subscribe { id: id(77), filters }));
    let codes = vec![
        SubscribeCode::Granted(Qos::AtMostOnce),
        SubscribeCode::Failure,
        SubscribeCode::Granted(Qos::AtLeastOnce),
    ];
    let got = bench.got("s");
    assert_eq!(got, [Packet::SubAck { id: id(77), codes }, publish("r", b"r", None, false, true)]);
    // The lower QoS of publication and subscription.
    for (topic, qos, expected) in [("r", Some(2), None), ("x/1", Some(3), Some(1)), ("x/1", None, None)] {
        bench.send("p", message(topic, b"", qos));
        assert_eq!(bench.got("s"), [message(topic, b"", expected)]);
    }
}

#[test]
fn a_subscription_is_replaced_by_its_equal() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.send("p", publish("t/a", b"1", Some(1), false, true));
    assert_eq!(bench.take_all("s").len(), 1);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let got = bench.subscribe("s", "t/#", qos);
        assert!(matches!(got[1], Packet::Publish(Publish { retain: true, .. })), "again what is retained");
        bench.send("p", message("t/b", b"2", Some(2)));
        let got = bench.got("s");
        assert!(matches!(&got[..], [Packet::Publish(publish)] if publish.delivery.qos() == qos), "{got:?}");
    }
    assert_eq!(bench.broker.counts().subscriptions, 1);
}

#[test]
fn unsubscribing_is_exact_and_always_answered() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.subscribe("s", "u", Qos::AtLeastOnce);
    bench.send("p", message("t/a", b"1", Some(1)));
    let filters = ["t/+", "T/#", "t/a", "u"].map(|text| TopicFilter::parse(text).unwrap()).to_vec();
    bench.send("s", Packet::Unsubscribe(Unsubscribe { id: id(9), filters }));
    assert_eq!(bench.got("s"), [message("t/a", b"1", Some(1)), Packet::UnsubAck(id(9))]);
    bench.send("p", message("t/a", b"2", Some(1)));
    bench.send("p", message("u", b"2", Some(2)));
    assert_eq!(bench.got("s"), [message("t/a", b"2", Some(2))], "only what was named as it is");
    let filters = vec![TopicFilter::parse("t/#").unwrap()];
    bench.send("s", Packet::Unsubscribe(Unsubscribe { id: id(10), filters }));
    bench.send("p", message("t/a", b"3", Some(3)));
    assert_eq!(bench.got("s"), [Packet::UnsubAck(id(10))]);
    // What was begun before is brought to its end.
    bench.lose("s");
    let got = bench.connect("s", false);
    assert_eq!(
        got[1..],
        [publish("t/a", b"1", Some(1), true, false), publish("t/a", b"2", Some(2), true, false)]
    );
}
