//! The disk fills at every step of every write. What was acknowledged is there, as another connection sees it, and when
//! there is space again writing goes on without a restart. Needs root, to mount file systems of its own.

use crate::common;

use std::path::Path;

use common::disk::SmallDisk;
use common::stored::{
    NOW, add_deployment, add_token, attempt, hash, join, jwt_keys, message, reference, secret, vendor_root,
};
use common::{Fleet, name};
use edgewarden_fleet::admin_api::Trusted;
use edgewarden_fleet::selection::Labels;
use edgewarden_fleet::store::devices::NewReport;
use edgewarden_fleet::store::events::By;
use edgewarden_fleet::store::messages::Retention;
use edgewarden_fleet::store::secrets::Added;
use edgewarden_fleet::store::{Store, StoreError};
use edgewarden_names::{Digest, Reason, Refusal, UnixTime};
use edgewarden_protocol::dsse::VerifyingKey;
use edgewarden_protocol::secret::AgreementKey;
use edgewarden_protocol::uplink::SecretsSync;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

/// Every kind of write that the store has.
const KINDS: &[&str] = &[
    "token",
    "join",
    "failure",
    "labels",
    "reports",
    "messages",
    "many messages",
    "deployment",
    "secret",
    "secret state",
    "jwt keys",
    "reference",
    "vendor roots",
    "operator key",
    "trust taken back",
    "device removed",
    "event",
    "token's failure",
    "refusal",
    "certificate told",
];

fn secret_state(n: u64) -> SecretsSync {
    let key = AgreementKey { gateway_ca: n.to_be_bytes().to_vec().into(), statement: vec![2; 6000].into() };
    SecretsSync { key, have: Vec::new(), refused: Vec::new() }
}

/// Stores the rows that the write with this number needs, before the disk is filled.
async fn prepare(store: &Store, kind: &str, n: u64) {
    match kind {
        "join" | "token's failure" => add_token(store, "gw-1", n).await.unwrap(),
        "trust taken back" => {
            assert!(store.add_reference(&reference(&format!("r{n}")), "file", NOW).await.unwrap());
        }
        "device removed" => {
            let gone = format!("gone-{n}");
            add_token(store, &gone, n).await.unwrap();
            join(store, &gone, n).await.unwrap();
        }
        _ => {}
    }
}

async fn write(store: &Store, kind: &str, n: u64) -> Result<(), StoreError> {
    let gw = name("gw-1");
    match kind {
        "token" => add_token(store, "gw-1", n).await,
        "join" => join(store, "gw-1", n).await,
        "failure" => {
            let refusal = Refusal::new(Reason::AttestReference, "gw-1", format!("try {n}"));
            store.add_failure(&gw, &Digest::of(b"gw-1"), &attempt(Some((refusal, 20_000)))).await
        }
        "labels" => {
            let set = Labels::from([("n".into(), n.to_string())]);
            store.change_labels(&gw, set, &[], NOW).await?.unwrap().unwrap();
            Ok(())
        }
        "reports" => {
            let report =
                edgewarden_protocol::uplink::Report { software_version: format!("v{n}"), ..common::report() };
            let new = NewReport { gateway: &gw, report: &report, seen: NOW };
            store.keep_reports(&[new, new]).await
        }
        "messages" => {
            let batch = [message(n * 2, 100), message(n * 2 + 1, 9000)];
            let added = store.add_messages(&gw, &batch[0].queue, &batch, Retention::default(), NOW).await?;
            assert_eq!((added.stored, added.conflict), (n * 2 + 1, None));
            Ok(())
        }
        // More than SQLite's cache holds: the disk is written to, and found full, before the commit.
        "many messages" => {
            let batch: Vec<_> = (0..60).map(|i| message(n * 100 + i, 60_000)).collect();
            let retention = Retention { bytes: 5 * 1024 * 1024, ..Retention::default() };
            store.add_messages(&gw, &batch[0].queue, &batch, retention, NOW).await?;
            Ok(())
        }
        "deployment" => {
            let mut envelope = vec![3; 10_000];
            envelope.extend(n.to_be_bytes());
            add_deployment(store, n, &envelope).await
        }
        "secret" => {
            let digest = Digest::of(&n.to_be_bytes());
            let added = store.add_secret(&secret(n), true, "operator", &digest, &[4; 5000], NOW).await?;
            assert_eq!(added, Added::Stored);
            Ok(())
        }
        "secret state" => store.keep_secret_state(&gw, &secret_state(n)).await,
        "jwt keys" => {
            assert!(store.keep_jwt_keys(&jwt_keys(n)).await?);
            Ok(())
        }
        "reference" => {
            assert!(store.add_reference(&reference(&format!("r{n}")), "file", NOW).await?);
            Ok(())
        }
        "vendor roots" => {
            let root = |serial| vendor_root(&format!("CN={n}"), serial, 3000);
            store.add_vendor_roots(&[root(0), root(1)], NOW).await
        }
        "operator key" => {
            let key = VerifyingKey { name: format!("k{n}"), point: n.to_be_bytes().to_vec() };
            assert!(store.add_operator_key(&key, NOW).await?);
            Ok(())
        }
        "trust taken back" => {
            assert!(store.remove_trust(Trusted::Reference, &format!("r{n}"), NOW).await?);
            Ok(())
        }
        "device removed" => {
            assert!(store.remove_device(&name(&format!("gone-{n}")), NOW).await?);
            Ok(())
        }
        "event" => store.add_event(By::Gateway, Some(&gw), &format!("event {n}"), NOW).await,
        "token's failure" => store.count_failure(&hash(n)).await,
        // A day apart, so that each is written.
        "refusal" => {
            let later = UnixTime(NOW.0 + n * 86400);
            store.add_refusal(&gw, Reason::AttestQuote, &format!("refusal {n}"), later).await
        }
        // Overdue, and not overdue again.
        "certificate told" => store.tell_certificates(UnixTime(NOW.0 + n % 2 * 200)).await.map(drop),
        other => panic!("{other}"),
    }
}

