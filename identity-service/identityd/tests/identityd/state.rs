//! Documents that are changed while the gateway is off: it does not start, and says which file and what to do.

use crate::common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Gateway, document};
use edgewarden_names::LeafName;
use edgewarden_protocol::control::Request;

const DOCUMENTS: [&str; 11] = [
    "clock.json",
    "deployment.json",
    "enrolment.json",
    "est-request.json",
    "federation.json",
    "generations.json",
    "jwt-keys.json",
    "leaf-tokens.json",
    "resident-keys.json",
    "secrets.json",
    "start-records.json",
];

/// A gateway with something in its documents, stopped.
async fn stopped() -> Gateway {
    let mut gateway = Gateway::started().await;
    gateway.join().await;
    gateway.deploy(&document(1)).await;
    let leaf = LeafName::parse("sensor-1").unwrap();
    gateway.ask(Request::LeafAllow { leaf, lifetime_seconds: 600 }).await.unwrap();
    gateway.stop().await;
    gateway
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// The start fails, names the file, and says what to do; nothing is served.
async fn refused(gateway: &mut Gateway, file: &str, what: &str) {
    let error = gateway.start().await.err().unwrap_or_else(|| panic!("{file}: {what}: it starts"));
    let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let error = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    for said in [file, "state.untrusted", "backup"] {
        assert!(error.contains(said), "{file}: {what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_somebody_else_wrote_stops_the_start_and_is_named() {
    let mut gateway = stopped().await;
    let other = stopped().await;
    let (folder, foreign) = (gateway.layout().identity_state(), other.layout().identity_state());
    let on_disk: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(on_disk.iter().all(|name| DOCUMENTS.contains(&name.as_str())), "{on_disk:?}");
    // What an intruder would like to change.
    let wishes: BTreeMap<&str, (&str, &str)> = [
        ("enrolment.json", ("\"fresh\"", "\"failed\"")),
        ("deployment.json", ("\"highest\":1", "\"highest\":0")),
        ("generations.json", ("\"last\":0", "\"last\":9")),
        ("leaf-tokens.json", ("\"tokens\":{", "\"tokens\":{\"intruder\":{\"sha256\":\"ab\",\"expires\":9},")),
        ("clock.json", ("\"floor\":", "\"floor\":1")),
        ("start-records.json", ("\"live\":{}", "\"live\":{ }")),
    ]
    .into();
    for file in DOCUMENTS {
        let good = read(&folder, file);
        let put = |text: &str| std::fs::write(folder.join(file), text).unwrap();
        if let Some((from, to)) = wishes.get(file) {
            let (head, content) = good.split_once("\"content\":").unwrap();
            let changed = format!("{head}\"content\":{}", content.replacen(from, to, 1));
            assert_ne!(changed, good, "{file}");
            put(&changed);
            refused(&mut gateway, file, "changed").await;
        }
        put(&read(&foreign, file));
        refused(&mut gateway, file, "another gateway's").await;
        let (_, content) = good.split_once("\"content\":").unwrap();
        put(&format!("{{\"version\":1,\"content\":{content}"));
        refused(&mut gateway, file, "without a proof").await;
        put("");
        refused(&mut gateway, file, "empty").await;
        std::fs::remove_file(folder.join(file)).unwrap();
        refused(&mut gateway, file, "removed").await;
        put(&good);
    }
    // Two that would both read as the other.
    let (bundles, secrets) = (read(&folder, "federation.json"), read(&folder, "secrets.json"));
    std::fs::write(folder.join("federation.json"), &secrets).unwrap();
    std::fs::write(folder.join("secrets.json"), &bundles).unwrap();
    refused(&mut gateway, ".json", "exchanged").await;
    std::fs::write(folder.join("federation.json"), &bundles).unwrap();
    std::fs::write(folder.join("secrets.json"), &secrets).unwrap();

    std::fs::write(folder.join("journal.json"), "{\"version\":1,\"content\":{\"files\":{}}}").unwrap();
    refused(&mut gateway, "journal.json", "a journal").await;
    std::fs::remove_file(folder.join("journal.json")).unwrap();
    gateway.start_again().await;
    assert!(gateway.status().await.deployment.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_their_key_stop_the_start() {
    let mut gateway = stopped().await;
    let keys = gateway.layout().identity_state().join("software-keys");
    let kept = std::fs::read(&keys).unwrap();
    std::fs::remove_file(&keys).unwrap();
    refused(&mut gateway, ".json", "no key").await;
    std::fs::write(&keys, kept).unwrap();
    gateway.start_again().await;
    assert!(gateway.status().await.deployment.is_some());
}

/// Documents and key removed together, by somebody who can: it is said, and nothing of before counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_made_anew_is_written_down_and_takes_nothing_of_the_old_one() {
    let mut gateway = stopped().await;
    let folder = gateway.layout().identity_state();
    let old: Vec<_> = DOCUMENTS.iter().map(|file| (file, read(&folder, file))).collect();
    for file in DOCUMENTS {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    gateway.start_again().await;
    assert!(gateway.status().await.deployment.is_none());
    assert!(gateway.events().await.iter().any(|event| event == "state.made_anew"));
    gateway.join().await;
    gateway.stop().await;
    for (file, text) in &old {
        let new = read(&folder, file);
        std::fs::write(folder.join(file), text).unwrap();
        refused(&mut gateway, file, "of before").await;
        std::fs::write(folder.join(file), new).unwrap();
    }
    for (file, text) in &old {
        std::fs::write(folder.join(file), text).unwrap();
    }
    refused(&mut gateway, ".json", "all of before").await;
}
