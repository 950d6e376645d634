//! Manifests and indexes as builders write them.

use edgewarden_names::{Architecture, Digest, Processor, Reason};
use edgewarden_oci::build::{Recipe, build};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::manifest::{Descriptor, Document, Index, OCI_INDEX, parse};
use serde_json::{Value, json};

use crate::unpack::sha256;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn entry(name: &str, media_type: &str, platform: &Value) -> Value {
    let digest = sha256(name.as_bytes());
    let mut entry = json!({"mediaType": media_type, "digest": digest, "size": 7, "platform": platform});
    if platform.is_null() {
        entry.as_object_mut().unwrap().remove("platform");
    }
    entry
}

fn image(name: &str, platform: &Value) -> Value {
    entry(name, MANIFEST, platform)
}

fn linux(architecture: &str, variant: Option<&str>) -> Value {
    let mut platform = json!({"os": "linux", "architecture": architecture});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    platform
}

fn index(entries: &[Value]) -> (Digest, Index) {
    let bytes = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let digest = sha256(bytes.as_bytes());
    match parse(&digest, bytes.as_bytes()).unwrap() {
        Document::Index(index) => (digest, index),
        Document::Image(_) => panic!("it is an index"),
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn an_index_gives_the_image_that_uses_the_processor_best() {
    let unknown = || image("attestation", &json!({"os": "unknown", "architecture": "unknown"}));
    let windows = || image("windows", &json!({"os": "windows", "architecture": "amd64"}));
    let artifact = || entry("artifact", "application/vnd.example+json", &linux("amd64", None));
    let (least, best) = (Processor::least(Architecture::Amd64), Processor::best(Architecture::Amd64));
    let arm = Processor::least(Architecture::Arm64);
    for (name, entries, processor, expected) in [
        (
            "buildx",
            vec![
                unknown(),
                windows(),
                artifact(),
                image("arm", &linux("arm64", None)),
                image("x86", &linux("amd64", None)),
                unknown(),
            ],
            least,
            Ok("x86"),
        ),
        (
            "buildx for arm",
            vec![unknown(), image("x86", &linux("amd64", None)), image("arm", &linux("arm64", Some("v8")))],
            arm,
            Ok("arm"),
        ),
        (
            "smaller arms",
            vec![
                image("v6", &linux("arm", Some("v6"))),
                image("v7", &linux("arm", Some("v7"))),
                image("v8", &linux("arm64", Some("v8"))),
            ],
            arm,
            Ok("v8"),
        ),
        ("only smaller arms", vec![image("v7", &linux("arm", Some("v7")))], arm, Err(Reason::ImagePlatform)),
        (
            "an arm of tomorrow",
            vec![image("v9", &linux("arm64", Some("v9")))],
            arm,
            Err(Reason::ImagePlatform),
        ),
        (
            "levels, on any processor",
            vec![
                image("v3", &linux("amd64", Some("v3"))),
                image("v1", &linux("amd64", None)),
                image("v2", &linux("amd64", Some("v2"))),
            ],
            least,
            Ok("v1"),
        ),
        (
            "levels, on the best",
            vec![
                image("v3", &linux("amd64", Some("v3"))),
                image("v1", &linux("amd64", None)),
                image("v2", &linux("amd64", Some("v2"))),
            ],
            best,
            Ok("v3"),
        ),
        (
            "only a level that not every processor has",
            vec![image("v3", &linux("amd64", Some("v3")))],
            least,
            Err(Reason::ImagePlatform),
        ),
        (
            "a level of tomorrow",
            vec![image("v9", &linux("amd64", Some("v9")))],
            best,
            Err(Reason::ImagePlatform),
        ),
        ("Docker's list", vec![entry("docker", DOCKER, &linux("amd64", None))], least, Ok("docker")),
        ("one without a platform", vec![image("only", &Value::Null)], least, Ok("only")),
        (
            "two without a platform",
            vec![image("a", &Value::Null), image("b", &Value::Null)],
            least,
            Err(Reason::ImagePlatform),
        ),
        ("only an attestation", vec![unknown()], least, Err(Reason::ImagePlatform)),
        (
            "two that fit",
            vec![image("a", &linux("amd64", None)), image("b", &linux("amd64", Some("v1")))],
            least,
            Err(Reason::ImageInvalid),
        ),
        (
            "one, twice",
            vec![image("a", &linux("amd64", None)), image("a", &linux("amd64", None))],
            least,
            Ok("a"),
        ),
        ("nothing", vec![], least, Err(Reason::ImagePlatform)),
    ] {
        let (digest, index) = index(&entries);
        let chosen = index.image_on(&digest, processor);
        let chosen = chosen.map(|image| image.digest.clone()).map_err(|refusal| refusal.reason);
        assert_eq!(chosen, expected.map(|name: &str| sha256(name.as_bytes())), "{name}");
    }
}

#[test]
fn this_processor_runs_what_every_one_runs() {
    let here = Processor::here();
    assert!(here.rank(Architecture::HERE.as_str(), None).is_some());
    assert!(here.rank(Architecture::HERE.as_str(), Some("v99")).is_none());
    assert!(here.rank("riscv64", None).is_none());
}

#[test]
fn images_of_oci_and_docker_are_read_and_foreign_layers_refused() {
    let manifest = |kind: &str, layer: Value| {
        let config = sha256(b"config");
        let bytes = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": [layer],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 6},
        })
        .to_string();
        parse(&sha256(bytes.as_bytes()), bytes.as_bytes())
    };
    let layer = |kind: &str| json!({"mediaType": kind, "digest": sha256(b"layer"), "size": 5});
    for kind in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
    ] {
        assert!(manifest(MANIFEST, layer(kind)).is_ok() && manifest(DOCKER, layer(kind)).is_ok(), "{kind}");
    }
    let mut elsewhere = layer("application/vnd.oci.image.layer.v1.tar+gzip");
    elsewhere["urls"] = json!(["https://elsewhere.example/layer"]);
    for foreign in [
        layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        layer("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
        elsewhere,
    ] {
        let refusal = manifest(DOCKER, foreign.clone()).unwrap_err();
        assert_eq!(refusal.reason, Reason::ImageUnsupported);
        assert!(refusal.to_string().contains("foreign"), "{refusal}");
    }
}

/// `docker buildx build --output type=oci`: an index of the image and its attestation, in the layout's own.
#[test]
fn a_layout_of_buildx_gives_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let layout = ImageLayout::create(&folder.path().join("image")).unwrap();
    let recipe = Recipe { binaries: vec!["/bin/true".into()], ..Recipe::default() };
    let built = build(&recipe, &layout).unwrap();
    let mut image = image("image", &linux(Architecture::HERE.as_str(), None));
    image["digest"] = json!(built);
    let attestation = || entry("attestation", MANIFEST, &json!({"os": "unknown", "architecture": "unknown"}));
    let inner = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation(), image]});
    let inner = layout.put(OCI_INDEX, inner.to_string().as_bytes()).unwrap();
    layout.set_image(&inner).unwrap();
    assert_eq!(layout.image().unwrap().0, built);
    let several = json!({"schemaVersion": 2, "manifests": [attestation(), image]});
    std::fs::write(layout.path().join("index.json"), several.to_string()).unwrap();
    assert_eq!(layout.image().unwrap().0, built);
    layout.set_image(&Descriptor::new(MANIFEST, sha256(b"gone"), 7)).unwrap();
    assert_eq!(layout.image().unwrap_err().refusal().reason, Reason::ImageUnavailable);
}
