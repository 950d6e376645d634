//! A crowd of connections keeps neither operators nor gateways out.

use crate::common;

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Fleet, post, report};
use edgewarden_names::Reason;
use edgewarden_protocol::uplink::{Sync, SyncReply};

/// More than the server gives to one line, and than it gave before.
const CROWD: usize = 600;

fn address(fleet: &Fleet) -> String {
    fleet.url().strip_prefix("https://").unwrap().to_owned()
}

/// Connections from our address. Some say nothing, some begin a handshake and stop.
fn crowd(fleet: &Fleet, count: usize) -> Vec<TcpStream> {
    let address = address(fleet);
    let connect = |n: usize| {
        let mut stream = TcpStream::connect(&address).unwrap();
        if n.is_multiple_of(3) {
            // Who made room before may be gone.
            let _ = stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]);
        }
        stream
    };
    (0..count).map(connect).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_connections_from_one_address_keep_no_operator_out() {
    let fleet = Fleet::start(&["--web", "127.0.0.1:0"]);
    let gateway = fleet.gateway("gw-1").await;
    let client = gateway.client(&fleet, "runtimed");
    let sync = |wait_seconds| Sync { have: None, wait_seconds, report: report(), secrets: None };
    let held: SyncReply = post(&client, "/v1/gateway/sync", &sync(0)).await.unwrap();
    assert_eq!(held.deployment, None);

    let mut all = crowd(&fleet, CROWD);
    // On the server's machine at once, by the operators' socket.
    assert_eq!(fleet.json(&["device", "list"])[0]["name"], "gw-1");
    // From elsewhere too, which here is the crowd's own address: they have said nothing for long enough.
    let url = fleet.url();
    let by_network = ["device", "list", "--server", &url];
    let until = Instant::now() + common::DEADLINE;
    loop {
        let answer = fleet.cli(&by_network);
        if answer.code() == 0 {
            break;
        }
        // What is said of a server that closes the connection is not that it does not run.
        assert!(answer.errors().contains("may be full"), "{}", answer.errors());
        assert!(Instant::now() < until, "{}", answer.errors());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A gateway whose connection stands is not touched, and one that connects anew gets in.
    let _: SyncReply = post(&client, "/v1/gateway/sync", &sync(0)).await.unwrap();
    all.extend(crowd(&fleet, 100));
    fleet.cli(&["web", "url"]).ok();
    // Its log tells of it without growing with it.
    let lines = fleet.log().lines().count();
    assert!(lines < 100, "{lines} lines:\n{}", fleet.log());
    drop(all);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_limited_by_who_they_are_and_not_by_where() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    // One address holds more requests than strangers of one line have places.
    let mut held = tokio::task::JoinSet::new();
    let mut gateways = vec![gateway];
    for n in 0..24 {
        gateways.push(fleet.gateway(&format!("gw-more-{n}")).await);
    }
    for gateway in &gateways {
        for _ in 0..12 {
            let client = gateway.client(&fleet, "runtimed");
            held.spawn(async move {
                let sync = Sync { have: None, wait_seconds: 60, report: report(), secrets: None };
                post::<_, SyncReply>(&client, "/v1/gateway/sync", &sync).await
            });
        }
    }
    // 300 of them; who asks meanwhile is heard.
    for _ in 0..5 {
        fleet.json(&["device", "list"]);
        assert!(held.try_join_next().is_none(), "a held request was answered");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A change for all answers all.
    fleet.deploy(1, "operator.key", &[]).ok();
    while let Some(answer) = held.join_next().await {
        assert!(matches!(answer.unwrap(), Ok(SyncReply { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_says_that_it_is_full() {
    let fleet = Fleet::start(&["--connections", "1"]);
    let (first, second) = (fleet.gateway("gw-1").await, fleet.gateway("gw-2").await);
    let client = first.client(&fleet, "runtimed");
    let sync = Sync { have: None, wait_seconds: 0, report: report(), secrets: None };
    let _: SyncReply = post(&client, "/v1/gateway/sync", &sync).await.unwrap();
    // The first one's connection stands: it is kept for its next request.
    let other = second.client(&fleet, "runtimed");
    let refused =
        other.post_json::<_, SyncReply>("/v1/gateway/sync", &sync, 4096, common::DEADLINE).await.unwrap_err();
    let refused = match refused {
        edgewarden_transport::http::HttpError::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.reason, Reason::Busy);
    assert!(refused.rule.contains("the server is full"), "{refused}");
    // Its own connections make room for its own, and operators are not gateways.
    fleet.cli(&["device", "list", "--server", &fleet.url()]).ok();
    drop(client);
    let until = Instant::now() + common::DEADLINE;
    while post::<_, SyncReply>(&other, "/v1/gateway/sync", &sync).await.is_err() {
        assert!(Instant::now() < until, "the place was not given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
