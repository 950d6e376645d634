//! Build, push, pull, keep and unpack, against Debian's docker-registry; and registries that do not behave.

use crate::common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use common::TestRegistry;
use edgewarden_names::{Architecture, Digest, Processor, Reason};
use edgewarden_oci::OciError;
use edgewarden_oci::build::{Recipe, build};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::manifest::{ImageConfig, OCI_MANIFEST, parse_image};
use edgewarden_oci::records::RecordKey;
use edgewarden_oci::registry::Registry;
use edgewarden_oci::store::ContentStore;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::control::Layer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_sha256(&hash)
}

fn reason<T: std::fmt::Debug>(result: Result<T, OciError>) -> Reason {
    result.unwrap_err().refusal().reason
}

fn recipe() -> Recipe {
    Recipe { binaries: vec![PathBuf::from("/bin/true"), PathBuf::from("/bin/cat")], ..Recipe::default() }
}

/// The layers as the judge would put them into a permit.
fn layers(manifest: &[u8], config: &[u8]) -> Vec<Layer> {
    let manifest = parse_image(&sha256(manifest), manifest).unwrap();
    let config = ImageConfig::parse(&sha256(config), config).unwrap();
    let pairs = manifest.layers.iter().zip(config.rootfs.diff_ids);
    pairs
        .map(|(layer, diff_id)| Layer {
            digest: layer.digest.clone(),
            diff_id,
            size: layer.size,
            media_type: layer.media_type.clone(),
        })
        .collect()
}

#[tokio::test]
async fn an_image_goes_to_a_registry_and_comes_back_as_a_root_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestRegistry::start().await;
    let registry = Registry::new(&server.host, "clinic/true", &server.config()).unwrap();
    let layout = ImageLayout::create(&folder.path().join("image")).unwrap();
    let built = build(&recipe(), &layout).unwrap();
    let again = ImageLayout::create(&folder.path().join("again")).unwrap();
    assert_eq!(build(&recipe(), &again).unwrap(), built, "the same inputs give the same digest");

    let layout = ImageLayout::open(layout.path()).unwrap();
    assert_eq!(layout.push(&registry, "1").await.unwrap(), built);
    assert_eq!(layout.push(&registry, "1").await.unwrap(), built, "pushing again changes nothing");
    assert_eq!(registry.resolve("1").await.unwrap(), built);
    assert_eq!(registry.resolve_image("1", Architecture::HERE).await.unwrap(), built);
    assert!(registry.signatures(&built).await.unwrap().is_empty());
    assert_eq!(reason(registry.resolve("2").await), Reason::ImageUnavailable);
    assert_eq!(reason(registry.resolve("../../v2").await), Reason::RequestInvalid);
    assert_eq!(reason(registry.manifest(&sha256(b"")).await), Reason::ImageUnavailable);

    let store = ContentStore::open(&folder.path().join("store")).unwrap();
    let key = RecordKey::new(&[7; 32]);
    let documents = store.documents(&registry, &built, Processor::here()).await.unwrap();
    let layers = layers(&documents.manifest, &documents.config);
    assert_eq!(
        reason(store.root_file_system(&built, &layers, &key)),
        Reason::ImageUnavailable,
        "no layers yet"
    );
    for layer in &layers {
        store.fetch(&registry, &layer.digest, layer.size).await.unwrap();
    }
    drop(server);
    // From here on there is no network.
    let documents_again = store.documents(&registry, &built, Processor::here()).await.unwrap();
    assert_eq!(documents_again, documents);
    let root = store.root_file_system(&built, &layers, &key).unwrap();
    assert!(root.join("usr/bin/true").is_file() && root.join("etc/nsswitch.conf").is_file());
    let config = ImageConfig::parse(&sha256(&documents.config), &documents.config).unwrap();
    assert_eq!(config.config.entrypoint.unwrap(), ["/usr/bin/true"]);
    assert_eq!(config.config.user.as_deref(), Some("65532:65532"), "not root");
    let ran = std::process::Command::new("chroot")
        .arg(&root)
        .args(["/usr/bin/cat", "/etc/nsswitch.conf"])
        .output()
        .unwrap();
    assert!(ran.status.success(), "the libraries are in the image: {}", String::from_utf8_lossy(&ran.stderr));

    // What was changed on disk is unpacked again, from blobs that are hashed again.
    std::fs::write(root.join("usr/bin/true"), "#!/bin/sh\n").unwrap();
    let root = store.root_file_system(&built, &layers, &key).unwrap();
    assert_ne!(std::fs::read(root.join("usr/bin/true")).unwrap(), b"#!/bin/sh\n");
    std::fs::write(root.join("usr/bin/more"), "").unwrap();
    assert!(!store.root_file_system(&built, &layers, &key).unwrap().join("usr/bin/more").exists());
    let blob = folder.path().join("store/blobs/sha256").join(layers[0].digest.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    store.root_file_system(&built, &layers, &key).unwrap();
    std::fs::remove_file(root.join("usr/bin/true")).unwrap();
    let refused = store.root_file_system(&built, &layers, &key).unwrap_err().refusal().reason;
    assert!(matches!(refused, Reason::ImageContent | Reason::ImageInvalid), "{refused}");

    store.retain(&BTreeSet::from([built.clone()])).unwrap();
    assert!(store.get(&built, 1 << 20).unwrap().is_some());
    store.retain(&BTreeSet::new()).unwrap();
    assert!(store.get(&built, 1 << 20).unwrap().is_none() && !root.exists());
}

