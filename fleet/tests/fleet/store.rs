//! The database by itself: its caps, its schema, its transactions.

use std::path::Path;

use edgewarden_fleet::lease::Certificate;
use edgewarden_fleet::selection::Labels;
use edgewarden_fleet::store::devices::{ATTEMPTS_MAX, Admission, Attempt, Binding};
use edgewarden_fleet::store::events::{By, GATEWAY_EVENTS_MAX};
use edgewarden_fleet::store::messages::Retention;
use edgewarden_fleet::store::tokens::{Grant, TOKEN_FAILURES_MAX};
use edgewarden_fleet::store::{Store, StoreError};
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::enrol::{Verdict, VerdictState};
use edgewarden_protocol::uplink::Message;
use sqlx::{ConnectOptions as _, Connection as _};

const NOW: UnixTime = UnixTime(1_000_000);

fn gateway(name: &str) -> GatewayName {
    GatewayName::parse(name).unwrap()
}

fn attempt(refusal: Option<Refusal>) -> Attempt {
    let verdict = Verdict {
        state: if refusal.is_some() { VerdictState::Failed } else { VerdictState::Fresh },
        hardware: "none".into(),
        reference: None,
        checks: Vec::new(),
        at: NOW,
        expires: UnixTime(NOW.0 + 60),
    };
    let event_log = refusal.is_some().then(|| b"log".to_vec());
    Attempt { at: NOW, verdict, refusal, evidence: Digest::of(b"evidence"), event_log }
}

async fn admit(store: &Store, name: &str, key: u8, token: Option<&[u8; 32]>) -> Result<(), Reason> {
    admit_with(store, name, (key, key), token, "ca").await
}

/// With endorsement key and attestation key.
async fn admit_with(
    store: &Store,
    name: &str,
    (endorsement, attestation): (u8, u8),
    token: Option<&[u8; 32]>,
    ca_key: &str,
) -> Result<(), Reason> {
    let admission = Admission {
        gateway: &gateway(name),
        binding: &Binding {
            endorsement: Digest::of(&[endorsement]),
            attestation: Digest::of(&[attestation]),
        },
        token,
        ca_key: &Digest::of(ca_key.as_bytes()),
        certificate: &Certificate::lasting(NOW, UnixTime(NOW.0 + 300)),
        attempt: &attempt(None),
    };
    store.admit(&admission, NOW).await.unwrap().map_err(|refusal| refusal.reason)
}

fn grant(gateway: &GatewayName, expires: UnixTime) -> Grant {
    let labels = Labels::from([("site".into(), "clinic".into())]);
    Grant { gateway: gateway.clone(), expires, allow_software: true, labels }
}

async fn open(folder: &Path) -> Store {
    Store::open(&folder.join("fleet.db")).await.unwrap()
}

