//! A database that is gone, another fleet's, or not what was written is not served as if it were fine.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Fleet;
use common::stored::{
    NOW, add_deployment, add_token, attempt, hash, join, jwt_keys, message, reference, secret, vendor_root,
};
use edgewarden_fleet::store::messages::Retention;
use edgewarden_fleet::store::{Store, StoreError};
use edgewarden_names::{Digest, GatewayName, Reason, Refusal};
use edgewarden_protocol::dsse::VerifyingKey;

const FLIPS: u64 = 1500;

fn gateway() -> GatewayName {
    common::name("gw-1")
}

/// With a row in each table.
async fn fill(file: &Path) {
    let store = Store::open(file).await.unwrap();
    store.bind(&Digest::of(b"root")).await.unwrap();
    add_token(&store, "gw-1", 1).await.unwrap();
    add_token(&store, "gw-2", 2).await.unwrap();
    join(&store, "gw-1", 1).await.unwrap();
    let refusal = Refusal::new(Reason::AttestReference, "gw-2", "PCR 4 differs");
    store
        .add_failure(&common::name("gw-2"), &Digest::of(b"2"), &attempt(Some((refusal, 1200))))
        .await
        .unwrap();
    store.add_reference(&reference("boot"), "file", NOW).await.unwrap();
    store.add_vendor_roots(&[vendor_root("CN=v", 1, 900)], NOW).await.unwrap();
    let key = VerifyingKey { name: "operator".into(), point: vec![4; 65] };
    store.add_operator_key(&key, NOW).await.unwrap();
    add_deployment(&store, 7, &b"a deployment ".repeat(800)).await.unwrap();
    let envelope = b"a secret ".repeat(100);
    store.add_secret(&secret(3), false, "operator", &Digest::of(&envelope), &envelope, NOW).await.unwrap();
    store.keep_jwt_keys(&jwt_keys(1)).await.unwrap();
    let messages: Vec<_> = (1..=20).map(|sequence| message(sequence, 300)).collect();
    store.add_messages(&gateway(), &messages[0].queue, &messages, Retention::default(), NOW).await.unwrap();
    store.close().await;
}

/// All that somebody may rely on, as the store gives it.
async fn dump(store: &Store) -> Result<String, StoreError> {
    let mut devices = store.devices().await?;
    for device in &mut devices {
        (device.seen, device.report) = (None, None);
    }
    let mut out = vec![format!("{devices:?}")];
    for n in [1, 2] {
        out.push(format!("{:?}", store.token(&hash(n)).await?));
    }
    out.push(format!("{:?}", store.knows_ca_key(&gateway(), &Digest::of(&1_u64.to_be_bytes())).await?));
    out.push(format!("{:?}", store.last_failure(&common::name("gw-2")).await?));
    out.push(format!("{:?}{:?}", store.references().await?, store.reference_summaries().await?));
    out.push(format!("{:?}{:?}", store.vendor_roots().await?, store.vendor_bundle().await?));
    out.push(format!("{:?}", store.operator_keys().await?));
    for deployment in store.deployments().await? {
        out.push(format!("{deployment:?}{:?}", store.envelope(&deployment.digest).await?));
    }
    for secret in store.secrets(None).await? {
        out.push(format!("{secret:?}{:?}", store.secret_envelope(&gateway(), &secret.digest).await?));
    }
    out.push(format!("{:?}{:?}", store.jwt_keys(NOW).await?, store.events(None, 1000).await?));
    Ok(out.concat())
}

#[tokio::test]
async fn a_changed_bit_is_found_or_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.db");
    fill(&file).await;
    let good = std::fs::read(&file).unwrap();
    let store = Store::open(&file).await.unwrap();
    let (expected, messages) = (dump(&store).await.unwrap(), store.messages(&gateway(), 100).await.unwrap());
    store.close().await;
    let places: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..FLIPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = places[usize::try_from(random >> 33).unwrap() % places.len()];
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (random & 7);
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("fleet.db{end}")));
        }
        std::fs::write(&file, bytes).unwrap();
        match Store::open(&file).await {
            Err(StoreError::Damaged(_) | StoreError::Newer { .. } | StoreError::Sql(_)) => found += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
            Ok(store) => {
                match dump(&store).await {
                    Ok(dump) => assert_eq!(dump, expected, "byte {at} bit {}", random & 7),
                    // Event logs are large: they are looked at when somebody asks for one.
                    Err(StoreError::Damaged(_)) => found += 1,
                    Err(other) => panic!("byte {at}: {other:?}"),
                }
                let now = store.messages(&gateway(), 100).await.unwrap();
                assert_eq!(now.len(), messages.len(), "byte {at}");
                for (now, before) in now.iter().zip(&messages) {
                    assert!(now == before || now.damaged, "byte {at}: {now:?}");
                }
                harmless += 1;
                store.close().await;
            }
        }
    }
    assert!(found > FLIPS / 2, "{found} found, {harmless} harmless");
}

