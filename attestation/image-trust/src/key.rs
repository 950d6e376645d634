use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_protocol::deployment::ImageKey;
use edgewarden_protocol::image_key::Usable;

/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480): SEQUENCE, id-ecPublicKey, prime256v1, BIT STRING.
pub(crate) const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const PEM_BYTES_MAX: usize = 1024;

/// A pinned key, ready to verify.
pub(crate) struct PinnedKey<'a> {
    pub(crate) name: &'a str,
    pub(crate) fingerprint: Digest,
    public: ParsedPublicKey,
}

impl<'a> PinnedKey<'a> {
    pub(crate) fn parse(key: &'a ImageKey) -> Result<Self, Refusal> {
        let Usable { public, spki } = key.usable().map_err(|rule| {
            Refusal::new(Reason::DeploymentInvalid, format!("image key {}", crate::shown(&key.name)), rule)
        })?;
        Ok(Self { name: &key.name, fingerprint: Digest::of(&spki), public })
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

/// Fails when a deployment's image key cannot be used at all. [`crate::judge`] refuses everything when one cannot.
pub fn check_key(key: &ImageKey) -> Result<(), Refusal> {
    PinnedKey::parse(key).map(drop)
}

/// SHA-256 of the key's SubjectPublicKeyInfo: the key whatever it is called. Fails as [`check_key`] does.
pub fn fingerprint(key: &ImageKey) -> Result<Digest, Refusal> {
    PinnedKey::parse(key).map(|key| key.fingerprint)
}

/// The content of a PEM text (RFC 7468) with exactly one block of this label and nothing else.
pub(crate) fn decode_pem(pem: &str, label: &str) -> Option<Vec<u8>> {
    if pem.len() > PEM_BYTES_MAX {
        return None;
    }
    let body = pem.trim().strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let text: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(text).ok()
}

/// PEM with lines of 64 characters, as OpenSSL writes it.
pub(crate) fn encode_pem(der: &[u8], label: &str) -> zeroize::Zeroizing<String> {
    let text = zeroize::Zeroizing::new(STANDARD.encode(der));
    let mut pem = zeroize::Zeroizing::new(String::with_capacity(PEM_BYTES_MAX));
    pem.extend(["-----BEGIN ", label, "-----"]);
    for (at, character) in text.chars().enumerate() {
        if at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.extend(["\n-----END ", label, "-----\n"]);
    pem
}
