//! Metrics and health of the fleet, and who is told them.

use crate::common;

use std::time::Duration;

use common::web::get;
use common::{Fleet, name};
use edgewarden_names::Reason;
use edgewarden_testkit::samples::Samples;

/// Address of the pages, and the token for them.
fn web(fleet: &Fleet) -> (String, String) {
    let url = fleet.cli(&["web", "url"]).ok();
    let (address, token) = url.trim().strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    (address.to_owned(), token.to_owned())
}

fn status(reply: &str) -> &str {
    reply.split(' ').nth(1).unwrap()
}

fn body(reply: &str) -> &str {
    reply.split_once("\r\n\r\n").unwrap().1
}

fn scrape(fleet: &Fleet) -> Samples {
    let (address, token) = web(fleet);
    let reply = get(&address, "/metrics", &format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(status(&reply), "200", "{reply}");
    assert!(reply.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{reply}");
    Samples::parse(body(&reply))
}

fn health(fleet: &Fleet) -> (String, String) {
    let reply = get(&web(fleet).0, "/healthz", "");
    (status(&reply).to_owned(), body(&reply).trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_for_the_bearer_of_the_token_alone() {
    let fleet = Fleet::start(&["--web", "127.0.0.1:0"]);
    let (address, token) = web(&fleet);
    for header in [
        String::new(),
        "Authorization: Bearer wrong\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: Bearer {}\r\n", fleet.admin_token()),
        // A wrong one is not made good by a good cookie.
        format!("Authorization: Bearer wrong\r\nCookie: edgewarden={token}\r\n"),
        "Cookie: edgewarden=wrong\r\n".into(),
    ] {
        let reply = get(&address, "/metrics", &header);
        assert_eq!(status(&reply), "401", "{header}");
        assert!(!reply.contains("edgewarden_fleet"), "{reply}");
    }
    assert_eq!(status(&get(&address, "/metrics?token=wrong", "")), "401");
    let accept = format!("Authorization: Bearer {token}\r\nAccept: application/openmetrics-text\r\n");
    let open = get(&address, "/metrics", &accept);
    assert!(open.contains("application/openmetrics-text") && body(&open).ends_with("# EOF\n"), "{open}");
    // Whether it is well is for everybody on the machine, and says nothing else.
    assert_eq!(health(&fleet), ("200".into(), "ok".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_rise_with_what_gateways_do() {
    let fleet = Fleet::start(&["--web", "127.0.0.1:0"]);
    let (good, unseen) = (fleet.gateway("gw-1").await, fleet.gateway("gw-2").await);
    drop(unseen);
    good.sync(&fleet, None, 0).await.unwrap();
    fleet.deploy(1, "operator.key", &[]).ok();
    let first = scrape(&fleet);
    let total = |s: &Samples| -> f64 {
        let gateways = s.values.iter().filter(|((name, _), _)| name == "edgewarden_fleet_gateways");
        gateways.map(|(_, count)| count).sum()
    };
    assert!((total(&first) - 2.0).abs() < 0.5, "{first:?}");
    let unauthorized = [("reason", Reason::PeerUnauthorized.code())];
    for (name, labels, expected) in [
        ("gateways", &[("state", "not-seen")][..], 1.0),
        ("gateways", &[("state", "good")], 1.0),
        ("deployments", &[], 1.0),
        ("requests_total", &[("kind", "sync")], 1.0),
        ("requests_total", &[("kind", "messages")], 0.0),
        ("messages_received_total", &[], 0.0),
        ("refusals_total", &unauthorized, 0.0),
        ("database_up", &[], 1.0),
        ("database_failures_total", &[], 0.0),
        ("connections", &[("listener", "web"), ("kind", "operator")], 1.0),
    ] {
        assert_eq!(first.get(&format!("fleet_{name}"), labels), Some(expected), "{name} {labels:?}");
    }
    let batch: Vec<_> = (1..=7).map(|n| good.message(n)).collect();
    assert_eq!(good.send(&fleet, batch).await, Ok(7));
    // Two refusals: of a stranger, and of a gateway that sends what is another's.
    let stranger = fleet.stranger().with_bearer("wrong").unwrap();
    assert!(
        stranger.get_json::<serde_json::Value>("/v1/admin/devices", 4096, common::DEADLINE).await.is_err()
    );
    let mut foreign = good.message(8);
    foreign.from = edgewarden_names::SpiffeId::parse("spiffe://plant.example/gateway/gw-2/module/x").unwrap();
    assert_eq!(good.send(&fleet, vec![foreign]).await, Err(Reason::PeerUnauthorized));
    let after = scrape(&fleet);
    for (name, labels, expected) in [
        ("messages_received_total", &[][..], 7.0),
        ("requests_total", &[("kind", "messages")], 2.0),
        ("refusals_total", &unauthorized, 2.0),
    ] {
        assert_eq!(after.get(&format!("fleet_{name}"), labels), Some(expected), "{name} {labels:?}");
    }
    assert!(!format!("{after:?}").contains(name("gw-1").as_str()), "no gateway is a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_so_is_its_end() {
    let mut fleet = Fleet::start_on_small_disk(16 * 1024 * 1024);
    fleet.stop();
    fleet.extra = ["--web", "127.0.0.1:0"].map(str::to_owned).into();
    fleet.run();
    let gateway = fleet.gateway("gw-1").await;
    assert_eq!(health(&fleet), ("200".into(), "ok".into()));
    fleet.disk().fill(0);
    let mut sent = 0;
    loop {
        let batch = (sent + 1..=sent + 50).map(|n| gateway.message(n)).collect();
        match gateway.send(&fleet, batch).await {
            Ok(stored) => sent = stored,
            Err(reason) => break assert_eq!(reason, Reason::Storage),
        }
    }
    assert_eq!(health(&fleet), ("503".into(), Reason::Storage.code().into()));
    let full = scrape(&fleet);
    assert_eq!(full.get("fleet_database_up", &[]), Some(0.0));
    assert!(full.get("fleet_database_failures_total", &[]) >= Some(1.0), "{full:?}");
    assert!(full.get("fleet_refusals_total", &[("reason", Reason::Storage.code())]) >= Some(1.0));
    // Nobody writes meanwhile: who asks finds out.
    fleet.disk().free();
    for _ in 0..600 {
        if health(&fleet).0 == "200" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(health(&fleet), ("200".into(), "ok".into()));
    assert_eq!(scrape(&fleet).get("fleet_database_up", &[]), Some(1.0));
}
