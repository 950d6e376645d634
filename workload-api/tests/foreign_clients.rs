//! Stock clients of other makers against our socket: the crate `spiffe`, go-spiffe and the Python package `spiffe`. Each
//! gets an identity and a token, has a token judged, reads the bundles and sees one rotation.
//!
//! The Go and Python clients are built in a folder that goes away, from packages that are fetched. Where their tool chain
//! is not there, or the packages cannot be fetched, the test says so and is skipped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{ID, Served};
use spiffe::{JwtSource, TrustDomain, WorkloadApiClient};
use tokio::io::{AsyncBufReadExt as _, BufReader};

fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

/// The first of these programs that there is.
fn program(candidates: &[&str]) -> Option<String> {
    let works = |name: &&&str| {
        let version = if name.ends_with("go") { "version" } else { "--version" };
        let run = Command::new(**name).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    candidates.iter().find(works).map(ToString::to_string)
}

/// Whether a preparation that needs a network went well.
fn prepared(command: &mut Command) -> bool {
    let output = command.stdin(Stdio::null()).output().unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("SKIPPED: its packages cannot be fetched: {}", said.lines().last().unwrap_or_default());
    }
    output.status.success()
}

/// Runs a client, rotates when it says that it watches, and compares all that it says.
async fn drive(mut client: tokio::process::Command) {
    let served = Served::new();
    client.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", served.socket.display()));
    let mut child = client.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let conversation = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "watching" {
                served.source.rotate();
            }
            said.push(line);
        }
        child.wait().await.unwrap()
    };
    let ended = tokio::time::timeout(Duration::from_secs(120), conversation).await;
    assert!(ended.is_ok_and(|status| status.success()), "{said:#?}");
    let expected = [
        format!("x509 {ID}"),
        format!("jwt {ID} [db queue]"),
        format!("judged {ID}"),
        format!("verified {ID}"),
        "bundles plant.example 1".into(),
        "roots 1".into(),
        "watching".into(),
        "rotated true".into(),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn go_spiffe_is_served() {
    let Some(go) = program(&["go", "/usr/local/go/bin/go"]) else {
        eprintln!("SKIPPED: there is no Go on this machine");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for file in ["go.mod", "go.sum", "main.go"] {
        std::fs::copy(sources("go").join(file), folder.path().join(file)).unwrap();
    }
    let binary = folder.path().join("client");
    let tool = |arguments: &[&str]| {
        let mut command = Command::new(&go);
        command
            .args(arguments)
            .current_dir(folder.path())
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly");
        command
    };
    if !prepared(&mut tool(&["mod", "download"])) {
        return;
    }
    let built = tool(&["build", "-o", binary.to_str().unwrap(), "."]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    drive(tokio::process::Command::new(binary)).await;
}

#[tokio::test]
async fn py_spiffe_is_served() {
    let Some(python) = program(&["python3.11", "python3"]) else {
        eprintln!("SKIPPED: there is no Python on this machine");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let environment = folder.path().join("env");
    if !prepared(Command::new(python).args(["-m", "venv"]).arg(&environment)) {
        return;
    }
    let python = environment.join("bin/python");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    if !prepared(install.arg(sources("python").join("requirements.txt"))) {
        return;
    }
    let mut client = tokio::process::Command::new(python);
    client.arg(sources("python").join("client.py"));
    drive(client).await;
}

#[tokio::test]
async fn the_spiffe_crate_is_served_its_jwt_profile() {
    let served = Served::new();
    let endpoint = format!("unix://{}", served.socket.display());
    let stock = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    let svid = stock.fetch_jwt_svid(["db", "queue"], None).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), ID);
    let judged = stock.validate_jwt_token("queue", svid.token()).await.unwrap();
    assert_eq!(judged.spiffe_id().to_string(), ID);
    assert!(stock.validate_jwt_token("other", svid.token()).await.is_err());
    let own = TrustDomain::new("plant.example").unwrap();
    let bundles = stock.fetch_jwt_bundles().await.unwrap();
    assert_eq!(bundles.get(&own).unwrap().jwt_authorities().count(), 1);

    // A source of keys that follows the stream.
    let source = JwtSource::builder().endpoint(&endpoint).build().await.unwrap();
    let mut updates = source.updated();
    let next = edgewarden_workload_api::jwt::SigningKey::generate().unwrap();
    let both = common::bundles_with(&[&served.source.jwt, &next], 2);
    served.source.bundles.send_replace(std::sync::Arc::new(both));
    while source.try_bundle_for_trust_domain(&own).unwrap().jwt_authorities().count() < 2 {
        updates.changed().await.unwrap();
    }
}
