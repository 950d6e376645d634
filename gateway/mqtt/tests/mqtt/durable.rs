//! The broker's documents and journal on disk, and the answers that it holds back until they are there.

use crate::common;

use std::collections::HashSet;
use std::sync::Arc;

use common::*;
use edgewarden_mqtt::broker::durable::{Document, Saved};
use edgewarden_mqtt::broker::*;
use edgewarden_mqtt::packet::*;
use edgewarden_mqtt::topic::{TopicFilter, TopicName};
use edgewarden_names::{Reason, Refusal};

const RESUMED: Packet = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };

fn no_disk() -> Result<(), Refusal> {
    Err(Refusal::new(Reason::Internal, "disk", "no"))
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).unwrap()
}

/// [`pair`] with a disk that is written by hand from now on.
fn by_hand() -> Bench {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.disk.by_hand = true;
    bench
}

fn saved(number: u64, receivers: &[&'static str], payload: &[u8]) -> Saved<&'static str> {
    Saved {
        number,
        receivers: receivers.to_vec(),
        from: "p",
        topic: TopicName::parse("t/a").unwrap(),
        payload: Arc::from(payload),
        retain: false,
    }
}

#[test]
fn nobody_is_let_in_before_the_sessions_are_loaded() {
    let mut broker = Broker::new(Rules::default(), Limits::default());
    for (why, reason) in [(None, Reason::Busy), (Some(Reason::Internal), Reason::Internal)] {
        if let Some(reason) = why {
            broker.set_unavailable(Refusal::new(reason, "sessions", "damaged"));
        }
        broker.accept(ConnectionId(1), "a", std::time::Duration::ZERO);
        broker.receive(ConnectionId(1), hello("a", true), 1, std::time::Duration::ZERO);
        let actions = broker.take_actions();
        let refused = |action: &Action<_>| matches!(action, Action::Refused { refusal, .. } if refusal.reason == reason);
        assert!(actions.iter().any(refused), "{actions:?}");
        assert!(actions.iter().any(|action| matches!(action, Action::Close { .. })));
    }
}

#[test]
fn an_answer_waits_for_the_document_and_what_follows_waits_behind_it() {
    let mut bench = Bench::new(Rules::default(), Limits::default());
    bench.disk.by_hand = true;
    bench.accept("s");
    bench.send("s", hello("s", false));
    bench.send("s", Packet::PingReq);
    assert_eq!(bench.got("s"), [], "no CONNACK before the session is on disk");
    bench.write(&Ok(()));
    assert_eq!(bench.got("s"), [ACCEPTED, Packet::PingResp]);

    bench.send(
        "s",
        Packet::Subscribe(Subscribe { id: id(1), filters: vec![(filter("t/#"), Qos::AtLeastOnce)] }),
    );
    assert_eq!(bench.got("s"), []);
    let (_, _, document) = bench.disk.documents[0].clone();
    assert_eq!(document.unwrap().subscriptions, [(filter("t/#"), Qos::AtLeastOnce)]);
    // A hundred more while that is written: one more document, not a hundred.
    for n in 2..102 {
        let filters = vec![(filter(&format!("x/{n}")), Qos::AtMostOnce)];
        bench.send("s", Packet::Subscribe(Subscribe { id: id(n), filters }));
    }
    assert_eq!(bench.disk.documents.len(), 1);
    bench.write(&Ok(()));
    assert_eq!(bench.disk.documents.len(), 1);
    bench.write(&Ok(()));
    assert_eq!(bench.got("s").len(), 101);
    // The same again changes nothing and waits for nothing.
    bench.send(
        "s",
        Packet::Subscribe(Subscribe { id: id(1), filters: vec![(filter("t/#"), Qos::AtLeastOnce)] }),
    );
    assert_eq!((bench.got("s").len(), bench.disk.documents.len()), (1, 0));
    let filters = vec![filter("t/#")];
    bench.send("s", Packet::Unsubscribe(Unsubscribe { id: id(9), filters }));
    assert_eq!(bench.got("s"), []);
    bench.write(&Ok(()));
    assert_eq!(bench.got("s"), [Packet::UnsubAck(id(9))]);
}

#[test]
fn a_document_that_cannot_be_written_is_promised_to_nobody() {
    let mut bench = Bench::new(Rules::default(), Limits::default());
    bench.disk.by_hand = true;
    bench.accept("s");
    bench.send("s", hello("s", false));
    bench.write(&no_disk());
    assert_eq!(bench.closed, [(ConnectionId(1), vec![])]);
    assert_eq!(bench.refusals, [Reason::Internal]);
    // It is still not on disk, whatever is in memory.
    bench.accept("s");
    bench.send("s", hello("s", false));
    assert_eq!(bench.got("s"), []);
    bench.write(&Ok(()));
    assert_eq!(bench.got("s").len(), 1);
    // One that nobody waits for is tried again by the clock.
    bench.subscribe("s", "t/#", Qos::AtLeastOnce);
    bench.lose("s");
    bench.write(&no_disk());
    assert_eq!(bench.disk.documents.len(), 0);
    bench.broker.tick(bench.now);
    bench.act();
    assert_eq!(bench.disk.documents.len(), 1);
}

#[test]
fn the_puback_comes_from_the_disk_or_from_all_receivers_whichever_is_first() {
    let mut bench = by_hand();
    bench.send("p", message("t/a", b"1", Some(1)));
    assert_eq!(bench.got("p"), []);
    assert_eq!(bench.got("s"), [message("t/a", b"1", Some(1))], "delivered at once");
    bench.send("s", Packet::PubAck(id(1)));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1))], "the receiver was faster");
    bench.write(&no_disk());
    assert!(bench.is_open("p"), "it has arrived: the disk is not needed");
    bench.send("p", message("t/a", b"2", Some(2)));
    bench.write(&Ok(()));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(2))], "the disk was faster");
    assert_eq!(bench.got("s"), [message("t/a", b"2", Some(2))]);
    bench.send("s", Packet::PubAck(id(2)));
    assert_eq!(bench.disk.settled.len(), 2);
    assert_eq!(bench.got("p"), []);
    // Two receivers, one of them away.
    bench.disk.by_hand = false;
    bench.connect("r", false);
    bench.subscribe("r", "t/#", Qos::AtLeastOnce);
    bench.lose("r");
    bench.disk.by_hand = true;
    bench.send("p", message("t/a", b"3", Some(3)));
    assert_eq!(bench.disk.journal.len(), 1, "one record for both");
    assert_eq!(bench.disk.journal[0].receivers, ["r", "s"]);
    bench.got("s");
    bench.send("s", Packet::PubAck(id(3)));
    assert_eq!(bench.got("p"), []);
    bench.write(&no_disk());
    assert!(!bench.is_open("p"), "not on disk, and one has not got it");
}

