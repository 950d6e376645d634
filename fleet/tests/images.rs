//! Images by tag: the operator signs the digest that the tag had when the deployment was made.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::process::{Child, Command, Stdio};

use common::Fleet;
use edgewarden_names::Reason;
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::Runtime;
use serde_json::json;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(fleet: &Fleet) -> Server {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: '{address}'}}\n",
        fleet.path("registry").display()
    );
    std::fs::write(fleet.path("registry.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(fleet.path("registry.yml")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the registry ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Server(child, address)
}

/// Puts an image with this configuration under a tag; returns its digest.
async fn push(address: &str, tag: &str, label: &str) -> String {
    let plain = Runtime { plain_http_registries: vec![address.to_owned()], ..Runtime::default() };
    let registry = Registry::new(address, "clinic/alerts", &plain).unwrap();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": {"release": label}},
        "rootfs": {"type": "layers", "diff_ids": []}})
    .to_string();
    let layer = registry.push_blob(b"layer").await.unwrap();
    let digest = registry.push_blob(config.as_bytes()).await.unwrap();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 5}]});
    registry.push_manifest(tag, MANIFEST, manifest.to_string().as_bytes()).await.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_resolved_once() {
    let fleet = Fleet::start(&[]);
    let server = registry(&fleet);
    let address = server.1.as_str();
    let digest = push(address, "1", "first").await;

    let folder = fleet.path("example");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(fleet.path("operator.key.pub"), folder.join("image.pub")).unwrap();
    std::fs::write(folder.join("policy.cedar"), "").unwrap();
    let document = |image: &str| {
        let file = folder.join("deployment.toml");
        let text = format!(
            "name = \"alerts\"\nversion = 1\npolicy_file = \"policy.cedar\"\n[[image_keys]]\nname = \"release\"\n\
             public_key_file = \"image.pub\"\n[[modules]]\nname = \"alerts\"\nimage = \"{image}\"\n\
             ports = [{{ name = \"alarm\", port = 9443 }}]\nrestart = \"on-failure\"\n"
        );
        std::fs::write(&file, text).unwrap();
        file
    };
    let file = document(&format!("{address}/clinic/alerts:1"));
    let file = file.to_str().unwrap();
    let checked =
        fleet.json(&["deploy", file, "--check", "--plain-http", address, "--select", "site=clinic"]);
    let deployment = &checked["deployment"];
    assert_eq!(deployment["modules"][0]["image"], format!("{address}/clinic/alerts:1@{digest}"));
    assert_eq!(deployment["selector"], json!({"site": "clinic"}));
    assert!(deployment["image_keys"][0]["public_key"].as_str().unwrap().contains("BEGIN PUBLIC KEY"));
    assert_ne!(fleet.cli(&["deploy", file, "--check"]).code(), 0, "plain HTTP was not allowed");

    // What is sent keeps its digest when the tag moves.
    let key = fleet.path("operator.key");
    let out = fleet.path("envelope.json");
    let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
    fleet.cli(&["deploy", file, "--plain-http", address, "--key", key, "--out", out]).ok();
    assert_ne!(push(address, "1", "second").await, digest);
    fleet.cli(&["deploy", "--envelope", out]).ok();
    let envelope: edgewarden_protocol::dsse::Envelope =
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert!(String::from_utf8(envelope.payload.0).unwrap().contains(&digest));

    let missing = document(&format!("{address}/clinic/alerts:2"));
    let missing = missing.to_str().unwrap();
    fleet.cli(&["deploy", missing, "--check", "--plain-http", address]).refused(Reason::ImageUnavailable);
    for bad in
        ["alerts:1", "clinic/alerts", &format!("{address}/Clinic/alerts:1"), &format!("{address}/../x:1")]
    {
        let file = document(bad);
        let answer = fleet.cli(&["deploy", file.to_str().unwrap(), "--check", "--plain-http", address]);
        assert_eq!(answer.code(), 1, "{bad}: {}", answer.errors());
    }
}
