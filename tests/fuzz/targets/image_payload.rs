//! A signed payload passes only when it names the image's digest.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use edgewarden_image_trust::judge;
use edgewarden_image_trust::sign::{SigningKey, signature_manifest};
use edgewarden_names::{Digest, ModuleName, Reason};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::{ImageKey, ImageReference};

static KEY: LazyLock<(EcdsaKeyPair, ImageKey)> = LazyLock::new(|| {
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref()).unwrap();
    let pem = pem(document.as_ref());
    let public_key = SigningKey::from_pem(&pem).unwrap().public_pem();
    (pair, ImageKey { name: "pinned".into(), public_key })
});

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    for chunk in der.chunks(3) {
        let bytes = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            text.push(if at > chunk.len() { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    text + "\n-----END PRIVATE KEY-----\n"
}

libfuzzer_sys::fuzz_target!(|payload: Vec<u8>| {
    let (pair, key) = &*KEY;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"image");
    let digest = Digest::from_sha256(digest.as_ref().try_into().unwrap());
    let image = ImageReference::parse(&format!("registry/repository@{digest}")).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &payload).unwrap();
    let signed = signature_manifest(&image, payload.clone(), signature.as_ref()).unwrap();
    let evidence = ImageEvidence {
        module: ModuleName::parse("module").unwrap(),
        image,
        manifest: b"image".as_slice().into(),
        config: b"{}".as_slice().into(),
        signatures: vec![SignatureEvidence {
            manifest: signed.manifest.into(),
            payloads: vec![signed.payload.into()],
        }],
    };
    let refusal = judge(&evidence, std::slice::from_ref(key)).unwrap_err();
    // `b"image"` is no manifest: past the signature it is invalid for that.
    if refusal.reason == Reason::ImageInvalid && refusal.rule.starts_with("the manifest") {
        assert!(String::from_utf8(payload).unwrap().contains(digest.as_str()));
    }
});
