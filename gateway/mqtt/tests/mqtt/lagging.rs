//! Receivers that lag, messages that nobody survives, and the share of each client in every pool.

use crate::common;

use std::collections::HashSet;
use std::time::Duration;

use common::*;
use edgewarden_mqtt::broker::*;
use edgewarden_mqtt::packet::*;
use edgewarden_names::Reason;

fn small() -> Limits {
    Limits { session_messages_max: 10, window_messages_max: 4, ..Limits::default() }
}

/// A subscriber that is away and one that never reads: publishers, upstream and a healthy subscriber do not notice.
#[test]
fn a_receiver_that_lags_holds_up_nobody_and_loses_its_oldest() {
    let rules = Rules { durable: HashSet::from(["t/up"]), ..Rules::default() };
    let mut bench = pair(rules, small());
    for client in ["deaf", "well"] {
        bench.connect(client, false);
        bench.subscribe(client, "t/#", Qos::AtLeastOnce);
    }
    bench.lose("s");
    bench.credit = 0;
    let mut well = Vec::new();
    for n in 1..=50u16 {
        bench.send("p", message("t/up", &n.to_be_bytes(), Some(n)));
        well.extend(bench.take_all("well"));
    }
    assert_eq!(bench.stores.len(), 50, "all of it goes upstream");
    for (ticket, _) in std::mem::take(&mut bench.stores) {
        bench.broker.stored(ticket, Ok(()), bench.now);
    }
    bench.act();
    assert_eq!(bench.got("p").len(), 50, "all of it is acknowledged");
    assert_eq!(bench.credit, 50 + 50, "the publisher's and the acknowledgements of the one that is well");
    let expected: Vec<Vec<u8>> = (1..=50u16).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(well, expected);
    assert!(bench.is_open("p") && bench.is_open("deaf"));
    // The one that is away has the newest, in order; the one that is deaf what was on its way, and the newest.
    bench.come("s");
    assert_eq!(bench.take_all("s"), expected[40..]);
    let deaf = bench.take_all("deaf");
    assert_eq!(deaf, [&expected[..4], &expected[44..]].concat());
    // Told under their names, not the publisher's, and not once for each message.
    let told: Vec<_> = bench.told.iter().map(|told| (told.reason, told.subject.as_str())).collect();
    assert_eq!(told, [(Reason::ReceiverLagging, "deaf"), (Reason::ReceiverLagging, "s")]);
    let counts = bench.broker.counts();
    assert_eq!((counts.lost, counts.waiting_messages, counts.waiting_bytes), (80, 0, 0));
    let lost: Vec<_> =
        bench.broker.receivers_behind().into_iter().map(|r| (r.client, r.lost, r.lagging)).collect();
    assert_eq!(lost, [("deaf", 40, true), ("s", 40, true)]);
    // And of all of it, when it is over.
    bench.tick(Duration::from_secs(9));
    assert_eq!(bench.told.len(), 2);
    bench.tick(Duration::from_secs(1));
    let told: Vec<_> = bench.told[2..].iter().map(|told| (told.reason, told.subject.as_str())).collect();
    assert_eq!(told, [(Reason::ReceiverLagging, "deaf"), (Reason::ReceiverLagging, "s")]);
    assert!(bench.told[2..].iter().all(|told| told.rule.ends_with("39 lost, 40 in all")), "{:?}", bench.told);
    // What they lost is not on disk any more.
    assert_eq!(bench.disk.settled.len(), 150);
    bench.tick(Duration::from_secs(61));
    assert!(bench.broker.receivers_behind().iter().all(|receiver| !receiver.lagging));
    assert_eq!(bench.told.len(), 4, "once");
}

#[test]
fn a_receiver_that_is_declared_so_loses_its_session() {
    for away in [false, true] {
        let rules = Rules { strict: HashSet::from(["s"]), ..Rules::default() };
        let mut bench = pair(rules, small());
        if away {
            bench.lose("s");
        }
        for n in 1..=11u16 {
            bench.send("p", message("t/a", &n.to_be_bytes(), Some(n)));
        }
        assert_eq!(bench.got("p").len(), 11);
        assert!(!bench.is_open("s"));
        let counts = bench.broker.counts();
        assert_eq!((counts.lost, counts.sessions, counts.subscriptions, counts.waiting_bytes), (11, 1, 0, 0));
        assert_eq!(bench.refusals, [Reason::ReceiverLagging]);
        assert_eq!(bench.disk.forgotten, ["s"]);
        assert_eq!(bench.connect("s", false), [ACCEPTED], "it knows that it must subscribe again");
    }
}

