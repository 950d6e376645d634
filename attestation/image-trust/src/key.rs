use aws_lc_rs::signature::ParsedPublicKey;
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_protocol::deployment::ImageKey;
use edgewarden_protocol::image_key::Usable;

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
