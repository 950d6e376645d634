//! No bytes from a registry make an unsigned image pass, and nothing panics.
#![no_main]

use std::sync::LazyLock;

use edgewarden_image_trust::judge;
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{Digest, ModuleName};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::{ImageKey, ImageReference};

static KEY: LazyLock<ImageKey> = LazyLock::new(|| {
    let key = SigningKey::generate().unwrap();
    ImageKey { name: "pinned".into(), public_key: key.public_pem() }
});

libfuzzer_sys::fuzz_target!(|parts: (Vec<u8>, Vec<Vec<u8>>)| {
    let (manifest, payloads) = parts;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"image");
    let digest = Digest::from_sha256(digest.as_ref().try_into().unwrap());
    let evidence = ImageEvidence {
        module: ModuleName::parse("module").unwrap(),
        image: ImageReference::parse(&format!("registry/repository@{digest}")).unwrap(),
        manifest: b"image".as_slice().into(),
        config: b"{}".as_slice().into(),
        signatures: vec![SignatureEvidence {
            manifest: manifest.into(),
            payloads: payloads.into_iter().map(Into::into).collect(),
        }],
    };
    assert!(judge(&evidence, std::slice::from_ref(&*KEY)).is_err());
});