#[test]
fn clean_sessions_and_qos_0_need_no_disk() {
    let mut bench = by_hand();
    bench.connect("c", true);
    bench.subscribe("c", "c/#", Qos::AtLeastOnce);
    bench.send("p", message("c/x", b"1", Some(1)));
    bench.send("p", message("t/a", b"0", None));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1))]);
    assert!(bench.disk.journal.is_empty() && bench.disk.documents.is_empty());
}

#[test]
fn what_was_saved_comes_back_in_order_with_dup() {
    let subscriptions = vec![(filter("t/#"), Qos::AtLeastOnce)];
    let document = Document { since: 1, subscriptions, ..Document::default() };
    let lost = Document { lost: true, ..Document::default() };
    let sessions = vec![("s", document), ("l", lost)];
    let messages = vec![saved(9, &["s"], b"9"), saved(7, &["l", "s", "gone"], b"7")];
    let mut bench = Bench::restored(Rules::default(), Limits::default(), sessions, messages, Vec::new());
    assert_eq!(bench.broker.counts().waiting_messages, 3);
    let got = bench.connect("s", false);
    let again = |payload, n| publish("t/a", payload, Some(n), true, false);
    assert_eq!(got, [RESUMED, again(b"7", 1), again(b"9", 2)]);
    bench.send("s", Packet::PubAck(id(1)));
    assert_eq!(bench.disk.settled, [("s", 7)]);
    bench.connect("p", true);
    bench.disk.by_hand = true;
    bench.send("p", message("t/a", b"x", Some(1)));
    assert!(bench.disk.journal[0].number > 100, "above all that were given out before");
    bench.write(&Ok(()));
    bench.disk.by_hand = false;
    // Its subscriptions are gone: it is told, until it has subscribed.
    for _ in 0..2 {
        assert_eq!(bench.connect("l", false), [ACCEPTED, again(b"7", 1)]);
    }
    bench.subscribe("l", "t/#", Qos::AtLeastOnce);
    assert_eq!(bench.connect("l", false)[0], RESUMED);
}

