//! Whatever manifest and configuration are signed, nothing panics, and a proof names
//! no more layers than the limit.
#![no_main]

use std::sync::LazyLock;

use edgewarden_image_trust::sign::{SigningKey, sign};
use edgewarden_image_trust::{judge, limits};
use edgewarden_names::{Digest, ModuleName};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::{ImageKey, ImageReference};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

libfuzzer_sys::fuzz_target!(|parts: (Vec<u8>, Vec<u8>)| {
    let (manifest, config) = parts;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &manifest);
    let digest = Digest::from_sha256(digest.as_ref().try_into().unwrap());
    let image = ImageReference::parse(&format!("registry/repository@{digest}")).unwrap();
    let signed = sign(&image, &KEY).unwrap();
    let evidence = ImageEvidence {
        module: ModuleName::parse("module").unwrap(),
        image,
        manifest: manifest.into(),
        config: config.into(),
        signatures: vec![SignatureEvidence {
            manifest: signed.manifest.into(),
            payloads: vec![signed.payload.into()],
        }],
    };
    let key = ImageKey { name: "pinned".into(), public_key: KEY.public_pem() };
    if let Ok(proof) = judge(&evidence, &[key]) {
        assert!((1..=limits::LAYERS_MAX).contains(&proof.layers().len()));
    }
});