#[tokio::test]
async fn signatures_are_found_by_cosigns_tag_and_limits_hold() {
    let server = TestRegistry::start().await;
    let registry = Registry::new(&server.host, "clinic/signed", &server.config()).unwrap();
    let image = sha256(b"an image");
    let payload = b"{\"critical\":{}}".to_vec();
    registry.push_blob(&payload).await.unwrap();
    registry.push_blob(b"{}").await.unwrap();
    let tag = format!("sha256-{}.sig", image.hex());
    let manifest = |layers: Vec<serde_json::Value>| {
        let config = serde_json::json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(b"{}"), "size": 2});
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})
            .to_string()
    };
    let layer = |size: usize| {
        serde_json::json!({"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": sha256(&payload), "size": size, "annotations": {"dev.cosignproject.cosign/signature": "MEUC"}})
    };
    let other = serde_json::json!({"mediaType": "text/plain", "digest": sha256(b"{}"), "size": 2});
    let good = manifest(vec![layer(payload.len()), other]);
    registry.push_manifest(&tag, OCI_MANIFEST, good.as_bytes()).await.unwrap();
    let found = registry.signatures(&image).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].manifest.0, good.as_bytes());
    assert_eq!(found[0].payloads.len(), 1, "only what is a signature is fetched");
    assert_eq!(found[0].payloads[0].0, payload);
    for (name, layers, expected) in [
        ("size is a lie", vec![layer(payload.len() + 1)], Reason::ImageContent),
        ("too large", vec![layer(2 << 20)], Reason::ImageTooLarge),
        ("too many", vec![layer(payload.len()); 65], Reason::ImageTooLarge),
    ] {
        registry.push_manifest(&tag, OCI_MANIFEST, manifest(layers).as_bytes()).await.unwrap();
        assert_eq!(reason(registry.signatures(&image).await), expected, "{name}");
    }
}

#[tokio::test]
async fn content_that_does_not_hash_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestRegistry::start().await;
    let registry = Registry::new(&server.host, "clinic/damaged", &server.config()).unwrap();
    let blob = registry.push_blob(b"some content").await.unwrap();
    assert_eq!(registry.blob(&blob, 12).await.unwrap(), b"some content");
    std::fs::write(server.blob(blob.hex()), b"Some content").unwrap();
    assert_eq!(reason(registry.blob(&blob, 12).await), Reason::ImageContent);
    for size in [0, 11, 13] {
        assert_eq!(reason(registry.blob(&blob, size).await), Reason::ImageContent, "{size}");
    }
    let store = ContentStore::open(folder.path()).unwrap();
    assert_eq!(reason(store.fetch(&registry, &blob, 12).await), Reason::ImageContent);
    assert!(!store.has(&blob, 12));
    assert_eq!(
        std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(),
        0,
        "nothing half-way stays"
    );
}