/// The pool of all sessions is full of one client's messages: that one loses, whoever the next message is for.
#[test]
fn who_holds_most_of_the_pool_loses() {
    let limits = Limits { waiting_bytes_max: 100_000, session_bytes_kept: 2000, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    bench.connect("r", false);
    bench.subscribe("r", "u/#", Qos::AtLeastOnce);
    bench.connect("q", true);
    bench.lose("s");
    bench.lose("r");
    for n in 1..=200u16 {
        bench.send("p", message("t/a", &[0; 900], Some(n)));
        assert!(bench.broker.counts().waiting_bytes <= 102_000);
    }
    assert_eq!(bench.got("p").len(), 200);
    for n in 1..=20u16 {
        bench.send("q", message("u/a", &n.to_be_bytes(), Some(n)));
    }
    assert_eq!(bench.got("q").len(), 20);
    bench.come("r");
    assert_eq!(bench.take_all("r").len(), 20, "nothing of the smaller one");
    assert!(bench.told.iter().all(|told| told.subject == "s"), "{:?}", bench.told);
    assert_eq!(bench.broker.counts().lost + bench.broker.counts().waiting_messages as u64, 200);
}

/// It was sent before the bound was lowered, or is small and bad all the same.
#[test]
fn a_message_that_ends_three_connections_is_set_aside() {
    let mut bench = pair(Rules::default(), Limits::default());
    for payload in [&b"1"[..], b"2", b"poison", b"4", b"5"] {
        bench.send("p", message("t/a", payload, Some(1)));
        bench.got("p");
    }
    let mut connections = 0;
    let mut taken: Vec<Vec<u8>> = Vec::new();
    // The client reads all there is, dies at the bad one, and acknowledges in the end: so not what came with it.
    while taken.len() < 4 {
        assert!(connections < 20, "a loop without an end: {taken:?}");
        let packets = bench.got("s");
        let messages: Vec<_> = packets
            .into_iter()
            .filter_map(|packet| match packet {
                Packet::Publish(Publish { payload, delivery: Delivery::AtLeastOnce(id), .. }) => {
                    Some((payload, id))
                }
                _ => None,
            })
            .collect();
        if messages.iter().any(|(payload, _)| payload[..] == *b"poison") {
            bench.lose("s");
            connections += 1;
            bench.come("s");
            continue;
        }
        for (payload, id) in messages {
            taken.push(payload.to_vec());
            bench.send("s", Packet::PubAck(id));
        }
    }
    assert_eq!(taken, [&b"1"[..], b"2", b"4", b"5"], "in order, and none of them set aside");
    assert_eq!(bench.refusals, [Reason::MessageSetAside]);
    assert_eq!(bench.told[0].subject, "s");
    assert!(bench.told[0].rule.contains("of p on t/a (6 bytes) ended 3 connections"), "{}", bench.told[0]);
    let behind = bench.broker.receivers_behind();
    assert_eq!((behind[0].client, behind[0].set_aside, behind[0].waiting_messages), ("s", 1, 0));
    let (_, aside) = bench.broker.set_aside().remove(0);
    assert!(bench.broker.counts().waiting_bytes > 0, "it is charged");
    assert!(bench.broker.drop_set_aside(&"s", aside.number, bench.now).is_some());
    assert_eq!(bench.broker.counts().waiting_bytes, 0);
    assert_eq!(bench.disk.settled.len(), 5);
}

/// A message that a client holds back, its connections ended by something else, is not to blame for what a later one does.
#[test]
fn what_comes_later_waits_for_a_message_under_suspicion() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.send("p", message("t/a", b"innocent", Some(1)));
    for _ in 0..2 {
        bench.got("s");
        bench.lose("s");
        bench.come("s");
    }
    bench.send("p", message("t/a", b"poison", Some(2)));
    let sent = bench.got("s");
    assert_eq!(sent[1..], [publish("t/a", b"innocent", Some(1), true, false)], "alone");
    bench.send("p", message("t/a", b"more", Some(3)));
    assert_eq!(bench.got("s"), []);
    bench.send("s", Packet::PubAck(id(1)));
    for _ in 0..3 {
        assert!(bench.got("s").len() > 1);
        bench.lose("s");
        bench.come("s");
    }
    let aside = bench.broker.set_aside();
    assert_eq!((aside.len(), &aside[0].1.payload[..]), (1, &b"poison"[..]));
    assert_eq!(bench.take_all("s"), [b"more"]);
}