/// With one gateway, `gw-1`, that has joined with key 1.
async fn with_gateway(folder: &Path) -> Store {
    let store = open(folder).await;
    store.add_token(&[1; 32], &grant(&gateway("gw-1"), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    admit(&store, "gw-1", 1, Some(&[1; 32])).await.unwrap();
    store
}

#[tokio::test]
async fn an_admission_is_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let later = UnixTime(NOW.0 + 60);
    store.add_token(&[2; 32], &grant(&gateway("gw-2"), later), NOW).await.unwrap();
    store.add_token(&[3; 32], &grant(&gateway("gw-2"), NOW), NOW).await.unwrap();
    for (case, name, key, token, expected) in [
        ("used token", "gw-1", 1, Some([1; 32]), Reason::EnrolToken),
        ("unknown token", "gw-2", 2, Some([9; 32]), Reason::EnrolToken),
        ("expired token", "gw-2", 2, Some([3; 32]), Reason::EnrolToken),
        ("token of another name", "gw-1", 1, Some([2; 32]), Reason::EnrolToken),
        ("no token and no device", "gw-2", 2, None, Reason::EnrolToken),
        ("another key", "gw-1", 2, None, Reason::AttestEkMismatch),
        ("the key of another name", "gw-2", 1, Some([2; 32]), Reason::AttestEkMismatch),
    ] {
        assert_eq!(admit(&store, name, key, token.as_ref()).await, Err(expected), "{case}");
    }
    // The refusals spent nothing.
    admit(&store, "gw-2", 2, Some(&[2; 32])).await.unwrap();
    admit(&store, "gw-1", 1, None).await.unwrap();
    assert_eq!(store.devices().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_join_ends_the_ca_keys_before_it_and_renewals_have_a_cap() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let knows = async |key: &str| store.knows_ca_key(&name, &Digest::of(key.as_bytes())).await.unwrap();
    for key in ["1", "2", "3", "4", "5", "6"] {
        admit_with(&store, "gw-1", (1, 1), None, key).await.unwrap();
        assert!(knows(key).await);
    }
    let good = [knows("ca").await, knows("1").await, knows("2").await, knows("3").await, knows("6").await];
    assert_eq!(good, [false, false, false, true, true]);
    // Who joins again because a key was stolen must not leave it good.
    store.add_token(&[2; 32], &grant(&name, UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    admit_with(&store, "gw-1", (1, 1), Some(&[2; 32]), "new").await.unwrap();
    assert!(knows("new").await && !knows("6").await && !knows("3").await);
    // The keys of others stay.
    store.add_token(&[3; 32], &grant(&gateway("gw-2"), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    admit_with(&store, "gw-2", (2, 2), Some(&[3; 32]), "new").await.unwrap();
    assert!(knows("new").await);
}

fn message(queue: u8, sequence: u64, bytes: usize) -> Message {
    Message {
        queue: hex::encode([queue; 16]),
        sequence,
        at: NOW,
        from: SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/a").unwrap(),
        topic: "t".into(),
        payload: vec![0; bytes].into(),
    }
}

#[tokio::test]
async fn messages_have_caps_and_the_oldest_go_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let small = Retention { messages: 10, bytes: 1_000_000, queues: 2, receipts: 100 };
    let send = async |queue: u8, range: std::ops::RangeInclusive<u64>, bytes, retention| {
        let batch: Vec<_> = range.map(|sequence| message(queue, sequence, bytes)).collect();
        store.add_messages(&name, &hex::encode([queue; 16]), &batch, retention, NOW).await.unwrap().stored
    };
    assert_eq!(send(1, 1..=25, 1, small).await, 25);
    let kept: Vec<u64> = store.messages(&name, 100).await.unwrap().iter().map(|m| m.sequence).collect();
    assert_eq!(kept, (16..=25).rev().collect::<Vec<_>>());
    // What was dropped at the cap stays dropped when it is sent again.
    assert_eq!(send(1, 10..=20, 1, small).await, 25);
    let count = store.message_count(&name).await.unwrap();
    assert_eq!((count.kept, count.dropped), (10, 15));

    let tight = Retention { bytes: 5000, ..small };
    send(1, 26..=27, 2000, tight).await;
    let count = store.message_count(&name).await.unwrap();
    assert!(count.kept < 10, "{count:?}");
    // One message that is larger than all the room is not kept, and that is counted too.
    send(1, 28..=28, 9000, tight).await;
    let count = store.message_count(&name).await.unwrap();
    assert_eq!((count.kept, count.dropped), (0, 28));

    for queue in 2..=5 {
        send(queue, 1..=1, 1, small).await;
    }
    let count = store.message_count(&name).await.unwrap();
    assert_eq!((count.kept, count.kept + count.dropped), (2, 32), "two queues are kept, the rest is counted");
    assert!(store.remove_device(&name, NOW).await.unwrap());
    assert_eq!(store.message_count(&name).await.unwrap().kept, 0);
    assert!(!store.remove_device(&name, NOW).await.unwrap());
}

#[tokio::test]
async fn a_failed_appraisal_is_kept_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let refusal = Refusal::new(Reason::AttestReference, "gw-1", "PCR 4 differs");
    for _ in 0..ATTEMPTS_MAX + 5 {
        store.add_failure(&name, &Digest::of(&[1]), &attempt(Some(refusal.clone()))).await.unwrap();
    }
    let device = store.device(&name).await.unwrap().unwrap();
    assert_eq!((device.state(NOW), device.refusal), (VerdictState::Failed, Some(refusal)));
    assert_eq!(store.last_failure(&name).await.unwrap().unwrap().event_log.as_deref(), Some(&b"log"[..]));
    admit(&store, "gw-1", 1, None).await.unwrap();
    let device = store.device(&name).await.unwrap().unwrap();
    assert_eq!((device.state(NOW), device.refusal.is_none()), (VerdictState::Fresh, true));
    assert_eq!(device.state(UnixTime(NOW.0 + 60)), VerdictState::Stale);
    // What failed before is of the past: a healthy gateway has no boot that waits to be accepted.
    assert!(store.last_failure(&name).await.unwrap().is_none());
}

/// Both began while the name was free; then one of them got it.
#[tokio::test]
async fn a_failure_of_another_tpm_does_not_touch_the_one_that_has_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let refusal = Refusal::new(Reason::AttestReference, "gw-1", "PCR 4 differs");
    store.add_failure(&name, &Digest::of(&[2]), &attempt(Some(refusal.clone()))).await.unwrap();
    assert_eq!(store.device(&name).await.unwrap().unwrap().state(NOW), VerdictState::Fresh);
    assert!(store.last_failure(&name).await.unwrap().is_none(), "its boot must not be there to be accepted");
    // The one that has the name, and one whose name is still free, are kept.
    store.add_failure(&name, &Digest::of(&[1]), &attempt(Some(refusal.clone()))).await.unwrap();
    assert_eq!(store.device(&name).await.unwrap().unwrap().state(NOW), VerdictState::Failed);
    store.add_failure(&gateway("gw-2"), &Digest::of(&[2]), &attempt(Some(refusal))).await.unwrap();
    assert!(store.last_failure(&gateway("gw-2")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_renewal_that_began_with_an_old_attestation_key_does_not_bring_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    store.add_token(&[2; 32], &grant(&gateway("gw-1"), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    admit_with(&store, "gw-1", (1, 2), Some(&[2; 32]), "ca").await.unwrap();
    assert_eq!(admit_with(&store, "gw-1", (1, 1), None, "ca").await, Err(Reason::AttestEkMismatch));
    let device = store.device(&gateway("gw-1")).await.unwrap().unwrap();
    assert_eq!(device.binding.attestation, Digest::of(&[2]));
    admit_with(&store, "gw-1", (1, 2), None, "ca").await.unwrap();
}

/// Made by the first schema, with a device and a token in it.
#[tokio::test]
async fn an_old_database_opens_and_its_tokens_let_in_no_more_than_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = sqlx::sqlite::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(include_str!("../../src/store/schema-1.sql")).execute(&pool).await.unwrap();
    let verdict = serde_json::to_string(&attempt(None).verdict).unwrap();
    sqlx::query(
        "INSERT INTO device (name, endorsement, attestation, labels, enrolled, verdict) VALUES ('gw-1', ?1, ?1, ?2, 1, ?3)",
    )
    .bind(Digest::of(&[1]).as_str())
    .bind("{\"site\":\"clinic\"}")
    .bind(verdict)
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("INSERT INTO join_token (hash, gateway, created, expires) VALUES (?, 'gw-2', 1, ?)")
        .bind(&[7; 32][..])
        .bind(i64::try_from(NOW.0 + 60).unwrap())
        .execute(&pool)
        .await
        .unwrap();
    sqlx::raw_sql("PRAGMA user_version = 1").execute(&pool).await.unwrap();
    pool.close().await;

    let store = open(folder.path()).await;
    let token = store.token(&[7; 32]).await.unwrap().unwrap();
    assert_eq!((token.grant.allow_software, token.grant.labels.len(), token.used), (false, 0, None));
    admit(&store, "gw-1", 1, None).await.unwrap();
    let device = store.device(&gateway("gw-1")).await.unwrap().unwrap();
    assert_eq!(device.labels.get("site").map(String::as_str), Some("clinic"));
    admit(&store, "gw-2", 2, Some(&[7; 32])).await.unwrap();
    assert!(store.device(&gateway("gw-2")).await.unwrap().unwrap().labels.is_empty());
    store.close().await;
    open(folder.path()).await;
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    with_gateway(folder.path()).await.close().await;
    open(folder.path()).await.close().await;
    let file = folder.path().join("fleet.db");
    // The schema version is at a fixed place in the header (SQLite file format, section 1.3).
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[63] = 99;
    std::fs::write(&file, bytes).unwrap();
    assert!(matches!(Store::open(&file).await, Err(StoreError::Newer { found: 99, .. })));
}

type Change = fn(&mut Message);

/// Another message under a known number is not lost, whatever is still kept of the one before.
#[tokio::test]
async fn other_bytes_under_a_known_number_are_a_conflict_and_the_same_ones_a_repetition() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let retention = Retention { messages: 10, bytes: 1_000_000, queues: 4, receipts: 5 };
    let epoch = hex::encode([1; 16]);
    let send = async |batch: &[Message]| {
        let added = store.add_messages(&name, &epoch, batch, retention, NOW).await.unwrap();
        (added.stored, added.conflict)
    };
    let batch = |range: std::ops::RangeInclusive<u64>| range.map(|n| message(1, n, 9)).collect::<Vec<_>>();
    assert_eq!(send(&batch(1..=20)).await, (20, None));
    let changes: [(&str, Change); 4] = [
        ("payload", |m| m.payload = vec![1; 9].into()),
        ("topic", |m| m.topic = "u".into()),
        ("time", |m| m.at = UnixTime(NOW.0 + 1)),
        ("sender", |m| m.from = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/b").unwrap()),
    ];
    for (case, change) in changes {
        // Kept; dropped and known by its digest; no longer known at all, which is told as the unknown that it is.
        for sequence in [15, 8, 2] {
            let mut other = message(1, sequence, 9);
            change(&mut other);
            assert_eq!(send(&[other]).await, (sequence - 1, Some(sequence)), "{case} of {sequence}");
        }
    }
    assert_eq!(send(&batch(2..=2)).await, (1, Some(2)), "better twice than lost");
    assert_eq!(send(&batch(6..=20)).await, (20, None), "repetitions");
    assert_eq!(store.message_count(&name).await.unwrap().kept, 10);
    // Up to the conflict a batch is stored, and nothing behind it is.
    let mut mixed = batch(18..=25);
    mixed[2].topic = "u".into();
    assert_eq!(send(&mixed).await, (19, Some(20)));
    assert_eq!(store.messages(&name, 1).await.unwrap()[0].sequence, 20);
    assert_eq!(send(&batch(18..=25)).await, (25, None));
    // Both sides learn of it.
    let events = store.events(Some(&name), 100).await.unwrap();
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("queue.conflict")), "{events:?}");
}

#[tokio::test]
async fn every_stored_byte_is_charged() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let cap = 4 * 1024 * 1024;
    let retention = Retention { bytes: cap, ..Retention::default() };
    let mut sequence = 0;
    for (topic, payload) in [(65_535, 0), (1, 0), (1, 60_000), (300, 300)] {
        for _ in 0..30 {
            let batch: Vec<_> = (0..100)
                .map(|_| {
                    sequence += 1;
                    Message { topic: "t".repeat(topic), ..message(1, sequence, payload) }
                })
                .collect();
            store.add_messages(&gateway("gw-1"), &batch[0].queue, &batch, retention, NOW).await.unwrap();
        }
    }
    let count = store.message_count(&gateway("gw-1")).await.unwrap();
    assert_eq!(count.kept + count.dropped, sequence);
    store.close().await;
    let size = std::fs::metadata(folder.path().join("fleet.db")).unwrap().len();
    // One batch above the cap, before it is brought down, and the receipts.
    assert!(size < 4 * cap, "{size} bytes for a cap of {cap}");
}

#[tokio::test]
async fn nobodys_events_push_out_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let (ours, theirs) = (gateway("gw-1"), gateway("gw-2"));
    store.add_event(By::Gateway, Some(&theirs), "renewed", NOW).await.unwrap();
    for n in 0..u64::try_from(GATEWAY_EVENTS_MAX).unwrap() * 2 {
        // A day apart, so that each is written, and no two alike.
        let now = UnixTime(NOW.0 + n * 86400);
        store.add_refusal(&ours, Reason::AttestQuote, &format!("try {n}"), now).await.unwrap();
    }
    let told = store.events(Some(&ours), u32::MAX).await.unwrap();
    let refusals = told.iter().filter(|event| event.reason.is_some()).count();
    assert_eq!(i64::try_from(refusals).unwrap(), GATEWAY_EVENTS_MAX);
    // What it did, what operators did with it, and what others did is all there.
    for text in ["joined, hardware none", "join token made: with or without a TPM, labels site=clinic"] {
        assert!(told.iter().any(|event| event.text == text), "{text}");
    }
    assert_eq!(store.events(Some(&theirs), 10).await.unwrap()[0].text, "renewed");
}

#[tokio::test]
async fn refusals_without_end_are_a_few_rows_and_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    for n in 0..10_000 {
        // A hundred a second, each with another text and in turn for one of two reasons.
        let now = UnixTime(NOW.0 + n / 100);
        let reason = if n / 1000 % 2 == 0 { Reason::AttestQuote } else { Reason::EnrolLabels };
        store.add_refusal(&name, reason, &format!("try {n}"), now).await.unwrap();
    }
    let refusals = async || {
        let told = store.events(Some(&name), u32::MAX).await.unwrap();
        told.into_iter().filter(|event| event.reason.is_some()).collect::<Vec<_>>()
    };
    let few = refusals().await;
    assert_eq!(few.len(), 2, "{few:?}");
    // What was last refused, and how often, but for those that the next row will count.
    assert!(few[0].text.starts_with("try 9") && few[0].text.ends_with(" times)"), "{few:?}");
    // An hour without is the end of a row.
    for n in 1..=3_u64 {
        let now = UnixTime(NOW.0 + n * 86400);
        store.add_refusal(&name, Reason::AttestQuote, "the same", now).await.unwrap();
    }
    let rows = refusals().await;
    assert!(rows.len() == 5 && rows[0].text == "the same", "{rows:?}");
}

#[tokio::test]
async fn a_token_bears_so_many_failed_tries_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    store.add_token(&[2; 32], &grant(&gateway("gw-2"), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    for _ in 1..TOKEN_FAILURES_MAX {
        store.count_failure(&[2; 32]).await.unwrap();
    }
    assert_eq!(store.token(&[2; 32]).await.unwrap().unwrap().failures, TOKEN_FAILURES_MAX - 1);
    store.add_token(&[3; 32], &grant(&gateway("gw-3"), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
    admit(&store, "gw-2", 2, Some(&[2; 32])).await.unwrap();
    for _ in 0..TOKEN_FAILURES_MAX {
        store.count_failure(&[3; 32]).await.unwrap();
    }
    assert_eq!(admit(&store, "gw-3", 3, Some(&[3; 32])).await, Err(Reason::EnrolToken));
}

/// Made by the fourth schema, with messages that were charged by their payloads.
#[tokio::test]
async fn messages_from_before_are_charged_and_known() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = sqlx::sqlite::SqlitePool::connect_with(options).await.unwrap();
    for schema in [
        include_str!("../../src/store/schema-1.sql"),
        include_str!("../../src/store/schema-2.sql"),
        include_str!("../../src/store/schema-3.sql"),
        include_str!("../../src/store/schema-4.sql"),
    ] {
        sqlx::raw_sql(schema).execute(&pool).await.unwrap();
    }
    let verdict = serde_json::to_string(&attempt(None).verdict).unwrap();
    sqlx::query(
        "INSERT INTO device (name, endorsement, attestation, labels, enrolled, verdict) VALUES ('gw-1', ?1, ?1, '{}', 1, ?2)",
    )
    .bind(Digest::of(&[1]).as_str())
    .bind(verdict)
    .execute(&pool)
    .await
    .unwrap();
    let epoch = hex::encode([1; 16]);
    sqlx::query("INSERT INTO queue VALUES ('gw-1', ?, 3, -1, 3, 1000, 0)")
        .bind(&epoch)
        .execute(&pool)
        .await
        .unwrap();
    for n in 1..=3 {
        let m = message(1, n, 9);
        sqlx::query("INSERT INTO message (gateway, queue, sequence, at, sender, topic, payload) VALUES ('gw-1', ?, ?, ?, ?, ?, ?)")
            .bind(&epoch)
            .bind(i64::try_from(n).unwrap())
            .bind(i64::try_from(NOW.0).unwrap())
            .bind(m.from.as_str())
            .bind(m.topic)
            .bind(m.payload.as_slice())
            .execute(&pool)
            .await
            .unwrap();
    }
    sqlx::raw_sql(
        "INSERT INTO event (at, gateway, text) VALUES (1, NULL, 'by an operator'); PRAGMA user_version = 4",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;

    let store = open(folder.path()).await;
    let name = gateway("gw-1");
    let mut other = message(1, 2, 9);
    other.topic = "u".into();
    let one = Retention { messages: 2, ..Retention::default() };
    let send = async |batch: &[Message]| {
        let added = store.add_messages(&name, &epoch, batch, one, NOW).await.unwrap();
        (added.stored, added.conflict)
    };
    assert_eq!(send(&[message(1, 1, 9), other]).await, (1, Some(2)));
    // The first was dropped by that, and is known by the digest that it got then.
    assert_eq!(send(&[message(1, 1, 9), message(1, 2, 9)]).await, (3, None));
    let tight = Retention { bytes: 1100, ..Retention::default() };
    store.add_messages(&name, &epoch, &[message(1, 4, 9)], tight, NOW).await.unwrap();
    let count = store.message_count(&name).await.unwrap();
    assert_eq!((count.kept, count.dropped), (1, 3), "three times 512 bytes and more do not fit");
    assert_eq!(store.events(None, 10).await.unwrap().last().unwrap().text, "by an operator");
}

#[tokio::test]
async fn a_certificate_that_was_not_renewed_is_told_once_and_not_for_a_clock_that_leapt() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    // More than are written at once.
    for n in 2..=150_u8 {
        let name = format!("gw-{n}");
        store.add_token(&[n; 32], &grant(&gateway(&name), UnixTime(NOW.0 + 60)), NOW).await.unwrap();
        admit(&store, &name, n, Some(&[n; 32])).await.unwrap();
    }
    let told = async |name: &str| {
        let events = store.events(Some(&gateway(name)), 100).await.unwrap();
        events
            .into_iter()
            .filter(|e| e.reason.as_deref() == Some("identity.expiring"))
            .map(|e| e.text)
            .collect::<Vec<_>>()
    };
    let at = |seconds| UnixTime(NOW.0 + seconds);
    for (now, changed) in [(102, 0), (103, 150), (104, 0), (102, 150), (103, 150), (300, 150), (301, 0)] {
        assert_eq!(store.tell_certificates(at(now)).await.unwrap(), changed, "{now}");
    }
    let texts = told("gw-150").await;
    assert!(texts.len() == 1 && texts[0].contains("ended") && texts[0].ends_with("(3 times)"), "{texts:?}");
    // A renewal begins anew, and a certificate goes with its gateway.
    admit(&store, "gw-1", 1, None).await.unwrap();
    assert_eq!(store.tell_certificates(at(103)).await.unwrap(), 150);
    assert!(store.remove_device(&gateway("gw-2"), NOW).await.unwrap());
    assert_eq!(store.tell_certificates(at(300)).await.unwrap(), 149);
}

/// Made before the fleet kept how long certificates last.
#[tokio::test]
async fn certificates_from_before_are_dated_by_their_lease() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let mut other = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("fleet.db"))
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("DELETE FROM certificate").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let certificate = async || store.device(&gateway("gw-1")).await.unwrap().unwrap().certificate;
    assert_eq!(certificate().await, None);
    let lease =
        |labels: &Labels| std::time::Duration::from_secs(if labels["site"] == "clinic" { 600 } else { 60 });
    store.date_certificates(lease).await.unwrap();
    let dated = certificate().await.unwrap();
    assert_eq!(dated, Certificate::lasting(NOW, UnixTime(NOW.0 + 600)));
    // What is known is not guessed.
    store.date_certificates(|_| std::time::Duration::ZERO).await.unwrap();
    assert_eq!(certificate().await, Some(dated));
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_wrong_counter_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let name = gateway("gw-1");
    let epoch = hex::encode([1; 16]);
    let add = async |sequence: u64, retention: Retention| {
        let batch = [message(1, sequence, 9)];
        store.add_messages(&name, &epoch, &batch, retention, NOW).await.unwrap();
    };
    let kept = async |store: &Store| {
        let messages = store.messages(&name, 100).await.unwrap();
        messages.iter().map(|message| message.sequence).collect::<Vec<_>>()
    };
    add(1, Retention::default()).await;
    add(2, Retention::default()).await;
    let mut other = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("fleet.db"))
        .connect()
        .await
        .unwrap();
    let flips = [
        "kept = kept | (1 << 40)",
        "bytes = bytes | (1 << 40)",
        "kept = kept | (1 << 63)",
        "bytes = bytes | (1 << 63)",
    ];
    for (sequence, flip) in (3..).zip(flips) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE queue SET {flip}")))
            .execute(&mut other)
            .await
            .unwrap();
        add(sequence, Retention::default()).await;
        assert_eq!(kept(&store).await, (1..=sequence).rev().collect::<Vec<_>>(), "{flip}");
        let count = store.message_count(&name).await.unwrap();
        assert_eq!((count.kept, count.dropped), (sequence, 0), "{flip}");
    }
    // The cap still holds.
    add(7, Retention { messages: 3, ..Retention::default() }).await;
    assert_eq!(kept(&store).await, [7, 6, 5]);
    // One that is within the cap is found at the next start.
    sqlx::raw_sql("UPDATE queue SET kept = 1000").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(store.message_count(&name).await.unwrap().kept, 3);
}

