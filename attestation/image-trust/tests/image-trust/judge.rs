//! Evidence of images through the public door: the accepted, and every kind of refused.

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_image_trust::sign::{SigningKey, payload, sign, signature_manifest};
use edgewarden_image_trust::{check_key, judge, limits};
use edgewarden_names::{Digest, ModuleName, Reason};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::{ImageKey, ImageReference};
use serde_json::{Value, json};

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn config() -> Value {
    json!({
        "architecture": architecture(), "os": "linux", "config": {"Entrypoint": ["/analytics"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(b"one"), sha256(b"two")]},
        "created": "2026-01-01T00:00:00Z", "history": [],
    })
}

fn manifest(config: &[u8]) -> Value {
    let layer = |content: &[u8]| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(content), "size": 3});
    json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(config), "size": config.len()},
        "layers": [layer(b"one, packed"), layer(b"two, packed")],
        "annotations": {"org.opencontainers.image.title": "analytics"},
    })
}

const NAME: &str = "127.0.0.1:5000/clinic/analytics";

fn reference(manifest: &[u8]) -> ImageReference {
    ImageReference::parse(&format!("{NAME}:1@{}", sha256(manifest))).unwrap()
}

struct Signer {
    key: SigningKey,
    pinned: ImageKey,
}

fn signer(name: &str) -> Signer {
    let key = SigningKey::generate().unwrap();
    let pinned = ImageKey { name: name.into(), public_key: key.public_pem() };
    Signer { key, pinned }
}

/// The evidence for an image, signed.
fn evidence(manifest: &[u8], config: &[u8], signer: &Signer) -> ImageEvidence {
    let image = reference(manifest);
    let signed = sign(&image, &signer.key).unwrap();
    assert_eq!(signed.tag, format!("sha256-{}.sig", image.digest().hex()));
    ImageEvidence {
        module: ModuleName::parse("analytics").unwrap(),
        image,
        manifest: manifest.into(),
        config: config.into(),
        signatures: vec![SignatureEvidence {
            manifest: signed.manifest.into(),
            payloads: vec![signed.payload.into()],
        }],
    }
}

fn good(signer: &Signer) -> ImageEvidence {
    let config = config().to_string().into_bytes();
    evidence(manifest(&config).to_string().as_bytes(), &config, signer)
}

/// Evidence whose payload is any text, signed all the same.
fn with_payload(signer: &Signer, text: &str) -> ImageEvidence {
    let mut bad = good(signer);
    let pkcs8 = pem_bytes(&signer.key.private_pem());
    let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).unwrap();
    let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), text.as_bytes()).unwrap();
    let signed = signature_manifest(&bad.image, text.as_bytes().to_vec(), signature.as_ref()).unwrap();
    bad.signatures =
        vec![SignatureEvidence { manifest: signed.manifest.into(), payloads: vec![signed.payload.into()] }];
    bad
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn a_signed_image_is_proven() {
    let signer = signer("release");
    let other = signer_named("other");
    let good = good(&signer);
    let proof = judge(&good, &[other.pinned.clone(), signer.pinned.clone()]).unwrap();
    assert_eq!(proof.key_name(), "release");
    assert_eq!(proof.manifest_digest(), good.image.digest());
    assert_eq!(proof.config_digest(), &sha256(good.config.as_slice()));
    assert_eq!(proof.module().as_str(), "analytics");
    let layers: Vec<_> =
        proof.layers().iter().map(|l| (l.digest.clone(), l.diff_id.clone(), l.size)).collect();
    assert_eq!(
        layers,
        [(sha256(b"one, packed"), sha256(b"one"), 3), (sha256(b"two, packed"), sha256(b"two"), 3)]
    );

    // One good signature among bad ones suffices, wherever it is.
    let mut among = good.clone();
    let stranger = self::good(&other).signatures;
    among.signatures.splice(0..0, stranger);
    among.signatures.insert(0, SignatureEvidence { manifest: b"{".as_slice().into(), payloads: vec![] });
    assert_eq!(judge(&among, std::slice::from_ref(&signer.pinned)).unwrap().key_name(), "release");
}