/// Answers every request with the same bytes.
async fn answering(answer: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            drop(stream.read(&mut request).await);
            drop(stream.write_all(answer).await);
        }
    });
    host
}

#[tokio::test]
async fn registries_that_do_not_behave_are_refused() {
    let image = sha256(b"image");
    for (name, answer, expected) in [
        ("closes at once", &b""[..], Reason::ImageUnavailable),
        ("no HTTP", b"hello\r\n\r\n", Reason::ImageUnavailable),
        ("login", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", Reason::ImageLogin),
        ("forbidden", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Reason::ImageLogin),
        ("error", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", Reason::ImageUnavailable),
        ("other bytes", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Reason::ImageContent),
        ("cut off", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", Reason::ImageUnavailable),
    ] {
        let host = answering(answer).await;
        let config = Runtime { plain_http_registries: vec![host.clone()], ..Runtime::default() };
        let registry = Registry::new(&host, "a/b", &config).unwrap();
        assert_eq!(reason(registry.manifest(&image).await), expected, "{name}");
    }
    for (name, answer) in [
        ("to https", &b"HTTP/1.1 307 Go\r\nLocation: https://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"[..]),
        (
            "to plain http elsewhere",
            b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n",
        ),
        ("nowhere", b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\n\r\n"),
        ("for ever", b"HTTP/1.1 307 Go\r\nLocation: /v2/again\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let host = answering(answer).await;
        let config = Runtime { plain_http_registries: vec![host.clone()], ..Runtime::default() };
        let registry = Registry::new(&host, "a/b", &config).unwrap();
        assert_eq!(reason(registry.blob(&image, 1).await), Reason::ImageUnavailable, "{name}");
    }
}

#[tokio::test]
async fn plain_http_is_spoken_only_where_the_configuration_says_so() {
    let host = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let registry = Registry::new(&host, "a/b", &Runtime::default()).unwrap();
    let refusal = registry.manifest(&sha256(b"{}")).await.unwrap_err().refusal();
    assert_eq!(refusal.reason, Reason::ImageUnavailable);
    assert!(refusal.rule.contains("plain_http_registries"), "{refusal}");
    for (host, repository) in [
        ("", "a"),
        ("h ost", "a"),
        ("host", "../a"),
        ("host", "A"),
        ("host", "a?b"),
        ("h/x", "a@b"),
        ("host", "a:1"),
        ("h/x", "a"),
    ] {
        assert!(Registry::new(host, repository, &Runtime::default()).is_err(), "{host}/{repository}");
    }
}

#[test]
fn a_layout_that_is_not_one_image_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    assert_eq!(reason(ImageLayout::open(&path)), Reason::ImageInvalid);
    let layout = ImageLayout::create(&path).unwrap();
    assert_eq!(reason(layout.image()), Reason::ImageUnavailable);
    build(&recipe(), &layout).unwrap();
    let (digest, bytes, manifest) = layout.image().unwrap();
    assert_eq!(sha256(&bytes), digest);
    let blob = path.join("blobs/sha256").join(manifest.config.digest.hex());
    std::fs::write(&blob, "{}").unwrap();
    assert_eq!(reason(layout.blob(&manifest.config.digest, 1 << 20)), Reason::ImageContent);
    std::fs::write(path.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    assert_eq!(reason(layout.image()), Reason::ImageInvalid);
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap();
    assert_eq!(reason(ImageLayout::open(&path)), Reason::ImageInvalid);
    assert_eq!(reason(build(&Recipe::default(), &layout)), Reason::RequestInvalid);
    let missing = Recipe { binaries: vec!["/nonexistent".into()], ..Recipe::default() };
    assert!(build(&missing, &layout).is_err());
    assert!(Path::new("/bin/true").exists());
}