/// Refusals for other reasons between two conflicts make no new row of either.
#[tokio::test]
async fn refusals_that_alternate_are_a_row_for_each_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let (name, epoch, retention) = (gateway("gw-1"), hex::encode([1; 16]), Retention::default());
    store.add_messages(&name, &epoch, &[message(1, 1, 9)], retention, NOW).await.unwrap();
    for n in 0..300 {
        let now = UnixTime(NOW.0 + n * 20);
        let added = store.add_messages(&name, &epoch, &[message(1, 1, 10)], retention, now).await.unwrap();
        assert_eq!(added.conflict, Some(1));
        store.add_refusal(&name, Reason::AttestQuote, "renewal refused", now).await.unwrap();
        store.add_refusal(&name, Reason::EnrolToken, &format!("join refused: {n}"), now).await.unwrap();
    }
    let events = store.events(Some(&name), 1000).await.unwrap();
    let times: Vec<_> =
        events.iter().filter(|event| event.reason.is_some()).map(|e| e.text.as_str()).collect();
    assert_eq!(times.len(), 3, "{times:?}");
    assert!(times.iter().any(|text| text.ends_with("(300 times)")), "{times:?}");
}

#[tokio::test]
async fn conflicts_without_end_are_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_gateway(folder.path()).await;
    let (name, epoch, retention) = (gateway("gw-1"), hex::encode([1; 16]), Retention::default());
    let batch: Vec<_> = (1..=30).map(|sequence| message(1, sequence, 9)).collect();
    store.add_messages(&name, &epoch, &batch, retention, NOW).await.unwrap();
    for sequence in 1..=30 {
        let other = [message(1, sequence, 10)];
        let added = store.add_messages(&name, &epoch, &other, retention, NOW).await.unwrap();
        assert_eq!(added.conflict, Some(sequence));
    }
    let events = store.events(Some(&name), 100).await.unwrap();
    let conflicts: Vec<_> =
        events.iter().filter(|event| event.reason.as_deref() == Some("queue.conflict")).collect();
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].text.ends_with("(30 times)"), "{}", conflicts[0].text);
}
