//! The labelled key derivation of RFC 9180 (section 4), over HKDF-SHA256.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// RFC 9180 section 4: the version of the protocol, before every label.
const VERSION: &[u8] = b"HPKE-v1";

fn labelled(suite: &[u8], label: &[u8], material: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(VERSION.len() + suite.len() + label.len() + material.len()));
    for part in [VERSION, suite, label, material] {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// `LabeledExtract`, to derive more from.
pub fn extract(salt: &[u8], suite: &[u8], label: &[u8], material: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, salt).extract(&labelled(suite, label, material))
}

/// `LabeledExtract` of what is public, with an empty salt: HKDF-Extract is HMAC (RFC 5869 section 2.2).
pub fn extract_public(suite: &[u8], label: &[u8], material: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
    hmac::sign(&key, &labelled(suite, label, material)).as_ref().to_vec()
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `LabeledExpand` to `length` bytes.
pub fn expand(
    key: &Prk,
    suite: &[u8],
    label: &[u8],
    info: &[u8],
    length: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    let counted = u16::try_from(length).ok()?.to_be_bytes();
    let mut out = Zeroizing::new(vec![0; length]);
    let parts = [counted.as_slice(), VERSION, suite, label, info];
    key.expand(&parts, Length(length)).ok()?.fill(&mut out).ok()?;
    Some(out)
}