#[test]
fn a_session_that_ends_is_forgotten_on_disk_before_anybody_is_told() {
    let mut bench = by_hand();
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(1)));
    assert_eq!(bench.got("p"), []);
    bench.accept("s");
    bench.send("s", hello("s", true));
    assert_eq!(bench.got("s"), []);
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1))], "nobody is left to wait for");
    assert_eq!(bench.disk.forgotten, ["s"]);
    assert_eq!(bench.disk.documents[0].2, None);
    bench.write(&Ok(()));
    assert_eq!(bench.got("s"), [ACCEPTED]);
    assert_eq!(bench.broker.counts().waiting_bytes, 0);
}

#[test]
fn only_a_policy_that_says_so_ends_a_session() {
    let mut bench = by_hand();
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(1)));
    bench.write(&Ok(()));
    // Nothing is known, so everything is denied: nothing is lost by it.
    let undecided =
        Rules::default().deny("decide").deny("s subscribe t/#").deny("s receive t/a").deny("s stay");
    bench.policy(undecided);
    bench.policy(Rules::default().deny("s connect"));
    assert_eq!(bench.broker.counts().waiting_messages, 1);
    bench.policy(Rules::default().deny("s stay"));
    assert_eq!((bench.broker.counts().waiting_messages, bench.broker.counts().sessions), (0, 1));
    assert_eq!(bench.disk.forgotten, ["s"]);
    assert_eq!(bench.refusals.last(), Some(&Reason::PolicyDenied));
}

#[test]
fn filters_are_bounded_together() {
    let limits = Limits { subscription_bytes_per_session_max: 100, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    let failure = [Packet::SubAck { id: id(1), codes: vec![SubscribeCode::Failure] }];
    assert_ne!(bench.subscribe("s", &"a".repeat(90), Qos::AtMostOnce), failure);
    assert_eq!(bench.subscribe("s", &"b".repeat(10), Qos::AtMostOnce), failure);
    assert_eq!(bench.refusals, [Reason::Busy]);
}

#[test]
fn a_retained_message_is_on_disk_before_its_puback() {
    let mut bench = by_hand();
    bench.send("p", publish("x", b"1", Some(1), false, true));
    bench.send("p", publish("x", b"2", Some(2), false, true));
    bench.send("p", publish("x", b"3", None, false, true));
    assert_eq!(bench.got("p"), []);
    let numbers: Vec<u64> = bench.disk.retained.iter().map(|saved| saved.number).collect();
    assert!(numbers.len() == 3 && numbers.is_sorted(), "{numbers:?}");
    bench.write(&Ok(()));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1)), Packet::PubAck(id(2))]);
    bench.send("p", publish("x", b"", Some(3), false, true));
    assert_eq!(bench.disk.retained[0].payload.len(), 0, "the word that there is none");
    bench.write(&no_disk());
    assert!(!bench.is_open("p"));
    bench.connect("p", true);
    bench.send("p", publish("x", b"", Some(1), false, true));
    assert_eq!(bench.got("p"), [], "memory has nothing to remove, but the disk may");
    assert_eq!((bench.disk.retained.len(), bench.disk.retained[0].payload.len()), (1, 0));
    bench.write(&Ok(()));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(1))]);
    // It waits for the journal and for the receivers' journal.
    bench.send("p", publish("t/x", b"1", Some(2), false, true));
    let saved = bench.disk.retained.remove(0);
    bench.broker.journaled(saved.number, Ok(()), bench.now);
    bench.act();
    assert_eq!(bench.got("p"), []);
    bench.write(&Ok(()));
    assert_eq!(bench.got("p"), [Packet::PubAck(id(2))]);
}

