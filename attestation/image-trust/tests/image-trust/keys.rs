//! Signing keys on disk, and signatures that OpenSSL made.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use edgewarden_image_trust::judge;
use edgewarden_image_trust::limits::SIGNATURES_MAX;
use edgewarden_image_trust::sign::{SignError, SigningKey, payload, sign, sign_beside, signature_manifest};
use edgewarden_names::ModuleName;
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::{ImageKey, ImageReference};

fn openssl(folder: &Path, arguments: &str) {
    let status = Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' '))
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "openssl {arguments}");
}

#[test]
fn a_key_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        SigningKey::load(&path)
    };
    let key = SigningKey::generate().unwrap();
    assert_eq!(write(&key.private_pem(), 0o600).unwrap().public_pem(), key.public_pem());
    assert_eq!(write(&key.private_pem(), 0o400).unwrap().public_pem(), key.public_pem());
    for mode in [0o640, 0o604, 0o660, 0o644] {
        assert!(matches!(write(&key.private_pem(), mode), Err(SignError::Mode(_))), "{mode:o}");
    }
    assert!(matches!(write(&key.public_pem(), 0o600), Err(SignError::Key)));
    assert!(matches!(write("", 0o600), Err(SignError::Key)));
    assert!(matches!(write(&"x".repeat(100_000), 0o600), Err(SignError::Key)));
    assert!(matches!(SigningKey::load(&folder.path().join("none")), Err(SignError::Read { .. })));
    assert_eq!(format!("{key:?}"), "SigningKey(..)");
}

/// OpenSSL verifies what we sign, with keys of either maker; only P-256 is taken.
#[test]
fn openssl_verifies_our_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    openssl(folder.path(), "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem");
    openssl(folder.path(), "pkey -in key.pem -pubout -out key.pub");
    let key = SigningKey::load(&at("key.pem")).unwrap();
    assert_eq!(key.public_pem(), std::fs::read_to_string(at("key.pub")).unwrap());

    let digest = format!("sha256:{}", "ab".repeat(32));
    let image = ImageReference::parse(&format!("reg:5000/clinic/alerts:1@{digest}")).unwrap();
    let signed = sign(&image, &key).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&signed.manifest).unwrap();
    let text = manifest["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
    let signature = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    std::fs::write(at("payload"), &signed.payload).unwrap();
    std::fs::write(at("signature"), signature).unwrap();
    openssl(folder.path(), "dgst -sha256 -verify key.pub -signature signature payload");
    assert_eq!(
        String::from_utf8(signed.payload).unwrap(),
        format!(
            "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"reg:5000/clinic/alerts\"}},\
             \"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\
             \"type\":\"cosign container image signature\"}},\"optional\":null}}"
        )
    );

    for other in ["EC -pkeyopt ec_paramgen_curve:P-384", "RSA -pkeyopt rsa_keygen_bits:2048", "ED25519"] {
        openssl(folder.path(), &format!("genpkey -algorithm {other} -out other.pem"));
        assert!(matches!(SigningKey::load(&at("other.pem")), Err(SignError::Key)), "{other}");
    }
}

/// `golden/openssl`: key and signature made by `openssl` alone (see `make.sh` there), over a payload of ours.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_signature_made_by_openssl_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/openssl");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let image = ImageReference::parse(text("image").trim()).unwrap();
    assert_eq!(payload(&image).unwrap(), read("payload.json"));
    let signed = signature_manifest(&image, read("payload.json"), &read("payload.sig")).unwrap();
    let evidence = ImageEvidence {
        module: ModuleName::parse("analytics").unwrap(),
        image,
        manifest: read("manifest.json").into(),
        config: read("config.json").into(),
        signatures: vec![SignatureEvidence {
            manifest: signed.manifest.into(),
            payloads: vec![signed.payload.into()],
        }],
    };
    let key = ImageKey { name: "openssl".into(), public_key: text("key.pub") };
    assert_eq!(judge(&evidence, &[key]).unwrap().key_name(), "openssl");
}

fn reference(repository: &str) -> ImageReference {
    ImageReference::parse(&format!("reg:5000/{repository}@sha256:{}", "ab".repeat(32))).unwrap()
}

fn layers(manifest: &[u8]) -> Vec<serde_json::Value> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    manifest["layers"].as_array().unwrap().clone()
}

#[test]
fn signatures_of_several_keys_stand_beside_each_other() {
    let image = reference("clinic/alerts");
    let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let first = sign_beside(&image, &one, None).unwrap().unwrap();
    // As a tool with annotations of its own would have left it.
    let mut annotated: serde_json::Value = serde_json::from_slice(&first.manifest).unwrap();
    annotated["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = "theirs".into();
    let existing = annotated.to_string().into_bytes();

    let both = sign_beside(&image, &two, Some(&existing)).unwrap().unwrap();
    assert_eq!(both.tag, first.tag);
    assert_eq!(layers(&both.manifest)[0], annotated["layers"][0], "the other signature is as it was");
    let signatures: std::collections::BTreeSet<String> = layers(&both.manifest)
        .iter()
        .map(|layer| layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(signatures.len(), 2);

    // Signing again adds nothing, whoever of the two does it.
    for key in [&one, &two] {
        assert_eq!(sign_beside(&image, key, Some(&both.manifest)).unwrap(), None);
    }
    // The same key for another repository is another signature.
    let moved = sign_beside(&reference("clinic/moved"), &one, Some(&both.manifest)).unwrap().unwrap();
    assert_eq!(layers(&moved.manifest).len(), 3);
    // A signature of this key that does not verify is no signature of it.
    let text = String::from_utf8(first.manifest.clone()).unwrap();
    let forged = text.replace("signature\":\"M", "signature\":\"N");
    assert_ne!(forged, text);
    assert!(sign_beside(&image, &one, Some(forged.as_bytes())).unwrap().is_some());
}

#[test]
fn what_cannot_be_added_to_is_not_replaced() {
    let image = reference("clinic/alerts");
    let key = SigningKey::generate().unwrap();
    let good = String::from_utf8(sign(&image, &key).unwrap().manifest).unwrap();
    let mut full: serde_json::Value = serde_json::from_str(&good).unwrap();
    let other = sign(&reference("clinic/other"), &key).unwrap();
    full["layers"] = vec![layers(&other.manifest)[0].clone(); SIGNATURES_MAX].into();
    for (name, existing) in [
        ("nothing", String::new()),
        ("not JSON", "<html>".into()),
        ("an index", r#"{"schemaVersion":2,"manifests":[]}"#.into()),
        ("schema 1", good.replace("\"schemaVersion\":2", "\"schemaVersion\":1")),
        ("another type", good.replace("image.manifest.v1", "image.index.v1")),
        ("a key twice", good.replace("{\"schemaVersion\":2", "{\"schemaVersion\":2,\"schemaVersion\":2")),
        ("full", full.to_string()),
    ] {
        let refused = sign_beside(&image, &key, Some(existing.as_bytes()));
        assert!(matches!(refused, Err(SignError::Existing(_))), "{name}: {refused:?}");
    }
}
