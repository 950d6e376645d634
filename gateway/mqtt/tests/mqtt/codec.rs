//! The codec against the normative statements of MQTT 3.1.1, and against itself.

use std::sync::Arc;

use edgewarden_mqtt::decode::{DecodeError as E, decode};
use edgewarden_mqtt::packet::*;
use edgewarden_mqtt::topic::{TopicError, TopicFilter, TopicName};
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<Option<Packet>, E> {
    decode(bytes, PACKET_BYTES_MAX).map(|found| {
        found.map(|(packet, used)| {
            assert_eq!(used, bytes.len());
            packet
        })
    })
}

/// CONNECT with the given connect flags and payload.
fn connect(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10, 10 + payload.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60];
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn what_the_specification_calls_malformed_is_refused() {
    let cases: &[(&str, Vec<u8>, E)] = &[
        ("type 0 is forbidden", vec![0x00, 0], E::PacketType(0)),
        ("type 15 is forbidden", vec![0xf0, 0], E::PacketType(15)),
        ("MQTT-2.2.2-2 CONNECT flags", vec![0x11, 0], E::Flags { packet_type: 1, flags: 1 }),
        ("MQTT-2.2.2-2 PUBACK flags", vec![0x42, 2, 0, 1], E::Flags { packet_type: 4, flags: 2 }),
        ("MQTT-3.6.1-1 PUBREL flags", vec![0x60, 2, 0, 1], E::Flags { packet_type: 6, flags: 0 }),
        ("MQTT-3.8.1-1 SUBSCRIBE flags", vec![0x80, 0], E::Flags { packet_type: 8, flags: 0 }),
        ("MQTT-3.10.1-1 UNSUBSCRIBE flags", vec![0xa0, 0], E::Flags { packet_type: 10, flags: 0 }),
        ("MQTT-3.14.1-1 DISCONNECT flags", vec![0xe1, 0], E::Flags { packet_type: 14, flags: 1 }),
        ("2.2.3 five length bytes", vec![0xc0, 0x80, 0x80, 0x80, 0x80, 0x01], E::RemainingLength),
        ("2.2.3 four length bytes all continued", vec![0xc0, 0xff, 0xff, 0xff, 0xff], E::RemainingLength),
        ("a length longer than it needs", vec![0xc0, 0x80, 0x00], E::RemainingLength),
        (
            "over the limit",
            vec![0x30, 0xff, 0xff, 0xff, 0x7f],
            E::TooLarge { bytes: 268_435_460, bytes_max: PACKET_BYTES_MAX },
        ),
        ("PINGREQ with a body", vec![0xc0, 1, 0], E::Trailing(1)),
        ("DISCONNECT with a body", vec![0xe0, 1, 0], E::Trailing(1)),
        ("MQTT-3.1.2-1 protocol name", vec![0x10, 7, 0, 4, b'M', b'Q', b'T', b'X', 4], E::ProtocolName),
        ("MQTT 3.1", vec![0x10, 9, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3], E::ProtocolName),
        ("MQTT 5", vec![0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', 5], E::ProtocolLevel(5)),
        ("MQTT-3.1.2-3 reserved connect flag", connect(0b11, &[0, 1, b'a']), E::ConnectFlags),
        ("MQTT-3.1.2-13 will QoS without will", connect(0b1010, &[0, 1, b'a']), E::ConnectFlags),
        ("MQTT-3.1.2-15 will retain without will", connect(0b10_0010, &[0, 1, b'a']), E::ConnectFlags),
        ("MQTT-3.1.2-14 will QoS 3", connect(0b1_1110, &[0, 1, b'a']), E::Qos),
        ("MQTT-3.1.2-22 password without user", connect(0b0100_0010, &[0, 1, b'a']), E::ConnectFlags),
        ("MQTT-3.1.3-3 no client identifier", connect(0b10, &[]), E::Truncated),
        ("client identifier too long", connect(0b10, &[1, 0]), E::Truncated),
        ("MQTT-1.5.3-1 ill-formed UTF-8", connect(0b10, &[0, 1, 0xff]), E::Text),
        ("MQTT-1.5.3-1 a surrogate", connect(0b10, &[0, 3, 0xed, 0xa0, 0x80]), E::Text),
        ("MQTT-1.5.3-2 U+0000", connect(0b10, &[0, 1, 0]), E::Text),
        ("will announced, not there", connect(0b110, &[0, 1, b'a']), E::Truncated),
        ("CONNECT with more behind it", connect(0b10, &[0, 1, b'a', 0]), E::Trailing(1)),
        ("MQTT-3.3.1-4 QoS 3", vec![0x36, 5, 0, 1, b'a', 0, 1], E::Qos),
        ("MQTT-3.3.1-2 DUP with QoS 0", vec![0x38, 3, 0, 1, b'a'], E::Dup),
        ("MQTT-2.3.1-1 packet identifier 0", vec![0x32, 5, 0, 1, b'a', 0, 0], E::PacketId),
        ("PUBLISH without identifier", vec![0x32, 3, 0, 1, b'a'], E::Truncated),
        ("MQTT-3.3.2-2 wildcard in a name", vec![0x30, 3, 0, 1, b'#'], E::Topic(TopicError::WildcardInName)),
        ("MQTT-4.7.3-1 empty topic", vec![0x30, 2, 0, 0], E::Topic(TopicError::Length(0))),
        ("topic longer than the packet", vec![0x30, 3, 0, 9, b'a'], E::Truncated),
        ("MQTT-3.8.3-3 no filter", vec![0x82, 2, 0, 1], E::List),
        ("MQTT-3-8.3-4 reserved bits of the QoS", vec![0x82, 6, 0, 1, 0, 1, b'a', 4], E::Qos),
        ("SUBSCRIBE without QoS", vec![0x82, 5, 0, 1, 0, 1, b'a'], E::Truncated),
        (
            "MQTT-4.7.1-2 `#` inside",
            vec![0x82, 8, 0, 1, 0, 3, b'#', b'/', b'a', 0],
            E::Topic(TopicError::WildcardPlace),
        ),
        (
            "MQTT-4.7.1-3 `+` with more",
            vec![0x82, 7, 0, 1, 0, 2, b'a', b'+', 0],
            E::Topic(TopicError::WildcardPlace),
        ),
        ("MQTT-3.10.3-2 no filter", vec![0xa2, 2, 0, 1], E::List),
        ("MQTT-3.9.3-2 SUBACK code 3", vec![0x90, 3, 0, 1, 3], E::ReturnCode(3)),
        ("CONNACK code 6", vec![0x20, 2, 0, 6], E::ReturnCode(6)),
        ("MQTT-3.2.2-4 session with a refusal", vec![0x20, 2, 1, 5], E::ConnectFlags),
        ("CONNACK reserved flags", vec![0x20, 2, 2, 0], E::ConnectFlags),
        ("PUBACK too long", vec![0x40, 3, 0, 1, 0], E::Trailing(1)),
        ("PUBACK too short", vec![0x40, 1, 0], E::Truncated),
    ];
    for (name, bytes, expected) in cases {
        // The claimed remaining length is made to fit, so that the case meets its own fault.
        let mut bytes = bytes.clone();
        if bytes[1] < 0x80 {
            bytes[1] = (bytes.len() - 2) as u8;
        }
        assert_eq!(parse(&bytes).err().as_ref(), Some(expected), "{name}");
    }
}

#[test]
fn lists_are_bounded() {
    let mut body = vec![0, 1];
    for _ in 0..=FILTERS_PER_PACKET_MAX {
        body.extend_from_slice(&[0, 1, b'a', 0]);
    }
    let mut bytes = vec![0x82, 0x80 | (body.len() % 128) as u8, (body.len() / 128) as u8];
    bytes.extend_from_slice(&body);
    assert_eq!(parse(&bytes), Err(E::List));
    let long = "a".repeat(CLIENT_ID_BYTES_MAX + 1);
    let connect = Connect { client_id: long, ..plain_connect() };
    let mut bytes = Vec::new();
    Packet::Connect(Box::new(connect)).encode(&mut bytes).unwrap();
    assert_eq!(parse(&bytes), Err(E::ClientId(CLIENT_ID_BYTES_MAX + 1)));
}

fn plain_connect() -> Connect {
    Connect {
        client_id: "sensor-1".into(),
        clean_session: true,
        keep_alive_seconds: 60,
        will: None,
        user_name: None,
        password: None,
    }
}

/// An over-large packet is refused before its body is there, and every shorter prefix asks for more.
#[test]
fn a_packet_is_awaited_only_as_far_as_it_may_go() {
    let publish = Packet::Publish(Publish {
        dup: false,
        retain: false,
        delivery: Delivery::AtMostOnce,
        topic: TopicName::parse("a").unwrap(),
        payload: vec![7; 300].into(),
    });
    let mut bytes = Vec::new();
    publish.encode(&mut bytes).unwrap();
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes[..cut], PACKET_BYTES_MAX), Ok(None), "{cut}");
    }
    assert_eq!(decode(&bytes[..3], 305), Err(E::TooLarge { bytes: 306, bytes_max: 305 }));
    assert_eq!(decode(&bytes, 306), Ok(Some((publish, 306))));
}