/// A client that acknowledges nothing holds few bytes that cannot be taken from it.
#[test]
fn what_is_in_flight_is_bounded_in_bytes() {
    let mut bench = pair(Rules::default(), Limits::default());
    let publications =
        |packets: &[Packet]| packets.iter().filter(|p| matches!(p, Packet::Publish(_))).count();
    for n in 1..=200u16 {
        bench.send("p", message("t/a", &[0; 4000], Some(n)));
    }
    let mut sent = bench.got("s");
    assert_eq!(publications(&sent), 256 * 1024 / (4000 + 3 + 256));
    assert_eq!(bench.broker.counts().lost, 0);
    sent.truncate(1);
    let Packet::Publish(Publish { delivery: Delivery::AtLeastOnce(first), .. }) = sent.remove(0) else {
        panic!("{sent:?}");
    };
    bench.send("s", Packet::PubAck(first));
    assert_eq!(publications(&bench.got("s")), 1, "one for one");
    bench.lose("s");
    bench.come("s");
    assert_eq!(bench.take_all("s").len(), 199);
    assert_eq!(bench.broker.counts().waiting_bytes, 0);
    // One is always on its way, whatever its size.
    for n in 1..=2u16 {
        bench.send("p", message("t/a", &vec![0; 262_000], Some(n)));
        assert_eq!(publications(&bench.got("s")), usize::from(n == 1));
    }
    assert_eq!(bench.take_all("s").len(), 0);
    bench.lose("s");
    bench.come("s");
    assert_eq!(bench.take_all("s").len(), 2);
}

/// Connections that we end, that end before anything was handed over, or that the client ends in order, say nothing of a
/// message.
#[test]
fn only_the_clients_own_ends_count() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.send("p", message("t/a", b"1", Some(1)));
    for round in 0..12 {
        match round % 3 {
            0 => {
                bench.got("s");
                bench.policy(Rules::default().deny("s connect"));
                bench.policy(Rules::default());
            }
            1 => {
                bench.got("s");
                bench.send("s", Packet::Disconnect);
            }
            _ => bench.lose("s"),
        }
        bench.come("s");
    }
    assert_eq!(bench.broker.set_aside(), []);
    assert_eq!(bench.take_all("s"), [b"1"]);
}