fn signer_named(name: &str) -> Signer {
    signer(name)
}

/// The signature is valid each time: what it says is not what is needed.
#[test]
fn a_signed_payload_must_say_the_right_thing() {
    let signer = signer("release");
    let keys = [signer.pinned.clone()];
    let image = good(&signer).image;
    let right = String::from_utf8(payload(&image).unwrap()).unwrap();
    let digest = image.digest().as_str();
    let other = format!("sha256:{}", "0".repeat(64));
    assert!(judge(&with_payload(&signer, &right), &keys).is_ok());
    for (what, change) in [
        ("with the tag", right.replace(NAME, &format!("{NAME}:1"))),
        ("with another tag", right.replace(NAME, &format!("{NAME}:stable"))),
        ("with the digest", right.replace(NAME, &format!("{NAME}@{digest}"))),
        ("with annotations", right.replace("null", r#"{"creator":"me","timestamp":1}"#)),
        ("without annotations", right.replace(r#","optional":null"#, "")),
        ("with spaces", right.replace(',', " ,\n ")),
    ] {
        assert!(judge(&with_payload(&signer, &change), &keys).is_ok(), "{what}: {change}");
    }
    for (what, change, reason) in [
        ("another image", right.replace(digest, &other), Reason::ImageDigestMismatch),
        (
            "another digest in the name",
            right.replace(NAME, &format!("{NAME}@{other}")),
            Reason::ImageDigestMismatch,
        ),
        (
            "a digest in upper case",
            right.replace(digest, &digest.to_uppercase()),
            Reason::ImageDigestMismatch,
        ),
        ("another repository", right.replace("clinic", "clinic-test"), Reason::ImageRepositoryMismatch),
        ("another registry", right.replace(":5000", ":5001"), Reason::ImageRepositoryMismatch),
        ("a longer name", right.replace(NAME, &format!("{NAME}/x")), Reason::ImageRepositoryMismatch),
        ("no registry", right.replace("127.0.0.1:5000/", ""), Reason::ImageRepositoryMismatch),
        ("no name", right.replace(NAME, ""), Reason::ImageRepositoryMismatch),
        ("another type", right.replace("cosign container image", "atomic container"), Reason::ImageInvalid),
        (
            "an unknown critical field",
            right.replace(r#""type""#, r#""expires":1,"type""#),
            Reason::ImageInvalid,
        ),
        ("an unknown field", right.replace(r#""optional""#, r#""extra":1,"optional""#), Reason::ImageInvalid),
        (
            "an unknown identity",
            right.replace(r#""docker-reference""#, r#""x":1,"docker-reference""#),
            Reason::ImageInvalid,
        ),
        ("a field twice", right.replace(r#""type""#, r#""type":"x","type""#), Reason::ImageInvalid),
        ("an annotation twice", right.replace("null", r#"{"a":1,"a":2}"#), Reason::ImageInvalid),
        ("something behind", format!("{right}{right}"), Reason::ImageInvalid),
        ("a number for a digest", right.replace(&format!("\"{digest}\""), "1"), Reason::ImageInvalid),
        ("not JSON", "signed, really".into(), Reason::ImageInvalid),
        ("nothing", String::new(), Reason::ImageInvalid),
        ("depth", right.replace("null", &"[".repeat(50_000)), Reason::ImageInvalid),
    ] {
        let refusal = judge(&with_payload(&signer, &change), &keys).map(drop).expect_err(what);
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
    }
}

fn edit(document: &mut edgewarden_protocol::Bytes, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(document.as_slice()).unwrap();
    change(&mut value);
    *document = value.to_string().into_bytes().into();
}

#[test]
fn broken_evidence_is_refused() {
    let signer = signer("release");
    let keys = [signer.pinned.clone()];
    type Change = fn(&mut ImageEvidence);
    const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
    let annotate = |value: Value| {
        move |e: &mut ImageEvidence| {
            edit(&mut e.signatures[0].manifest, |m| m["layers"][0]["annotations"][ANNOTATION] = value);
        }
    };
    let cases: Vec<(&str, Box<dyn Fn(&mut ImageEvidence)>, Reason)> = vec![
        ("no evidence", boxed(|e| e.signatures.clear()), Reason::ImageUnsigned),
        (
            "no signature in it",
            boxed(|e| edit(&mut e.signatures[0].manifest, |m| m["layers"] = json!([]))),
            Reason::ImageUnsigned,
        ),
        (
            "only an attestation",
            boxed(|e| {
                edit(&mut e.signatures[0].manifest, |m| {
                    m["layers"][0]["mediaType"] = json!("application/vnd.dsse.envelope.v1+json");
                })
            }),
            Reason::ImageUnsigned,
        ),
        (
            "manifest not JSON",
            boxed(|e| e.signatures[0].manifest = b"{".as_slice().into()),
            Reason::ImageInvalid,
        ),
        (
            "schema version",
            boxed(|e| edit(&mut e.signatures[0].manifest, |m| m["schemaVersion"] = json!(1))),
            Reason::ImageInvalid,
        ),
        (
            "an index",
            boxed(|e| {
                edit(&mut e.signatures[0].manifest, |m| {
                    m["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
                })
            }),
            Reason::ImageInvalid,
        ),
        (
            "digest of another algorithm",
            boxed(|e| {
                edit(&mut e.signatures[0].manifest, |m| {
                    m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
                })
            }),
            Reason::ImageInvalid,
        ),
        ("payload missing", boxed(|e| e.signatures[0].payloads.clear()), Reason::ImageContent),
        ("payload changed", boxed(|e| e.signatures[0].payloads[0].0.push(b' ')), Reason::ImageContent),
        (
            "payload size",
            boxed(|e| edit(&mut e.signatures[0].manifest, |m| m["layers"][0]["size"] = json!(1))),
            Reason::ImageContent,
        ),
        (
            "no annotations",
            boxed(|e| {
                edit(&mut e.signatures[0].manifest, |m| {
                    m["layers"][0].as_object_mut().unwrap().remove("annotations");
                })
            }),
            Reason::ImageSignature,
        ),
        (
            "empty signature",
            Box::new({
                let a = annotate;
                move |e| a(json!(""))(e)
            }),
            Reason::ImageSignature,
        ),
        (
            "not base64",
            Box::new({
                let a = annotate;
                move |e| a(json!("!!!!"))(e)
            }),
            Reason::ImageSignature,
        ),
        (
            "garbage",
            Box::new({
                let a = annotate;
                move |e| a(json!("AAAA"))(e)
            }),
            Reason::ImageSignature,
        ),
        (
            "endless",
            Box::new({
                let a = annotate;
                move |e| a(json!("A".repeat(1 << 20)))(e)
            }),
            Reason::ImageSignature,
        ),
        (
            "not a text",
            Box::new({
                let a = annotate;
                move |e| a(json!(7))(e)
            }),
            Reason::ImageInvalid,
        ),
        (
            "payload and digest changed together",
            boxed(|e| {
                let payload = b"{}".to_vec();
                let (digest, size) = (sha256(&payload), payload.len());
                edit(&mut e.signatures[0].manifest, |m| {
                    m["layers"][0]["digest"] = json!(digest);
                    m["layers"][0]["size"] = json!(size);
                });
                e.signatures[0].payloads[0] = payload.into();
            }),
            Reason::ImageSignature,
        ),
        ("another manifest", boxed(|e| e.manifest.0.push(b'\n')), Reason::ImageContent),
        ("another configuration", boxed(|e| e.config.0.push(b'\n')), Reason::ImageContent),
        ("no configuration", boxed(|e| e.config.0.clear()), Reason::ImageContent),
        (
            "large manifest",
            boxed(|e| e.manifest.0 = vec![b' '; limits::MANIFEST_BYTES_MAX + 1]),
            Reason::ImageTooLarge,
        ),
        (
            "large configuration",
            boxed(|e| e.config.0 = vec![b' '; limits::CONFIG_BYTES_MAX + 1]),
            Reason::ImageTooLarge,
        ),
        (
            "large payload",
            boxed(|e| {
                e.signatures[0].payloads[0].0 = vec![b' '; limits::SIGNATURE_PAYLOAD_BYTES_MAX + 1];
            }),
            Reason::ImageTooLarge,
        ),
        (
            "large signature manifest",
            boxed(|e| {
                e.signatures[0].manifest.0 = vec![b' '; limits::MANIFEST_BYTES_MAX + 1];
            }),
            Reason::ImageTooLarge,
        ),
        (
            "large altogether",
            boxed(|e| {
                let part = SignatureEvidence {
                    manifest: vec![b' '; 1 << 20].into(),
                    payloads: vec![vec![0; 1 << 20].into()],
                };
                e.signatures = vec![part; 5];
            }),
            Reason::ImageTooLarge,
        ),
        (
            "endless signature manifests",
            boxed(|e| e.signatures = vec![e.signatures[0].clone(); 65]),
            Reason::ImageTooLarge,
        ),
        (
            "endless payloads",
            boxed(|e| {
                e.signatures[0].payloads = vec![b"x".as_slice().into(); 65];
            }),
            Reason::ImageTooLarge,
        ),
        (
            "endless layers",
            boxed(|e| {
                edit(&mut e.signatures[0].manifest, |m| {
                    let mut layer = m["layers"][0].clone();
                    layer["annotations"][ANNOTATION] = json!("AAAA");
                    m["layers"] = vec![layer; 100].into();
                });
            }),
            Reason::ImageTooLarge,
        ),
    ];
    fn boxed(change: Change) -> Box<dyn Fn(&mut ImageEvidence)> {
        Box::new(change)
    }
    for (what, change, reason) in cases {
        let mut bad = good(&signer);
        change(&mut bad);
        let refusal = judge(&bad, &keys).map(drop).expect_err(what);
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
        assert!(refusal.rule.len() < 600, "{what} says too much");
    }
}

/// Signatures that are good, but not of this image (each a real incident class).
#[test]
fn a_good_signature_of_something_else_does_not_count() {
    let signer = signer("release");
    let other = signer_named("other");
    let keys = [signer.pinned.clone()];
    let image = good(&signer);

    let by_other = good(&other);
    assert_eq!(judge(&by_other, &keys).unwrap_err().reason, Reason::ImageSignature);
    assert_eq!(judge(&image, &[]).unwrap_err().reason, Reason::ImageSignature, "no keys");

    // The tag was moved: the signature of the old image lies beside the new one.
    let mut changed = config();
    changed["config"]["Entrypoint"] = json!(["/evil"]);
    let changed = changed.to_string().into_bytes();
    let mut moved = evidence(manifest(&changed).to_string().as_bytes(), &changed, &signer);
    moved.signatures = image.signatures.clone();
    assert_eq!(judge(&moved, &keys).unwrap_err().reason, Reason::ImageDigestMismatch);

    // The same image and signature, copied to another repository.
    let mut copied = image.clone();
    copied.image =
        ImageReference::parse(&format!("127.0.0.1:5000/clinic/alerts:1@{}", image.image.digest())).unwrap();
    assert_eq!(judge(&copied, &keys).unwrap_err().reason, Reason::ImageRepositoryMismatch);

    // The nearest candidate gives the reason, in any order.
    let mut both = moved.clone();
    both.signatures.extend(by_other.signatures);
    assert_eq!(judge(&both, &keys).unwrap_err().reason, Reason::ImageDigestMismatch);
    both.signatures.reverse();
    assert_eq!(judge(&both, &keys).unwrap_err().reason, Reason::ImageDigestMismatch);
}

/// The signature is right each time; the image is not one that can be started.
#[test]
fn a_signed_image_must_be_an_image() {
    let signer = signer("release");
    let keys = [signer.pinned.clone()];
    let judged = |change_config: &dyn Fn(&mut Value), change_manifest: &dyn Fn(&mut Value)| {
        let mut config = config();
        change_config(&mut config);
        let config = config.to_string().into_bytes();
        let mut manifest = manifest(&config);
        change_manifest(&mut manifest);
        judge(&evidence(manifest.to_string().as_bytes(), &config, &signer), &keys)
    };
    let same = |_: &mut Value| {};
    assert!(judged(&same, &same).is_ok());
    assert!(judged(&same, &|m| drop(m.as_object_mut().unwrap().remove("mediaType"))).is_ok());
    assert!(
        judged(&same, &|m| {
            m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
            m["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
            m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
        })
        .is_ok()
    );

    for kind in ["oci.image.layer.v1.tar+zstd", "oci.image.layer.v1.tar", "docker.image.rootfs.diff.tar.zstd"]
    {
        let kind = format!("application/vnd.{kind}");
        assert!(judged(&same, &|m| m["layers"][0]["mediaType"] = json!(kind)).is_ok(), "{kind}");
    }
    for (variant, runs) in [("", true), ("v99", false)] {
        assert_eq!(judged(&|c| c["variant"] = json!(variant), &same).is_ok(), runs, "{variant}");
    }

    type Change = fn(&mut Value);
    let manifests: [(&str, Change, Reason); 18] = [
        ("schema 1", |m| m["schemaVersion"] = json!(1), Reason::ImageInvalid),
        (
            "index",
            |m| m["mediaType"] = json!("application/vnd.oci.image.index.v1+json"),
            Reason::ImagePlatform,
        ),
        ("other type", |m| m["mediaType"] = json!("text/plain"), Reason::ImageInvalid),
        ("both manifest and index", |m| m["manifests"] = json!([]), Reason::ImageInvalid),
        ("both schemas", |m| m["fsLayers"] = json!([]), Reason::ImageInvalid),
        (
            "an artifact",
            |m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"),
            Reason::ImageInvalid,
        ),
        ("no layers", |m| m["layers"] = json!([]), Reason::ImageInvalid),
        ("layers missing", |m| drop(m.as_object_mut().unwrap().remove("layers")), Reason::ImageInvalid),
        ("one layer too few", |m| drop(m["layers"].as_array_mut().unwrap().pop()), Reason::ImageInvalid),
        (
            "a foreign layer",
            |m| m["layers"][1]["urls"] = json!(["https://elsewhere.example/"]),
            Reason::ImageUnsupported,
        ),
        (
            "a non-distributable layer",
            |m| {
                m["layers"][1]["mediaType"] =
                    json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
            },
            Reason::ImageUnsupported,
        ),
        ("a layer of another digest", |m| m["layers"][1]["digest"] = json!("md5:00"), Reason::ImageInvalid),
        (
            "a layer of a path",
            |m| m["layers"][1]["digest"] = json!("sha256:../../etc/shadow"),
            Reason::ImageInvalid,
        ),
        ("a negative size", |m| m["layers"][1]["size"] = json!(-1), Reason::ImageInvalid),
        (
            "a huge layer",
            |m| m["layers"][1]["size"] = json!(limits::LAYER_BYTES_MAX + 1),
            Reason::ImageTooLarge,
        ),
        (
            "a huge image",
            |m| {
                let mut layer = m["layers"][1].clone();
                layer["size"] = json!(limits::LAYER_BYTES_MAX);
                m["layers"] = vec![layer; 5].into();
            },
            Reason::ImageTooLarge,
        ),
        ("endless layers", |m| m["layers"] = vec![m["layers"][0].clone(); 129].into(), Reason::ImageTooLarge),
        ("size of the configuration", |m| m["config"]["size"] = json!(1), Reason::ImageInvalid),
    ];
    for (what, change, reason) in manifests {
        let refusal = judged(&same, &change).map(drop).expect_err(what);
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
    }
    let configs: [(&str, Change); 7] = [
        ("another system", |c| c["os"] = json!("windows")),
        ("another machine", |c| c["architecture"] = json!("s390x")),
        ("unknown machine", |c| c["architecture"] = json!("unknown")),
        ("no root file system", |c| drop(c.as_object_mut().unwrap().remove("rootfs"))),
        ("not of layers", |c| c["rootfs"]["type"] = json!("disk")),
        ("one layer more", |c| {
            let one = c["rootfs"]["diff_ids"][0].clone();
            c["rootfs"]["diff_ids"].as_array_mut().unwrap().push(one);
        }),
        ("a digest that is none", |c| c["rootfs"]["diff_ids"][0] = json!("one")),
    ];
    for (what, change) in configs {
        let refusal = judged(&change, &same).map(drop).expect_err(what);
        let platform = ["another system", "another machine", "unknown machine"].contains(&what);
        let reason = if platform { Reason::ImagePlatform } else { Reason::ImageInvalid };
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
    }
    // Two readers of a manifest with a key twice see different images.
    let config = config().to_string().into_bytes();
    let twice = manifest(&config).to_string().replacen("\"layers\":", "\"layers\":[],\"layers\":", 1);
    let refusal = judge(&evidence(twice.as_bytes(), &config, &signer), &keys).unwrap_err();
    assert_eq!(refusal.reason, Reason::ImageInvalid, "{refusal}");
}

#[test]
fn an_unusable_key_is_named() {
    let signer = signer("release");
    check_key(&signer.pinned).unwrap();
    let pem = signer.pinned.public_key.clone();
    let body: Vec<&str> = pem.lines().collect();
    let mut off_curve = pem_bytes(&pem);
    off_curve[90] ^= 1;
    let off_curve = {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&off_curve);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    };
    for (what, text) in [
        ("empty", String::new()),
        ("a private key", signer.key.private_pem().to_string()),
        ("no end", body[..2].join("\n")),
        ("two keys", format!("{pem}{pem}")),
        ("a certificate", pem.replace("PUBLIC KEY", "CERTIFICATE")),
        ("cut", pem.replace(body[2], "AAAA")),
        ("something before", format!("key:\n{pem}")),
        ("off the curve", off_curve),
        ("endless", format!("{}{pem}", " ".repeat(20_000))),
    ] {
        let bad = ImageKey { name: "broken".into(), public_key: text };
        assert_eq!(check_key(&bad).unwrap_err().reason, Reason::DeploymentInvalid, "{what}");
        // Not even the good key beside it counts: the document is wrong.
        let refusal = judge(&good(&signer), &[signer.pinned.clone(), bad]).unwrap_err();
        assert_eq!(refusal.reason, Reason::DeploymentInvalid, "{what}");
        assert!(refusal.subject.contains("broken"), "{what}");
    }
}

proptest::proptest! {
    /// One byte of a good image's evidence changed anywhere: it is refused, or it was a byte that says nothing.
    #[test]
    fn no_changed_byte_gets_through(part in 0..4usize, at in proptest::prelude::any::<proptest::sample::Index>(), byte: u8) {
        let signer = signer("release");
        let good = good(&signer);
        let mut bad = good.clone();
        let bytes = match part {
            0 => &mut bad.manifest.0,
            1 => &mut bad.config.0,
            2 => &mut bad.signatures[0].payloads[0].0,
            _ => &mut bad.signatures[0].manifest.0,
        };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        match judge(&bad, std::slice::from_ref(&signer.pinned)) {
            Ok(proof) => {
                assert_eq!((&bad.manifest, &bad.config), (&good.manifest, &good.config));
                assert_eq!(proof.manifest_digest(), good.image.digest());
                // Only the manifest around the signature has bytes that nobody reads.
                assert!(part == 3 || bad == good);
            }
            Err(_) => assert_ne!(bad, good),
        }
    }
}
