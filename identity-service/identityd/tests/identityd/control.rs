//! The control socket itself: who may ask, and what a peer can do to it.

use crate::common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::container::Job;
use common::{GATEWAY_UID, Gateway, STRANGER_UID};
use edgewarden_exchange::client::{Client, ClientError};
use edgewarden_exchange::frame;
use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::{Origin, REFUSALS_MAX, Reply, Request, questions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

fn reason(reply: Reply) -> Option<Reason> {
    match reply {
        Reply::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_decides_what_may_be_asked() {
    let gateway = Gateway::started().await;
    let ask = |request| Job::Ask { socket: gateway.control(), request: Box::new(request) };
    let long = || Request::Refused {
        origin: Origin::Enforcer,
        refusal: Refusal::new(Reason::Busy, "long", "x".repeat(64 * 1024)),
    };
    let unauthorized = Some(Reason::PeerUnauthorized);
    for (uid, request, expected) in [
        (0, Request::Status, None),
        (GATEWAY_UID, Request::Watch { seen: 0 }, None),
        (GATEWAY_UID, Request::StorageKey, Some(Reason::AttestRequired)),
        (GATEWAY_UID, Request::Status, unauthorized),
        (GATEWAY_UID, Request::Audit { last: 1 }, unauthorized),
        (GATEWAY_UID, Request::Rotate { module: None }, unauthorized),
        (GATEWAY_UID, Request::StartPrepare { permit: "x".into() }, unauthorized),
        (0, long(), None),
        (GATEWAY_UID, long(), Some(Reason::RequestTooLarge)),
        (STRANGER_UID, Request::Status, unauthorized),
        (STRANGER_UID, Request::StorageKey, unauthorized),
        (STRANGER_UID, Request::Watch { seen: 0 }, unauthorized),
    ] {
        let asked = format!("{uid} {request:?}");
        assert_eq!(reason(ask(request).by_user(uid).reply()), expected, "{asked}");
    }
    let refusals = gateway.status().await.refusals;
    assert!(
        refusals.iter().any(|(_, refusal)| refusal.reason == Reason::PeerUnauthorized),
        "it is written down"
    );
}

#[tokio::test]
async fn broken_frames_end_their_connection_and_nothing_else() {
    let gateway = Gateway::started().await;
    for (name, bytes, expected) in [
        ("not JSON", [&4_u32.to_be_bytes()[..], b"nope"].concat(), Reason::RequestInvalid),
        ("an unknown request", [&9_u32.to_be_bytes()[..], b"\"launch\"}"].concat(), Reason::RequestInvalid),
        (
            "an unknown field",
            {
                let body = br#"{"watch":{"seen":0,"more":1}}"#;
                [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
            },
            Reason::RequestInvalid,
        ),
        ("an empty frame", 0_u32.to_be_bytes().to_vec(), Reason::RequestInvalid),
        ("a huge frame", u32::MAX.to_be_bytes().to_vec(), Reason::RequestTooLarge),
    ] {
        let mut stream = UnixStream::connect(gateway.control()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let reply: Reply = frame::read(&mut stream).await.unwrap();
        assert_eq!(reason(reply), Some(expected), "{name}");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "{name}: the connection is closed");
    }
    // A peer that goes away in the middle of a frame.
    let mut stream = UnixStream::connect(gateway.control()).await.unwrap();
    stream.write_all(&1000_u32.to_be_bytes()).await.unwrap();
    drop(stream);
    gateway.status().await;
}

#[tokio::test]
async fn connections_have_a_limit_and_come_free_again() {
    let gateway = Gateway::started().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&gateway.control()).await.unwrap();
        if client.ask(questions::Deployment).await.is_err() {
            break;
        }
        held.push(client);
    }
    assert!((10..200).contains(&held.len()), "{}", held.len());
    drop(held);
    common::until("a free connection", async || {
        let mut client = Client::connect(&gateway.control()).await.unwrap();
        client.ask(questions::Status).await.ok()
    })
    .await;
}

/// A watch is held for half a minute: who is killed while it is must not take a place for as long.
#[tokio::test(flavor = "multi_thread")]
async fn the_dead_hold_no_places() {
    let gateway = Gateway::started().await;
    let Reply::Snapshot(snapshot) = gateway.ask(Request::Watch { seen: 0 }).await.unwrap() else { panic!() };
    let began = std::time::Instant::now();
    let held = async || {
        let mut stream = UnixStream::connect(gateway.control()).await.unwrap();
        frame::write(&mut stream, &Request::Watch { seen: snapshot.revision }).await.unwrap();
        let answered =
            tokio::time::timeout(Duration::from_millis(20), frame::read::<Reply>(&mut stream)).await;
        answered.is_err().then_some(stream)
    };
    for _ in 0..8 {
        let mut watches = Vec::new();
        while watches.len() < 24 {
            watches.extend(held().await);
            assert!(began.elapsed() < Duration::from_secs(25), "the places of the dead are not free");
        }
    }
    gateway.status().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_cannot_take_all_places() {
    let gateway = Gateway::started().await;
    let mut held = Vec::new();
    let refused = loop {
        let mut client = Client::connect(&gateway.control()).await.unwrap();
        match client.ask(questions::Deployment).await {
            Ok(_) => held.push(client),
            Err(ClientError::Refused(refusal)) => break refusal,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(refused.reason, Reason::Busy, "it is told");
    let ask = Job::Ask { socket: gateway.control(), request: Box::new(Request::Status) };
    for _ in 0..4 {
        assert!(matches!(ask.by_user(0).reply(), Reply::Status(_)), "another process gets in");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let gateway = Gateway::started().await;
    let mut client = Client::connect(&gateway.control()).await.unwrap();
    for _ in 0..50 {
        client.ask(questions::Status).await.unwrap();
        assert!(client.ask(questions::StorageKey).await.is_err());
    }
}

#[tokio::test]
async fn what_enforcers_refused_is_listed_and_bounded() {
    let gateway = Gateway::started().await;
    for n in 0..300 {
        let refusal =
            Refusal::new(Reason::PolicyDenied, format!("leaf/{n}\u{1b}[2J{}", "x".repeat(5000)), "no rule");
        gateway.ask(Request::Refused { origin: Origin::Enforcer, refusal }).await.unwrap();
    }
    let refusals = gateway.status().await.refusals;
    assert!(refusals.len() <= 32, "{}", refusals.len());
    assert!(
        refusals
            .iter()
            .all(|(_, refusal)| refusal.subject.len() < 2000 && !refusal.subject.contains('\u{1b}'))
    );
    let refused = gateway.events().await.into_iter().filter(|event| event == "refused").count();
    assert!((1..200).contains(&refused), "{refused} lines for 300 refusals");
}

/// Strangers at the gateway's listeners, each with another address and another name, then what an operator waits for.
#[tokio::test]
async fn strangers_neither_hide_nor_ration_the_refusals_of_others() {
    let gateway = Gateway::started().await;
    let stranger = async |n: u32, claim: String| {
        let origin = Origin::Stranger { address: Ipv4Addr::from_bits(0x0a00_0000 + n).into() };
        let refusal = Refusal::new(Reason::PeerUnauthorized, claim, format!("no path to the root, try {n}"));
        gateway.ask(Request::Refused { origin, refusal }).await.unwrap();
    };
    for n in 0..400 {
        stranger(n, format!("spiffe://plant.example/gateway/gw-1/module/invented-{n}")).await;
    }
    gateway.deploy(&common::document(2)).await;
    let rollback = gateway.operator.sign(&common::document(1));
    assert_eq!(gateway.refused(Request::DeploymentAccept(rollback)).await, Reason::DeploymentRollback);
    for n in 400..800 {
        stranger(n, format!("invented-{n}")).await;
    }
    let status = gateway.status().await;
    assert!(status.refusals.iter().any(|(_, refusal)| refusal.reason == Reason::DeploymentRollback));
    let by_address = |subject: &str| subject.parse::<Ipv4Addr>().is_ok();
    assert!(!status.strangers.is_empty() && status.refusals.len() + status.strangers.len() <= REFUSALS_MAX);
    assert!(
        status.strangers.iter().all(|(_, refusal)| by_address(&refusal.subject)),
        "{:?}",
        status.strangers
    );
    let Reply::Audit(entries) = gateway.ask(Request::Audit { last: 1000 }).await.unwrap() else { panic!() };
    let refused: Vec<_> = entries.iter().filter(|entry| entry.event == "refused").collect();
    assert!(refused.iter().any(|entry| entry.detail.starts_with("deployment.rollback")), "{refused:?}");
    let strangers = refused.iter().filter(|entry| by_address(&entry.subject)).count();
    assert!((1..=32).contains(&strangers), "{strangers} of 800");
    assert!(refused.iter().all(|entry| !entry.subject.contains("invented")), "{refused:?}");
}

#[tokio::test]
async fn a_software_keystore_quotes_nothing() {
    let gateway = Gateway::started().await;
    let reason = gateway.refused(Request::AttestQuote { nonce: vec![1; 32].into() }).await;
    assert_eq!(reason, Reason::KeystoreFailed, "it says what it cannot");
    assert_eq!(
        gateway.refused(Request::AttestQuote { nonce: vec![1; 33].into() }).await,
        Reason::RequestInvalid
    );
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_not_believed() {
    let mut gateway = Gateway::started().await;
    gateway.join().await;
    gateway.stop().await;
    // As if the machine had been up ten days from now and its clock were set back since.
    let ahead = edgewarden_names::UnixTime::now().plus(10 * common::DAY);
    gateway.rewrite("clock.json", |_| format!("{{\"floor\":{ahead}}}"));
    gateway.start().await.unwrap();
    common::until("certificates", async || {
        let identities = gateway.status().await.identities;
        Some(())
            .filter(|()| identities.iter().all(|identity| identity.expires.is_some_and(|end| end > ahead)))
    })
    .await;
    let status = gateway.status().await;
    assert!(
        status.refusals.iter().any(|(_, refusal)| refusal.subject == "system clock"),
        "{:?}",
        status.refusals
    );
    // A newer certificate from the fleet is better evidence than our own floor.
    let newer = gateway
        .enrolled_for(30 * common::DAY, edgewarden_names::UnixTime::now().plus(Duration::from_secs(2)))
        .await;
    gateway.ask(Request::EnrolAccept(Box::new(newer))).await.unwrap();
    assert!(gateway.status().await.refusals.iter().all(|(_, refusal)| refusal.subject != "system clock"));
}
