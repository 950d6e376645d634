//! Images of a deployment, as the operator's command sees them: a tag is resolved once, and what a gateway would refuse is
//! said before anybody signs.

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
use edgewarden_image_trust::sign::{SigningKey, sign};
use edgewarden_names::Reason;
use edgewarden_oci::build::{Recipe, build};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::manifest::{Execution, ImageConfig};
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::deployment::ImageReference;
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
    let unsigned = ["--skip-images", "--allow-empty", "--plain-http", address];
    let checked =
        fleet.json(&[&["deploy", file, "--check", "--select", "site=clinic"], &unsigned[..]].concat());
    let deployment = &checked["deployment"];
    assert_eq!(deployment["modules"][0]["image"], format!("{address}/clinic/alerts:1@{digest}"));
    assert_eq!(deployment["selector"], json!({"site": "clinic"}));
    assert!(deployment["image_keys"][0]["public_key"].as_str().unwrap().contains("BEGIN PUBLIC KEY"));
    assert_ne!(fleet.cli(&["deploy", file, "--check", "--all"]).code(), 0, "plain HTTP was not allowed");

    // What is sent keeps its digest when the tag moves.
    let key = fleet.path("operator.key");
    let out = fleet.path("envelope.json");
    let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
    fleet.cli(&["deploy", file, "--all", "--plain-http", address, "--key", key, "--out", out]).ok();
    assert_ne!(push(address, "1", "second").await, digest);
    fleet.cli(&["deploy", "--envelope", out, "--allow-empty"]).ok();
    let envelope: edgewarden_protocol::dsse::Envelope =
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert!(String::from_utf8(envelope.payload.0).unwrap().contains(&digest));

    let missing = document(&format!("{address}/clinic/alerts:2"));
    let missing = missing.to_str().unwrap();
    fleet
        .cli(&["deploy", missing, "--check", "--all", "--plain-http", address])
        .refused(Reason::ImageUnavailable);
    for bad in
        ["alerts:1", "clinic/alerts", &format!("{address}/Clinic/alerts:1"), &format!("{address}/../x:1")]
    {
        let file = document(bad);
        let answer =
            fleet.cli(&["deploy", file.to_str().unwrap(), "--check", "--all", "--plain-http", address]);
        assert_eq!(answer.code(), 1, "{bad}: {}", answer.errors());
    }
}