/// A message set aside leaves the journal only when it is in the session's document, and comes back once.
#[test]
fn what_is_set_aside_is_on_disk_all_the_time() {
    let mut bench = by_hand();
    bench.send("p", message("t/a", b"poison", Some(1)));
    bench.send("p", message("t/a", b"good", Some(2)));
    bench.write(&Ok(()));
    let number = bench.disk.settled.len();
    assert_eq!(number, 0);
    for _ in 0..3 {
        bench.got("s");
        bench.lose("s");
        bench.write(&Ok(()));
        bench.accept("s");
        bench.send("s", hello("s", false));
        bench.write(&Ok(()));
    }
    let (client, aside) = bench.broker.set_aside().remove(0);
    assert_eq!((client, &aside.payload[..], aside.connections), ("s", &b"poison"[..], 3));
    assert_eq!(bench.disk.settled, [("s", aside.number)]);
    assert_eq!(bench.take_all("s"), [b"good"]);
    // A process that ended between the two writes finds it in both places.
    let subscriptions = vec![(filter("t/#"), Qos::AtLeastOnce)];
    let document =
        Document { since: 1, subscriptions, set_aside: vec![aside.clone()], ..Document::default() };
    let messages = vec![saved(aside.number, &["s"], b"poison"), saved(aside.number + 1, &["s"], b"good")];
    let sessions = vec![("s", document)];
    let mut bench = Bench::restored(Rules::default(), Limits::default(), sessions, messages, Vec::new());
    bench.act();
    assert_eq!(bench.disk.settled, [("s", aside.number)]);
    assert_eq!(bench.connect("s", false)[1..], [publish("t/a", b"good", Some(1), true, false)]);
    assert!(bench.broker.drop_set_aside(&"s", aside.number, bench.now).is_some());
    assert!(bench.broker.drop_set_aside(&"s", aside.number, bench.now).is_none());
    assert_eq!(bench.broker.counts().set_aside, 0);
}

/// A session ends by the time that its client was away while a broker ran; what is written down of it is never far
/// behind, and a client that comes back in time begins anew.
#[test]
fn a_session_ends_when_its_client_was_away_for_too_long() {
    let mut bench = pair(Rules::default(), Limits::default());
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(1)));
    bench.tick(EXPIRY.saturating_sub(std::time::Duration::from_secs(60)));
    assert_eq!(bench.connect("s", false)[0], RESUMED);
    bench.lose("s");
    bench.disk.by_hand = true;
    bench.tick(EXPIRY / 2);
    let (_, version, document) = bench.disk.documents.remove(0);
    let document = document.unwrap();
    assert_eq!(document.away_seconds, EXPIRY.as_secs() / 2);
    bench.broker.documented(&"s", version, Ok(()), bench.now);
    // Another process goes on counting, but not while its policy is not known: nobody may come then.
    let messages = vec![saved(60, &["s"], b"1")];
    let sessions = vec![("s", document)];
    let undecided = Rules::default().deny("decide");
    let mut bench = Bench::restored(undecided.clone(), Limits::default(), sessions, messages, Vec::new());
    bench.tick(EXPIRY);
    bench.policy(Rules::default());
    bench.tick(std::time::Duration::ZERO);
    bench.tick(EXPIRY / 4);
    bench.policy(undecided);
    bench.tick(EXPIRY);
    bench.tick(EXPIRY);
    bench.policy(Rules::default());
    bench.tick(std::time::Duration::ZERO);
    assert_eq!(bench.broker.counts().sessions, 1, "three quarters of its time are over");
    bench.tick(EXPIRY / 4);
    let counts = bench.broker.counts();
    assert_eq!((counts.sessions, counts.subscriptions, counts.waiting_bytes, counts.lost), (0, 0, 0, 1));
    assert_eq!(bench.disk.forgotten, ["s"]);
    assert_eq!(bench.refusals, [Reason::SessionExpired, Reason::ReceiverLagging]);
    assert!(bench.told.iter().all(|told| told.subject == "s"));
    assert_eq!(bench.connect("s", false), [ACCEPTED]);
}

/// A later receiver's need of room ended an earlier one's session: the journal, told so before it had the message, would keep
/// it for that one for ever.
#[test]
fn the_journal_gets_a_message_only_for_those_who_still_hold_it() {
    let limits = Limits { waiting_bytes_max: 10_000, session_bytes_kept: 0, ..Limits::default() };
    let rules = Rules { strict: HashSet::from(["r"]), ..Rules::default() };
    let mut bench = pair(rules, limits);
    bench.connect("r", false);
    bench.subscribe("r", "#", Qos::AtLeastOnce);
    bench.lose("r");
    bench.lose("s");
    bench.send("p", message("r/a", &[0; 5000], Some(1)));
    bench.disk.by_hand = true;
    bench.send("p", message("t/a", &[0; 2800], Some(2)));
    assert_eq!(bench.disk.forgotten, ["r"]);
    assert_eq!(bench.disk.journal[0].receivers, ["s"]);
    bench.write(&Ok(()));
    assert_eq!(bench.got("p").len(), 2);
    // Nobody holds it in the end: there is nothing to wait for.
    let limits = Limits { session_messages_max: 1, ..Limits::default() };
    let rules = Rules { strict: HashSet::from(["s"]), ..Rules::default() };
    let mut bench = pair(rules, limits);
    bench.lose("s");
    bench.send("p", message("t/a", b"1", Some(1)));
    bench.disk.by_hand = true;
    bench.send("p", message("t/a", b"2", Some(2)));
    assert!(bench.disk.journal.is_empty());
    assert_eq!(bench.got("p").len(), 2);
}

