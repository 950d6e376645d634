//! Messages that go upstream: on disk before they are acknowledged, at the fleet in the end, whatever happens in
//! between.

use crate::common;

use std::path::Path;
use std::process::Command;

use common::client::puback;
use common::fleet::Fleet;
use common::{POLICY, Site, free_port, module};
use edgewarden_mqtt::packet::{ConnectCode, Packet};
use edgewarden_names::Reason;
use edgewarden_protocol::gateway_console::UpstreamStatus;
use edgewarden_protocol::uplink::Message;

async fn site(queue_bytes_max: u64) -> (Site, u16) {
    let port = free_port();
    let mut site = Site::prepare(POLICY, Some(port), queue_bytes_max);
    site.identityd.run(&[("analytics", 1, site.address(1))]);
    site.spawn().await;
    (site, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn summaries_reach_the_fleet_in_order_with_who_sent_them() {
    let (site, port) = site(1 << 20).await;
    let fleet = Fleet::start(&site.root, port).await;
    let mut analytics = site.module("analytics", 1).await;
    for n in 1..=20u16 {
        analytics.publish("clinic/summary", &n.to_be_bytes(), Some(n)).await;
    }
    for n in 1..=20 {
        assert_eq!(analytics.next().await, Some(puback(n)));
    }
    let messages = fleet.has(20).await;
    for (n, message) in (1u16..).zip(&messages) {
        assert_eq!((message.sequence, message.payload.as_slice()), (n.into(), &n.to_be_bytes()[..]));
        assert_eq!((message.from.clone(), message.topic.as_str()), (module("analytics"), "clinic/summary"));
    }
    let status =
        site.until("all acknowledged", |status| status.queue.as_ref().is_some_and(|q| q.messages == 0)).await;
    assert!(matches!(status.upstream, UpstreamStatus::Connected { .. }));
}

/// No fleet, and `kill -9` over and over: what was acknowledged arrives when the fleet is there, once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_kills_and_arrives() {
    let (mut site, port) = site(1 << 20).await;
    let mut acknowledged = Vec::new();
    for round in 0..5u16 {
        let mut analytics = site.module_tls("analytics", 1).await.unwrap();
        analytics.connect("analytics", false).await.unwrap();
        for n in 1..=30 {
            analytics.publish("clinic/summary", &(round * 100 + n).to_be_bytes(), Some(n)).await;
        }
        for n in 1..=10 {
            assert_eq!(analytics.next().await, Some(puback(n)));
            acknowledged.push(round * 100 + n);
        }
        // The rest is in whatever state it is in.
        site.kill();
        site.spawn().await;
    }
    let status = site.until("the queue is open", |status| status.queue.is_some()).await;
    assert!(!matches!(status.upstream, UpstreamStatus::Connected { .. }));
    let waiting = status.queue.unwrap().messages;
    assert!(waiting >= 50, "{waiting}");
    let fleet = Fleet::start(&site.root, port).await;
    let messages = fleet.has(usize::try_from(waiting).unwrap()).await;
    let sequences: Vec<u64> = messages.iter().map(|message| message.sequence).collect();
    assert_eq!(sequences, (1..=waiting).collect::<Vec<_>>());
    let payloads: Vec<u16> =
        messages.iter().map(|m| u16::from_be_bytes(m.payload.as_slice().try_into().unwrap())).collect();
    let arrived: Vec<u16> = payloads.iter().copied().filter(|p| acknowledged.contains(p)).collect();
    assert_eq!(arrived, acknowledged);
    let epochs: std::collections::BTreeSet<_> = messages.iter().map(|message| &message.queue).collect();
    assert!((2..=6).contains(&epochs.len()), "one for each start: {epochs:?}");
}

async fn publish(site: &Site, first: u16) {
    let mut analytics = site.module_tls("analytics", 1).await.unwrap();
    analytics.connect("analytics", true).await.unwrap();
    for n in 1..=5 {
        analytics.publish("clinic/summary", &(first + n).to_be_bytes(), Some(n)).await;
        assert_eq!(analytics.next().await, Some(puback(n)));
    }
}

async fn emptied(site: &Site) {
    site.until("all acknowledged", |status| status.queue.as_ref().is_some_and(|q| q.messages == 0)).await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Restored as docs/operations.md says: what comes after has numbers that the fleet has seen, and arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_restored_from_a_backup_loses_nothing() {
    let (mut site, port) = site(1 << 20).await;
    let fleet = Fleet::start(&site.root, port).await;
    publish(&site, 0).await;
    fleet.has(5).await;
    site.kill();
    let (state, backup) = (site.layout.gateway_state(), site.folder.path().join("backup"));
    copy(&state, &backup);
    site.spawn().await;
    publish(&site, 100).await;
    fleet.has(10).await;
    emptied(&site).await;
    for round in 2..=4 {
        site.kill();
        std::fs::remove_dir_all(&state).unwrap();
        copy(&backup, &state);
        site.spawn().await;
        publish(&site, round * 100).await;
        emptied(&site).await;
    }
    let messages = fleet.has(25).await;
    let payloads: Vec<u16> =
        messages.iter().map(|m| u16::from_be_bytes(m.payload.as_slice().try_into().unwrap())).collect();
    let expected: Vec<u16> = (0..5).flat_map(|round| (1..=5).map(move |n| round * 100 + n)).collect();
    assert_eq!(payloads, expected);
}

/// A snapshot of a machine that resumes the running process: its epoch has gone on without it.
#[tokio::test(flavor = "multi_thread")]
async fn other_messages_under_our_numbers_are_reported_and_ours_arrive_under_new_ones() {
    let (site, port) = site(1 << 20).await;
    let fleet = Fleet::start(&site.root, port).await;
    publish(&site, 0).await;
    let first = fleet.has(5).await.remove(0);
    for sequence in 6..=8 {
        fleet.knows(Message { sequence, payload: vec![9].into(), ..first.clone() });
    }
    emptied(&site).await;
    publish(&site, 100).await;
    let messages = fleet.has(13).await;
    let ours: Vec<u16> =
        messages[8..].iter().map(|m| u16::from_be_bytes(m.payload.as_slice().try_into().unwrap())).collect();
    assert_eq!(ours, [101, 102, 103, 104, 105]);
    assert!(messages[8..].iter().all(|message| message.queue != first.queue));
    let refusal = site.identityd.refused(Reason::QueueConflict).await;
    assert!(refusal.rule.contains("under number 6"), "{refusal}");
    emptied(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_acknowledges_nothing_more() {
    let (site, port) = site(64 * 1024).await;
    let mut analytics = site.module("analytics", 1).await;
    let mut acknowledged = 0;
    for n in 1..=100 {
        analytics.publish("clinic/summary", &[7; 2000], Some(n)).await;
        match analytics.next().await {
            Some(packet) => {
                assert_eq!(packet, puback(n));
                acknowledged += 1;
            }
            None => break,
        }
    }
    assert!((20..33).contains(&acknowledged), "{acknowledged}");
    let refusal = site.identityd.refused(Reason::QueueFull).await;
    assert_eq!(refusal.subject, "upstream queue");
    let status = site.status().await.queue.unwrap();
    assert_eq!(status.messages, acknowledged);
    assert!(status.bytes <= status.bytes_max);
    // With the fleet back there is room, and nothing is missing.
    let fleet = Fleet::start(&site.root, port).await;
    fleet.has(usize::try_from(acknowledged).unwrap()).await;
    site.until("empty", |status| status.queue.as_ref().is_some_and(|queue| queue.messages == 0)).await;
    let mut analytics = site.module_tls("analytics", 1).await.unwrap();
    analytics.connect("analytics", false).await.unwrap();
    analytics.publish("clinic/summary", &[7; 2000], Some(1)).await;
    assert_eq!(analytics.next().await, Some(puback(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_upload_stays_local() {
    let port = free_port();
    let local = POLICY.split("@id(\"upload-summary\")").next().unwrap();
    let mut site = Site::prepare(local, Some(port), 1 << 20);
    site.identityd.run(&[("analytics", 1, site.address(1))]);
    site.spawn().await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.publish("clinic/summary", b"x", Some(1)).await;
    assert_eq!(analytics.next().await, Some(puback(1)));
    let status = site.until("the queue is open", |status| status.queue.is_some()).await;
    assert_eq!(status.queue.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_storage_key_nobody_is_let_in_and_told_why() {
    let (mut site, _) = site(1 << 20).await;
    let mut analytics = site.module("analytics", 1).await;
    analytics.publish("clinic/summary", b"x", Some(1)).await;
    assert_eq!(analytics.next().await, Some(puback(1)));
    site.kill();
    site.identityd.change_key();
    site.spawn().await;
    let unavailable = Packet::ConnAck { session_present: false, code: ConnectCode::ServerUnavailable };
    let mut analytics = site.module_tls("analytics", 1).await.unwrap();
    assert_eq!(analytics.connect("analytics", false).await, Some(unavailable.clone()));
    // It might be for a session that cannot be read.
    let mut sensor = site.leaf_tls("sensor-1").await.unwrap();
    assert_eq!(sensor.connect("sensor-1", true).await, Some(unavailable));
    let refusals = site.identityd.refusals();
    for subject in ["upstream queue", "sessions"] {
        let told = refusals.iter().find(|refusal| refusal.subject == subject);
        assert!(told.is_some_and(|told| told.rule.contains("storage key does not open")), "{refusals:?}");
    }
}
