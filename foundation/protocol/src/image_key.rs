//! The keys whose signatures on images count: which texts are one, and what else a text is.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_names::pem;

use crate::deployment::ImageKey;

/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480): SEQUENCE, id-ecPublicKey, prime256v1, BIT STRING.
pub const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Uncompressed point (SEC 1 section 2.3.3).
const POINT_BYTES: usize = 65;
/// The longest text that is looked at, so that a long key of another kind is named.
const PEM_BYTES_MAX: usize = 16 * 1024;
const BEGIN: &str = "-----BEGIN ";
const WANTED: &str = "an image key is one P-256 public key (`BEGIN PUBLIC KEY`), as `edgewarden image generate-key` and \
                      `cosign generate-key-pair` make them";

/// The object identifiers of other keys (DER, with tag and length) and what they are called.
const OTHERS: [(&[u8], &str); 6] = [
    (&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], "an RSA key"),
    (&[0x06, 0x03, 0x2b, 0x65, 0x70], "an Ed25519 key"),
    (&[0x06, 0x03, 0x2b, 0x65, 0x71], "an Ed448 key"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22], "a P-384 key"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23], "a P-521 key"),
    (&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a], "a secp256k1 key"),
];

/// A key that can be verified with.
#[derive(Debug)]
pub struct Usable {
    pub public: ParsedPublicKey,
    /// DER, SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

impl ImageKey {
    /// The key. The error says what the text is instead.
    pub fn usable(&self) -> Result<Usable, String> {
        let spki = decode(&self.public_key).map_err(|what| format!("{what}; {WANTED}"))?;
        let public = point(&spki)
            .and_then(|point| {
                // Refuses a point that is not on the curve.
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                    .map_err(|_| "it is no point of P-256".into())
            })
            .map_err(|what| format!("{what}; {WANTED}"))?;
        Ok(Usable { public, spki })
    }
}

/// The content of a PEM text (RFC 7468) with exactly one public key and nothing else.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    if text.len() > PEM_BYTES_MAX {
        return Err(format!("it has more than {PEM_BYTES_MAX} bytes"));
    }
    if text.starts_with('\u{feff}') {
        return Err("it begins with a byte order mark: save it as UTF-8 without one".into());
    }
    match text.matches(BEGIN).count() {
        0 => return Err("it is not PEM".into()),
        1 => {}
        several => return Err(format!("it has {several} PEM blocks: each key has an entry of its own")),
    }
    let text = text.trim();
    let Some((label, _)) = text.strip_prefix(BEGIN).and_then(|rest| rest.split_once("-----")) else {
        return Err("it has text before the PEM block".into());
    };
    match label {
        "PUBLIC KEY" => {}
        label if label.ends_with("PRIVATE KEY") => {
            return Err("it is a private key, which belongs in no deployment: give its public half".into());
        }
        "CERTIFICATE" => return Err("it is a certificate".into()),
        label => {
            return Err(format!(
                "it is a PEM block `{}`",
                label.chars().take(64).collect::<String>().escape_debug()
            ));
        }
    }
    if !text.ends_with("-----END PUBLIC KEY-----") {
        return Err("its PEM block does not end, or text follows it".into());
    }
    pem::one(text, pem::PUBLIC_KEY).map_err(|error| format!("it is {error}"))
}

fn point(spki: &[u8]) -> Result<&[u8], String> {
    if let Some(point) = spki.strip_prefix(&SPKI_PREFIX) {
        let whole = point.len() == POINT_BYTES && point.first() == Some(&4);
        return if whole { Ok(point) } else { Err("it is no point of P-256".into()) };
    }
    let has = |id: &[u8]| spki.windows(id.len()).take(32).any(|window| window == id);
    match OTHERS.iter().find(|(id, _)| has(id)) {
        Some((_, name)) => Err(format!("it is {name}")),
        None => Err("it is no P-256 key with an uncompressed point".into()),
    }
}