prop_compose! {
    fn topic()(text in "[a-zé$]{0,4}(/[a-z ]{0,4}){0,4}") -> TopicName {
        TopicName::parse(&text).unwrap_or_else(|_| TopicName::parse("t").unwrap())
    }
}
prop_compose! {
    fn filter()(text in "(\\+|[a-z]{0,3})(/(\\+|[a-z]{0,3})){0,4}(/#)?") -> TopicFilter {
        TopicFilter::parse(&text).unwrap_or_else(|_| TopicFilter::parse("#").unwrap())
    }
}
fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}
fn id() -> impl Strategy<Value = PacketId> {
    (1u16..).prop_map(|n| PacketId::new(n).unwrap())
}
fn payload(most: usize) -> impl Strategy<Value = Arc<[u8]>> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Into::into)
}
prop_compose! {
    fn any_connect()(
        client_id in "[a-z0-9-]{0,20}", clean_session: bool, keep_alive_seconds: u16,
        will in proptest::option::of((topic(), payload(50), qos(), any::<bool>())),
        user in proptest::option::of("[^\0]{0,10}"), password in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..10)),
    ) -> Connect {
        Connect {
            client_id, clean_session, keep_alive_seconds,
            will: will.map(|(topic, payload, qos, retain)| Will { topic, payload, qos, retain }),
            password: password.filter(|_| user.is_some()), user_name: user,
        }
    }
}
fn packet() -> impl Strategy<Value = Packet> {
    let publish = (any::<bool>(), any::<bool>(), qos(), id(), topic(), payload(2000)).prop_map(
        |(dup, retain, qos, id, topic, payload)| {
            let delivery = match qos {
                Qos::AtMostOnce => Delivery::AtMostOnce,
                Qos::AtLeastOnce => Delivery::AtLeastOnce(id),
                Qos::ExactlyOnce => Delivery::ExactlyOnce(id),
            };
            Packet::Publish(Publish { dup: dup && qos != Qos::AtMostOnce, retain, delivery, topic, payload })
        },
    );
    let code = prop_oneof![qos().prop_map(SubscribeCode::Granted), Just(SubscribeCode::Failure)];
    prop_oneof![
        any_connect().prop_map(|c| Packet::Connect(Box::new(c))),
        (0usize..6, any::<bool>()).prop_map(|(code, session)| {
            let code = ConnectCode::ALL[code];
            Packet::ConnAck { session_present: session && code == ConnectCode::Accepted, code }
        }),
        publish,
        id().prop_map(Packet::PubAck),
        id().prop_map(Packet::PubRec),
        id().prop_map(Packet::PubRel),
        id().prop_map(Packet::PubComp),
        (id(), proptest::collection::vec((filter(), qos()), 1..10))
            .prop_map(|(id, filters)| Packet::Subscribe(Subscribe { id, filters })),
        (id(), proptest::collection::vec(code, 1..10)).prop_map(|(id, codes)| Packet::SubAck { id, codes }),
        (id(), proptest::collection::vec(filter(), 1..10))
            .prop_map(|(id, filters)| Packet::Unsubscribe(Unsubscribe { id, filters })),
        id().prop_map(Packet::UnsubAck),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
        Just(Packet::Disconnect),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(packet in packet(), more in proptest::collection::vec(any::<u8>(), 0..8)) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(&more);
        prop_assert_eq!(decode(&bytes, PACKET_BYTES_MAX), Ok(Some((packet, length))));
    }

    /// Whatever decodes has one spelling only.
    #[test]
    fn what_decodes_encodes_to_itself(
        bytes in proptest::collection::vec(any::<u8>(), 0..80), first in any::<u8>(), packet in packet(), at in any::<prop::sample::Index>(),
    ) {
        let mut random = vec![first, bytes.len() as u8];
        random.extend_from_slice(&bytes);
        let mut mutated = Vec::new();
        packet.encode(&mut mutated).unwrap();
        let place = at.index(mutated.len());
        mutated[place] = first;
        for input in [random, mutated] {
            if let Ok(Some((packet, used))) = decode(&input, PACKET_BYTES_MAX) {
                let mut again = Vec::new();
                packet.encode(&mut again).unwrap();
                prop_assert_eq!(&again[..], &input[..used]);
            }
        }
    }
}