/// Runs the server, which must not come up, and gives what it says.
fn refused(fleet: &Fleet) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden-fleet"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(fleet.data()).stdin(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + common::DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the server serves: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_not_made_anew_beside_an_old_root() {
    let mut fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    fleet.stop();
    let (database, kept) = (fleet.data().join("fleet.db"), fleet.path("kept.db"));
    std::fs::rename(&database, &kept).unwrap();
    for empty in [false, true] {
        if empty {
            std::fs::write(&database, b"").unwrap();
        }
        let said = refused(&fleet);
        assert!(said.contains("restore a backup") && said.contains("database new"), "{said}");
    }
    // Nor is the root replaced because `fleet.toml` is gone, where gateways rest on it.
    std::fs::copy(&kept, &database).unwrap();
    std::fs::rename(fleet.data().join("fleet.toml"), fleet.path("kept.toml")).unwrap();
    let root = std::fs::read(fleet.data().join("root.pem")).unwrap();
    let again = fleet.cli(&["init", "--trust-domain", "plant.example", "--name", "localhost"]);
    assert!(again.code() == 1 && again.errors().contains("fleet.db"), "{}", again.errors());
    assert_eq!(std::fs::read(fleet.data().join("root.pem")).unwrap(), root);
    std::fs::rename(fleet.path("kept.toml"), fleet.data().join("fleet.toml")).unwrap();
    // It does not take the place of one that is there.
    assert_eq!(fleet.cli(&["database", "new"]).code(), 1);
    fleet.cli(&["database", "check"]).ok();
    fleet.run();
    gateway.sync(&fleet, None, 0).await.unwrap();
    fleet.stop();
    // Another fleet's is none of ours.
    let mut other = Fleet::start(&[]);
    other.stop();
    std::fs::copy(other.data().join("fleet.db"), &database).unwrap();
    let said = refused(&fleet);
    assert!(said.contains("another fleet's"), "{said}");
    // The way out where there is no backup.
    std::fs::remove_file(&database).unwrap();
    fleet.cli(&["database", "new"]).ok();
    fleet.run();
    assert_eq!(gateway.sync(&fleet, None, 0).await.unwrap_err(), Reason::AttestRequired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_not_replaced_where_all_else_is_lost() {
    let mut fleet = Fleet::start(&[]);
    fleet.stop();
    let file = |name: &str| fleet.data().join(name);
    assert!(!file("init.partial").exists());
    for name in ["fleet.toml", "fleet.db"] {
        std::fs::remove_file(file(name)).unwrap();
    }
    let (key, root) = (std::fs::read(file("root.key")).unwrap(), std::fs::read(file("root.pem")).unwrap());
    let init = || fleet.cli(&["init", "--trust-domain", "plant.example", "--name", "localhost"]);
    let refused = init();
    assert_eq!(refused.code(), 1);
    let said = refused.errors();
    assert!(said.contains("root.key") && said.contains("backup"), "{said}");
    assert_eq!(std::fs::read(file("root.key")).unwrap(), key);
    assert_eq!(std::fs::read(file("root.pem")).unwrap(), root);
    // What an `init` that was cut off has left may be made anew.
    std::fs::write(file("init.partial"), b"").unwrap();
    init().ok();
    assert_ne!(std::fs::read(file("root.key")).unwrap(), key);
    assert!(!file("init.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_stops_the_server_the_check_and_the_backup() {
    let mut fleet = Fleet::start(&[]);
    let _gateway = fleet.gateway("gw-1").await;
    fleet.stop();
    let database = fleet.data().join("fleet.db");
    let good = std::fs::read(&database).unwrap();
    let mut bytes = good.clone();
    // In the labels of the device, and of the token: within values, where SQLite sees nothing.
    let needle = b"{\"site\":\"clinic\"}";
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 9] ^= 1;
    }
    std::fs::write(&database, &bytes).unwrap();
    let said = refused(&fleet);
    assert!(said.contains("damaged") && said.contains("restore a backup"), "{said}");
    let checked = fleet.cli(&["database", "check"]);
    assert!(checked.code() == 1 && checked.errors().contains("damaged"), "{}", checked.errors());
    let copied = fleet.cli(&["backup", fleet.path("backup").to_str().unwrap()]);
    assert!(copied.code() == 1 && copied.errors().contains("damaged"), "{}", copied.errors());
    assert!(!fleet.path("backup").exists());
    std::fs::write(&database, &good).unwrap();
    fleet.run();
    assert_eq!(fleet.json(&["device", "list"])[0]["name"], "gw-1");
}