/// A filter that one SUBSCRIBE names many times gives each retained message once, and what waits already is not lost for
/// retained messages that do not fit in.
#[test]
fn a_subscription_makes_one_copy_of_what_is_retained() {
    let limits = Limits { session_messages_max: 6, ..Limits::default() };
    let mut bench = pair(Rules::default(), limits);
    for n in 1..=4u16 {
        bench.send("p", publish(&format!("x/{n}"), &n.to_be_bytes(), Some(n), false, true));
    }
    let many = |filter: &str| {
        let filters = (0..64).map(|_| (TopicFilter::parse(filter).unwrap(), Qos::AtLeastOnce)).collect();
        Packet::Subscribe(Subscribe { id: id(1), filters })
    };
    bench.send("s", many("x/+"));
    assert_eq!(bench.broker.counts().waiting_messages, 4);
    let copies: Vec<Vec<u8>> = (1..=4u16).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(bench.take_all("s"), copies);
    for n in 1..=4u16 {
        bench.send("p", message("t/a", &[n as u8], Some(n)));
    }
    bench.send("s", many("x/#"));
    assert_eq!(bench.broker.counts().lost, 2);
    assert_eq!(bench.refusals, [Reason::ReceiverLagging]);
    let expected = [&[1u8][..], &[2], &[3], &[4], &copies[0], &copies[1]];
    assert_eq!(bench.take_all("s"), expected);
    // Who is declared to lose its session does.
    let limits = Limits { session_messages_max: 3, ..Limits::default() };
    let rules = Rules { strict: HashSet::from(["s"]), ..Rules::default() };
    let mut bench = pair(rules, limits);
    for n in 1..=4u16 {
        bench.send("p", publish(&format!("x/{n}"), &n.to_be_bytes(), Some(n), false, true));
    }
    bench.send("s", many("x/+"));
    assert!(!bench.is_open("s"));
    assert_eq!(bench.broker.counts().sessions, 1);
}

/// A restored session that is older than its client's: the client subscribes again, and what waits for it is kept.
#[test]
fn a_session_from_an_older_copy_is_told_to_be_none_and_keeps_its_messages() {
    let old = || Document {
        since: 1,
        lost: true,
        subscriptions: vec![(filter("old/#"), Qos::AtLeastOnce)],
        ..Document::default()
    };
    for doubted_later in [false, true] {
        let document = Document { lost: !doubted_later, ..old() };
        let messages = vec![saved(5, &["s"], b"kept")];
        let mut bench =
            Bench::restored(Rules::default(), Limits::default(), vec![("s", document)], messages, Vec::new());
        if doubted_later {
            let present = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };
            assert_eq!(bench.connect("s", false)[0], present);
            bench.broker.doubt_sessions(bench.now);
            bench.act();
            assert!(!bench.is_open("s"), "it must come again to hear of it");
        }
        // Until it comes, what it had is better than nothing.
        bench.connect("p", true);
        bench.send("p", message("old/a", b"while away", Some(1)));
        for _ in 0..2 {
            bench.accept("s");
            bench.send("s", hello("s", false));
            let got = bench.got("s");
            assert_eq!(got[0], ACCEPTED, "no session, until it has subscribed");
            assert_eq!(got.len(), 3, "{got:?}");
            bench.lose("s");
        }
        bench.come("s");
        assert_eq!(bench.take_all("s"), [&b"kept"[..], b"while away"]);
        bench.send("p", message("old/a", b"2", Some(2)));
        assert_eq!(bench.take_all("s").len(), 0, "it has subscribed to nothing yet");
        bench.subscribe("s", "new/#", Qos::AtLeastOnce);
        bench.lose("s");
        let present = Packet::ConnAck { session_present: true, code: ConnectCode::Accepted };
        assert_eq!(bench.connect("s", false), [present]);
        bench.send("p", message("new/a", b"3", Some(3)));
        assert_eq!(bench.take_all("s"), [b"3"]);
    }
}