/// The rows of the write that another connection finds, and their number when all of it is there.
async fn found(file: &Path, kind: &str, n: u64) -> (i64, i64) {
    let (query, expected) = match kind {
        "token" => (format!("SELECT count(*) FROM join_token WHERE hash = x'{}'", hex::encode(hash(n))), 1),
        "join" => (
            format!(
                "SELECT count(*) FROM join_token WHERE hash = x'{}' AND used IS NOT NULL",
                hex::encode(hash(n))
            ),
            1,
        ),
        "failure" => (format!("SELECT count(*) FROM device WHERE refusal LIKE '%\"try {n}\"%'"), 1),
        "labels" => (format!("SELECT count(*) FROM device WHERE labels LIKE '%\"{n}\"%'"), 1),
        "reports" => (format!("SELECT count(*) FROM device WHERE report LIKE '%\"v{n}\"%'"), 1),
        "messages" => {
            (format!("SELECT count(*) FROM message WHERE sequence BETWEEN {} AND {}", n * 2, n * 2 + 1), 2)
        }
        "many messages" => (
            format!("SELECT count(*) FROM message WHERE sequence BETWEEN {} AND {}", n * 100, n * 100 + 59),
            60,
        ),
        "deployment" => (format!("SELECT count(*) FROM deployment WHERE version = {n}"), 1),
        "secret" => (format!("SELECT count(*) FROM secret WHERE version = {n}"), 1),
        "secret state" => {
            let key = serde_json::to_string(&secret_state(n).key.gateway_ca).unwrap();
            (format!("SELECT count(*) FROM secret_state WHERE agreement LIKE '%{key}%'"), 1)
        }
        "jwt keys" => (format!("SELECT count(*) FROM jwt_keys WHERE sequence = {n}"), 1),
        "reference" => (format!("SELECT count(*) FROM reference WHERE name = 'r{n}'"), 1),
        "vendor roots" => (format!("SELECT count(*) FROM vendor_root WHERE subject = 'CN={n}'"), 2),
        "operator key" => (format!("SELECT count(*) FROM operator_key WHERE name = 'k{n}'"), 1),
        "trust taken back" => (format!("SELECT 1 - count(*) FROM reference WHERE name = 'r{n}'"), 1),
        "device removed" => (format!("SELECT 1 - count(*) FROM device WHERE name = 'gone-{n}'"), 1),
        "event" => (format!("SELECT count(*) FROM event WHERE text = 'event {n}'"), 1),
        "token's failure" => (
            format!(
                "SELECT count(*) FROM join_token WHERE hash = x'{}' AND failures = 1",
                hex::encode(hash(n))
            ),
            1,
        ),
        "refusal" => (format!("SELECT count(*) FROM event WHERE text = 'refusal {n}'"), 1),
        "certificate told" => (format!("SELECT count(*) FROM certificate WHERE told = {}", n % 2), 1),
        other => panic!("{other}"),
    };
    let other = SqlitePool::connect_with(SqliteConnectOptions::new().filename(file)).await.unwrap();
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&other).await.unwrap();
    other.close().await;
    (count, expected)
}