/// A signed image with a shell, its configuration changed. Gives the reference.
async fn signed(
    fleet: &Fleet,
    address: &str,
    key: &SigningKey,
    name: &str,
    change: fn(&mut Execution),
) -> String {
    let plain = Runtime { plain_http_registries: vec![address.to_owned()], ..Runtime::default() };
    let registry = Registry::new(address, &format!("clinic/{name}"), &plain).unwrap();
    let layout = ImageLayout::create(&fleet.path(name)).unwrap();
    build(&Recipe { binaries: vec!["/bin/sh".into()], ..Recipe::default() }, &layout).unwrap();
    let (_, _, mut manifest) = layout.image().unwrap();
    let config = layout.blob(&manifest.config.digest, 1 << 20).unwrap();
    let mut config: ImageConfig = serde_json::from_slice(&config).unwrap();
    change(&mut config.config);
    let media_type = manifest.config.media_type.clone();
    manifest.config = layout.put(&media_type, &serde_json::to_vec(&config).unwrap()).unwrap();
    let image = layout.put(MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap();
    layout.set_image(&image).unwrap();
    let digest = layout.push(&registry, "1").await.unwrap();
    let reference = format!("{address}/clinic/{name}:1@{digest}");
    if name != "unsigned" {
        let signed = sign(&ImageReference::parse(&reference).unwrap(), key).unwrap();
        registry.push_blob(&signed.config).await.unwrap();
        registry.push_blob(&signed.payload).await.unwrap();
        registry.push_manifest(&signed.tag, signed.manifest_media_type, &signed.manifest).await.unwrap();
    }
    reference
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_a_gateway_would_refuse() {
    let fleet = Fleet::start(&[]);
    let server = registry(&fleet);
    let address = server.1.as_str();
    let key = SigningKey::generate().unwrap();
    let check = |image: &str, public_key: &str| {
        let file = fleet.path("checked.toml");
        let text = format!(
            "name = \"checked\"\nversion = 1\npolicy = \"\"\n[[image_keys]]\nname = \"release\"\n\
             public_key = \"\"\"\n{public_key}\"\"\"\n[[modules]]\nname = \"alerts\"\nimage = \"{image}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let check = ["--check", "--all", "--allow-empty", "--plain-http", address];
        fleet.cli(&[&["deploy", file.to_str().unwrap()], &check[..]].concat())
    };
    let good = signed(&fleet, address, &key, "good", |_| ()).await;
    check(&good, &key.public_pem()).ok();
    type Change = fn(&mut Execution);
    let images: [(&str, Change, Reason); 6] = [
        ("unsigned", |_| (), Reason::ImageUnsigned),
        ("root", |run| run.user = Some("0".into()), Reason::ImageUser),
        ("nobody", |run| run.user = Some("nobody".into()), Reason::ImageUser),
        ("nowhere", |run| run.working_dir = Some("/app".into()), Reason::ImageCommand),
        ("nothing", |run| run.entrypoint = None, Reason::ImageCommand),
        ("missing", |run| run.entrypoint = Some(vec!["/app/run".into()]), Reason::ImageCommand),
    ];
    for (name, change, reason) in images {
        let image = signed(&fleet, address, &key, name, change).await;
        check(&image, &key.public_pem()).refused(reason);
    }
    check(&good, &SigningKey::generate().unwrap().public_pem()).refused(Reason::ImageSignature);
}

/// Keys that a gateway cannot use, as people have them.
#[test]
fn an_image_key_that_no_gateway_can_use_is_refused_by_name() {
    let fleet = Fleet::start(&[]);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let public = |kind: &[&str]| {
        let private = fleet.path("private.pem");
        let private = private.to_str().unwrap();
        openssl(&[&["genpkey", "-out", private], kind].concat());
        openssl(&["pkey", "-in", private, "-pubout"])
    };
    let curve = |name: &str| public(&["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{name}")]);
    let good = curve("P-256");
    let private = std::fs::read_to_string(fleet.path("private.pem")).unwrap();
    for (case, text, says) in [
        ("RSA", public(&["-algorithm", "RSA"]), "an RSA key"),
        ("Ed25519", public(&["-algorithm", "ED25519"]), "an Ed25519 key"),
        ("P-384", curve("P-384"), "a P-384 key"),
        ("P-521", curve("P-521"), "a P-521 key"),
        ("byte order mark", format!("\u{feff}{good}"), "byte order mark"),
        ("two", good.repeat(2), "2 PEM blocks"),
        ("private", private, "private key"),
        ("text before", format!("a key:\n{good}"), "before"),
        ("text behind", format!("{good}the end"), "end"),
        ("empty", String::new(), "not PEM"),
        ("broken", good.replace("MFkw", "*"), "base64"),
        ("a certificate", std::fs::read_to_string(fleet.data().join("root.pem")).unwrap(), "a certificate"),
    ] {
        std::fs::write(fleet.path("image.pub"), &text).unwrap();
        let file = fleet.document(1, "site = \"clinic\"");
        let document = std::fs::read_to_string(&file).unwrap();
        let keys = "[[image_keys]]\nname = \"ci\"\npublic_key_file = \"image.pub\"\n";
        std::fs::write(&file, format!("{document}{keys}")).unwrap();
        let operator = fleet.path("operator.key");
        let (file, operator) = (file.to_str().unwrap(), operator.to_str().unwrap());
        for rest in [&["--check", "--skip-images"][..], &["--key", operator]] {
            let answer = fleet.cli(&[&["deploy", file, "--allow-empty"], rest].concat());
            let said = answer.errors();
            answer.refused(Reason::DeploymentInvalid);
            assert!(said.contains("image key `ci`") && said.contains(says), "{case}: {said}");
        }
    }
    assert_eq!(fleet.json(&["deployment", "list"]), json!([]));
}