/// A client that dies whatever it is sent: it is the client, and what waits for it is not set aside one by one.
#[test]
fn a_client_that_takes_nothing_is_not_the_messages_fault() {
    let limits = Limits { set_aside_messages_max: 3, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    for n in 1..=20u16 {
        bench.send("p", message("t/a", &[n as u8; 10], Some(n)));
    }
    let crash = |bench: &mut Bench| {
        bench.got("s");
        bench.lose("s");
        bench.come("s");
    };
    for _ in 0..100 {
        crash(&mut bench);
    }
    let counts = bench.broker.counts();
    assert_eq!(
        (counts.set_aside, counts.waiting_messages, counts.lost),
        (3, 16, 1),
        "bounded, and then no more"
    );
    // It is well again: all that was left comes.
    assert_eq!(bench.take_all("s").len(), 16);
    // Then messages are to blame again.
    bench.send("p", message("t/a", b"bad", Some(1)));
    for _ in 0..3 {
        crash(&mut bench);
    }
    assert!(bench.broker.set_aside().iter().any(|(_, aside)| aside.payload[..] == *b"bad"));
    assert_eq!(bench.broker.counts().set_aside, 3);
}

/// Many small messages and one that is as large as any: the large one pushes out large ones only.
#[test]
fn a_large_message_set_aside_leaves_the_small_ones() {
    let limits = Limits { set_aside_in_a_row_max: 100, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    let set_aside = |bench: &mut Bench, payload: &[u8]| {
        bench.send("p", message("t/a", payload, Some(1)));
        bench.got("p");
        for _ in 0..3 {
            bench.got("s");
            bench.lose("s");
            bench.come("s");
        }
    };
    for n in 0..14u8 {
        set_aside(&mut bench, &[n; 16 * 1024]);
    }
    for n in 0..3u8 {
        set_aside(&mut bench, &vec![100 + n; 248 * 1024]);
        let kept: Vec<(u8, usize)> =
            bench.broker.set_aside().iter().map(|(_, one)| (one.payload[0], one.payload.len())).collect();
        let small = (0..14).map(|n| (n, 16 * 1024));
        let expected: Vec<_> = small.chain([(100 + n, 248 * 1024)]).collect();
        assert_eq!(kept, expected, "the newest large one, and every small one");
    }
    assert_eq!(bench.broker.counts().lost, 2);
    // By number the oldest goes, whatever its size.
    set_aside(&mut bench, b"15");
    set_aside(&mut bench, b"16");
    let kept = bench.broker.set_aside();
    assert_eq!((kept.len(), kept[0].1.payload[0], bench.broker.counts().lost), (16, 1, 3));
}

/// All sessions together are full. Who subscribes again and again to what is retained takes nothing from anybody.
#[test]
fn retained_messages_push_nothing_out_of_a_full_pool() {
    let limits = || Limits { waiting_bytes_max: 100_000, session_bytes_kept: 4000, ..Limits::default() };
    for strict in [false, true] {
        let strict = if strict { HashSet::from(["r"]) } else { HashSet::new() };
        let mut bench = pair(Rules { strict, ..Rules::default() }, limits());
        for n in 0..20 {
            bench.send("p", publish(&format!("r/{n}"), &[0; 900], Some(1), false, true));
        }
        bench.lose("s");
        for n in 1..=200u16 {
            bench.send("p", message("t/a", &[0; 900], Some(n)));
        }
        let before = (bench.broker.counts().lost, bench.disk.settled.len());
        bench.connect("r", false);
        let mut got = 0;
        for _ in 0..10 {
            let packets = bench.subscribe("r", "r/#", Qos::AtLeastOnce);
            got += packets.iter().filter(|packet| matches!(packet, Packet::Publish(_))).count();
            if !bench.is_open("r") {
                break;
            }
        }
        assert!((1..=4).contains(&got) || !bench.is_open("r"), "what is kept for each: {got}");
        assert_eq!(bench.is_open("r"), !bench.broker.authority().strict.contains("r"));
        let of_s = bench.broker.receivers_behind().into_iter().find(|one| one.client == "s").unwrap();
        assert_eq!(of_s.lost, before.0, "nothing of whom it is no business");
        assert!(bench.told.iter().any(|told| told.subject == "r"), "{:?}", bench.told);
    }
}

/// A clean session is a new one each time: what loops there is a retained message.
#[test]
fn a_retained_message_that_ends_clean_sessions_is_kept_back_for_a_while() {
    let mut bench = Bench::new(Rules::default(), Limits::default());
    bench.connect("p", true);
    bench.send("p", publish("x", b"bad", Some(1), false, true));
    let come = |bench: &mut Bench| {
        bench.connect("s", true);
        bench.subscribe("s", "#", Qos::AtLeastOnce).len() - 1
    };
    for _ in 0..3 {
        assert_eq!(come(&mut bench), 1);
        bench.lose("s");
    }
    assert_eq!(come(&mut bench), 0);
    assert_eq!(bench.refusals, [Reason::MessageSetAside]);
    // Another client, another message, another time.
    bench.connect("r", true);
    assert_eq!(bench.subscribe("r", "#", Qos::AtLeastOnce).len(), 2);
    bench.send("p", publish("x", b"good", Some(2), false, true));
    assert_eq!(bench.take_all("s"), [b"good"]);
    bench.lose("s");
    assert_eq!(come(&mut bench), 1);
    bench.now += Duration::from_secs(601);
    bench.lose("s");
    assert_eq!(come(&mut bench), 1);
}

#[test]
fn what_is_larger_than_declared_is_refused_before_it_is_acknowledged() {
    let rules = Rules { bytes_max: Some(10), ..Rules::default() };
    for qos in [None, Some(1)] {
        let mut bench = pair(rules.clone(), Limits::default());
        bench.send("p", message("t/a", &[1; 10], qos));
        assert_eq!(bench.take_all("s").len(), usize::from(qos.is_some()));
        bench.got("p");
        bench.send("p", publish("t/a", &[1; 11], qos.map(|_| 2), false, true));
        assert_eq!(bench.closed, [(bench.ids["p"], vec![])]);
        assert_eq!(bench.refusals, [Reason::MessageTooLarge]);
        assert_eq!(bench.told[0].subject, "p publish t/a");
        assert_eq!((bench.got("s"), bench.broker.counts().retained_messages), (vec![], 0));
    }
    // A will is a message too, when it is left and when it is due.
    let mut bench = pair(Rules { bytes_max: Some(0), ..Rules::default() }, Limits::default());
    bench.accept("w");
    bench.send("w", with_will("w", Qos::AtLeastOnce, false));
    assert_eq!(bench.closed.last().unwrap().1, refused(ConnectCode::NotAuthorized));
    bench.policy(Rules::default());
    bench.subscribe("s", "will", Qos::AtLeastOnce);
    bench.accept("w");
    bench.send("w", with_will("w", Qos::AtLeastOnce, true));
    bench.policy(Rules { bytes_max: Some(0), ..Rules::default() });
    bench.lose("w");
    assert_eq!(bench.refusals, [Reason::MessageTooLarge, Reason::MessageTooLarge]);
    assert_eq!((bench.take_all("s").len(), bench.broker.counts().retained_messages), (0, 0));
    // And what is retained already goes.
    bench.policy(Rules::default());
    bench.connect("p", true);
    bench.send("p", publish("x", &[1; 11], Some(1), false, true));
    assert_eq!(bench.broker.counts().retained_messages, 1);
    bench.policy(rules);
    assert_eq!(bench.broker.counts().retained_messages, 0);
}

/// 256 of one client made another's first one close its connection.
#[test]
fn each_client_has_its_share_of_what_is_retained() {
    let limits = Limits {
        retained_messages_max: 6,
        retained_messages_per_client_max: 5,
        retained_messages_kept: 2,
        ..Limits::default()
    };
    let mut bench = Bench::new(Rules::default(), limits);
    let retain = |bench: &mut Bench, client: &'static str, topic: &str| {
        if !bench.ids.contains_key(client) || !bench.is_open(client) {
            bench.connect(client, true);
        }
        bench.send(client, publish(topic, b"x", Some(1), false, true));
        bench.is_open(client)
    };
    for n in 0..5 {
        assert!(retain(&mut bench, "greedy", &format!("greedy/{n}")));
    }
    assert!(retain(&mut bench, "greedy", "greedy/0"), "in the place of its own");
    assert!(!retain(&mut bench, "greedy", "greedy/5"), "a full share refuses its owner");
    assert_eq!(bench.refusals, [Reason::RetainedFull]);
    assert_eq!(bench.told[0].subject, "greedy");
    for client in ["a", "b", "c"] {
        assert!(retain(&mut bench, client, &format!("{client}/1")), "{client}");
        assert!(retain(&mut bench, client, &format!("{client}/2")), "{client}");
        assert!(
            !retain(&mut bench, client, &format!("{client}/3")),
            "{client}: beyond what is kept the pool is full"
        );
    }
    // Of QoS 0 the connection goes on: the message is delivered, not kept, and nor is the one before it.
    assert!(retain(&mut bench, "c", "c/1"));
    bench.connect("s", true);
    bench.subscribe("s", "c/#", Qos::AtMostOnce);
    bench.send("c", publish("c/1", &vec![0; 20_000], None, false, true));
    assert!(bench.is_open("c"));
    assert_eq!(
        bench.told.last().map(|told| (told.reason, told.subject.as_str())),
        Some((Reason::RetainedFull, "c"))
    );
    assert_eq!(bench.got("s"), [message("c/1", &vec![0; 20_000], None)]);
    assert_eq!(bench.broker.counts().retained_messages, 10);
    assert!(retain(&mut bench, "c", "c/1"));
    // Who takes over a topic has it on its own account.
    assert!(retain(&mut bench, "d", "greedy/0"));
    assert!(retain(&mut bench, "greedy", "greedy/4"));
    bench.send("greedy", publish("greedy/4", b"", Some(1), false, true));
    assert_eq!(bench.broker.counts().retained_messages, 10);
    let rules = Rules::default().deny("a publish a/1").deny("a publish a/2");
    bench.policy(rules);
    assert_eq!(bench.broker.counts().retained_messages, 8);
    assert!(retain(&mut bench, "a", "a/4"), "its share is free again");
}

#[test]
fn a_client_opens_no_more_connections_than_it_can_use() {
    let limits = Limits { connections_per_client_max: 2, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    for _ in 0..5 {
        bench.accept("p");
    }
    bench.act();
    let closed: Vec<u64> = bench.closed.iter().map(|(id, _)| id.0).collect();
    assert_eq!(closed, [3, 4, 5], "the oldest that is silent makes room; who is connected stays");
    bench.accept("other");
    bench.act();
    assert!(bench.is_open("other") && bench.is_open("s"));
}