/// Moves what is in the log into the database, so that the next write makes the log grow from nothing.
async fn empty_the_log(file: &Path) {
    let other = SqlitePool::connect_with(SqliteConnectOptions::new().filename(file)).await.unwrap();
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&other).await.unwrap();
    other.close().await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged_and_is_over_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let disk = SmallDisk::new(&folder.path().join("disk"), 48 * 1024 * 1024);
        let file = folder.path().join("disk/fleet.db");
        let store = Store::open(&file).await.unwrap();
        add_token(&store, "gw-1", 0).await.unwrap();
        join(&store, "gw-1", 0).await.unwrap();
        let (mut n, mut refused, mut blocks) = (1, 0, 0);
        loop {
            prepare(&store, kind, n).await;
            empty_the_log(&file).await;
            disk.fill(blocks);
            let written = write(&store, kind, n).await;
            // Reading needs no room.
            assert_eq!(store.device(&name("gw-1")).await.unwrap().unwrap().name, name("gw-1"));
            let (there, expected) = found(&file, kind, n).await;
            match &written {
                Ok(()) => assert_eq!(there, expected, "{kind}, {blocks} blocks: acknowledged and not kept"),
                Err(error) => {
                    refused += 1;
                    assert!(error.is_the_disk(), "{kind}, {blocks} blocks: {error:?}");
                    assert!(there == 0 || there == expected, "{kind}, {blocks} blocks: half of it is there");
                }
            }
            disk.free();
            // The same store, with no restart.
            prepare(&store, kind, n + 1).await;
            write(&store, kind, n + 1)
                .await
                .unwrap_or_else(|error| panic!("{kind}, {blocks} blocks: {error:?}"));
            let (there, expected) = found(&file, kind, n + 1).await;
            assert_eq!(there, expected, "{kind}, after {blocks} blocks: acknowledged and not kept");
            if written.is_ok() {
                break;
            }
            n += 2;
            blocks = (blocks + 1).max(blocks * 5 / 4);
        }
        assert!(refused > 0, "{kind} was never refused");
        store.close().await;
    }
}

/// The same through the server, with what else it keeps in its folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_whose_disk_was_full_goes_on_by_itself() {
    let mut fleet = Fleet::start_on_small_disk(16 * 1024 * 1024);
    let gateway = fleet.gateway("gw-1").await;
    let batch = |from: u64, to: u64| (from..=to).map(|n| gateway.message(n)).collect::<Vec<_>>();
    let mut acknowledged = gateway.send(&fleet, batch(1, 5)).await.unwrap();
    fleet.deploy(1, "operator.key", &[]).ok();

    fleet.disk().fill(0);
    for _ in 0..3 {
        // What fits into the log's pages is taken; then it is refused, by a reason that says what to do.
        let mut refused = None;
        while refused.is_none() {
            match gateway.send(&fleet, batch(acknowledged + 1, acknowledged + 50)).await {
                Ok(stored) => acknowledged = stored,
                Err(reason) => refused = Some(reason),
            }
        }
        assert_eq!(refused, Some(Reason::Storage));
        // More than SQLite's cache holds: it meets the full disk before the commit.
        let mut large = batch(acknowledged + 1, acknowledged + 50);
        for message in &mut large {
            message.payload = vec![7; 60_000].into();
        }
        assert_eq!(gateway.send(&fleet, large).await, Err(Reason::Storage));
    }
    let answer = fleet.cli(&["token", "create", "--gateway", "gw-2"]);
    assert!(answer.code() == 3 && answer.errors().contains("service.storage"), "{}", answer.errors());
    // Looking needs no room.
    assert_eq!(fleet.json(&["device", "list"])[0]["name"], "gw-1");
    // A backup onto a full disk fails and leaves nothing.
    let to = fleet.data().join("backup");
    assert_eq!(fleet.cli(&["backup", to.to_str().unwrap()]).code(), 1);
    let left = std::fs::read_dir(fleet.data()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("backup")).collect();
    assert!(left.is_empty(), "{left:?}");

    fleet.disk().free();
    acknowledged = gateway.send(&fleet, batch(acknowledged + 1, acknowledged + 50)).await.unwrap();
    fleet.deploy(2, "operator.key", &[]).ok();
    let token = fleet.token("gw-2");
    // A stop on a full disk, then a start when it is not.
    fleet.disk().fill(0);
    fleet.stop();
    fleet.disk().free();
    fleet.run();
    let listed = fleet.json(&["message", "list", "--gateway", "gw-1", "--last", "1000"]);
    let kept: Vec<u64> = listed.as_array().unwrap().iter().map(|m| m["sequence"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..=acknowledged).collect();
    assert_eq!(kept, expected[expected.len().saturating_sub(1000)..]);
    assert_eq!(fleet.json(&["deployment", "list"]).as_array().unwrap().len(), 2);
    common::Device::new("gw-2").enrol(&fleet, Some(&token)).await.unwrap();
}
