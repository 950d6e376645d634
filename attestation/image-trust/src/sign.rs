//! Signs images in cosign's keyed layout, as `cosign sign --key … --tlog-upload=false` does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Digest, pem};
use edgewarden_protocol::deployment::ImageReference;
use edgewarden_protocol::image_key::SPKI_PREFIX;
use zeroize::Zeroizing;

use crate::limits::{MANIFEST_BYTES_MAX, SIGNATURES_MAX};
use crate::signature::{
    self, Critical, Descriptor, Identity, Image, MANIFEST_MEDIA_TYPE, PAYLOAD_MEDIA_TYPE, PAYLOAD_TYPE,
    Payload, SIGNATURE_ANNOTATION, SignatureManifest,
};

const KEY_FILE_BYTES_MAX: u16 = 4096;

/// Error of signing an image.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot read the key `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the key file `{}` can be read by others; run `chmod 600` on it", .0.display())]
    Mode(PathBuf),
    #[error("the key is not an unencrypted P-256 private key in PKCS#8 PEM (`BEGIN PRIVATE KEY`)")]
    Key,
    #[error("the crypto library refused to make a key or a signature")]
    Crypto,
    #[error("cannot add to the signatures that the image has: {0}")]
    Existing(String),
    #[error("cannot write the manifest")]
    Json(#[from] serde_json::Error),
}

/// A P-256 key that signs images. Wiped when dropped.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    /// Kept for [`SigningKey::private_pem`].
    pkcs8: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Blobs and manifest to push so that the image counts as signed: the blobs first, then the manifest under the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedImage {
    /// `sha256-<hex>.sig`, in the image's own repository.
    pub tag: String,
    /// OCI image manifest.
    pub manifest: Vec<u8>,
    pub manifest_media_type: &'static str,
    /// Blobs that the manifest names: configuration and payload.
    pub config: Vec<u8>,
    pub payload: Vec<u8>,
}

impl SigningKey {
    /// A new P-256 key.
    pub fn generate() -> Result<Self, SignError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| SignError::Crypto)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// PKCS#8 PEM, unencrypted.
    pub fn from_pem(text: &str) -> Result<Self, SignError> {
        Self::from_pkcs8(Zeroizing::new(pem::one(text, pem::PRIVATE_KEY).map_err(|_| SignError::Key)?))
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, SignError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).map_err(|_| SignError::Key)?;
        Ok(Self { pair, pkcs8 })
    }

    /// Reads a file that nobody but its owner may read.
    pub fn load(path: &Path) -> Result<Self, SignError> {
        let read = |source| SignError::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        // Of the file that is open, not of the name, which may meanwhile be another file's.
        if file.metadata().map_err(read)?.permissions().mode() & 0o077 != 0 {
            return Err(SignError::Mode(path.into()));
        }
        // Never grows, so that no copy is left behind.
        let mut text = Zeroizing::new(String::with_capacity(usize::from(KEY_FILE_BYTES_MAX) + 1));
        file.take(KEY_FILE_BYTES_MAX.into()).read_to_string(&mut text).map_err(read)?;
        Self::from_pem(&text)
    }

    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.pair.sign(&SystemRandom::new(), payload).map_err(|_| SignError::Crypto)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Is `layer` this key's signature over `payload`?
    fn has_signed(&self, layer: &Descriptor, payload: &[u8]) -> bool {
        let text = layer.annotations.get(SIGNATURE_ANNOTATION);
        let Some(signature) = text.and_then(|text| STANDARD.decode(text).ok()) else { return false };
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.pair.public_key().as_ref());
        layer.media_type == PAYLOAD_MEDIA_TYPE
            && layer.digest == Digest::of(payload)
            && layer.size == payload.len() as u64
            && public.is_ok_and(|public| public.verify_sig(payload, &signature).is_ok())
    }

    /// PEM, SubjectPublicKeyInfo: what a deployment pins as `image_keys[].public_key`.
    pub fn public_pem(&self) -> String {
        let der = [&SPKI_PREFIX, self.pair.public_key().as_ref()].concat();
        pem::encode(pem::PUBLIC_KEY, &der)
    }

    /// PKCS#8 PEM, to be kept in a file of mode 0600.
    pub fn private_pem(&self) -> Zeroizing<String> {
        pem::encode_secret(pem::PRIVATE_KEY, &self.pkcs8)
    }
}

/// The bytes that are signed: cosign's "simple signing" payload.
pub fn payload(image: &ImageReference) -> Result<Vec<u8>, SignError> {
    Ok(serde_json::to_vec(&Payload {
        critical: Critical {
            identity: Identity { docker_reference: image.name() },
            image: Image { docker_manifest_digest: image.digest().to_string() },
            kind: PAYLOAD_TYPE.into(),
        },
        optional: None,
    })?)
}

/// Signs one image that has no signature yet.
pub fn sign(image: &ImageReference, key: &SigningKey) -> Result<SignedImage, SignError> {
    let payload = payload(image)?;
    let signature = key.sign(&payload)?;
    signature_manifest(image, payload, &signature)
}

/// Signs one image beside the signatures of the manifest that stands under its tag now. `None`: this key has signed it
/// already.
pub fn sign_beside(
    image: &ImageReference,
    key: &SigningKey,
    existing: Option<&[u8]>,
) -> Result<Option<SignedImage>, SignError> {
    let Some(existing) = existing else { return sign(image, key).map(Some) };
    let unusable = |problem: String| SignError::Existing(problem);
    let existing = signature::parse_manifest(existing).map_err(|(_, problem)| unusable(problem))?;
    let payload = payload(image)?;
    if existing.layers.iter().any(|layer| key.has_signed(layer, &payload)) {
        return Ok(None);
    }
    if existing.layers.len() >= SIGNATURES_MAX {
        return Err(unusable(format!("there are {} signatures already", existing.layers.len())));
    }
    let signature = key.sign(&payload)?;
    let mut layers = existing.layers;
    layers.push(layer(&payload, &signature));
    let signed = manifest(image, payload, layers)?;
    if signed.manifest.len() > MANIFEST_BYTES_MAX {
        return Err(unusable("with one more it would be too large".into()));
    }
    Ok(Some(signed))
}

/// Wraps a signature that was made elsewhere (an HSM, `openssl dgst -sign`): ECDSA P-256 with SHA-256, in DER, over
/// [`payload`].
pub fn signature_manifest(
    image: &ImageReference,
    payload: Vec<u8>,
    signature: &[u8],
) -> Result<SignedImage, SignError> {
    let layer = layer(&payload, signature);
    manifest(image, payload, vec![layer])
}

fn layer(payload: &[u8], signature: &[u8]) -> Descriptor {
    Descriptor {
        media_type: PAYLOAD_MEDIA_TYPE.into(),
        size: payload.len() as u64,
        digest: Digest::of(payload),
        annotations: BTreeMap::from([(SIGNATURE_ANNOTATION.to_owned(), STANDARD.encode(signature))]),
    }
}

fn manifest(
    image: &ImageReference,
    payload: Vec<u8>,
    layers: Vec<Descriptor>,
) -> Result<SignedImage, SignError> {
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    // cosign's own configuration: registries want one, nobody reads it.
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "", "config": {}, "created": "0001-01-01T00:00:00Z",
        "history": [{"created": "0001-01-01T00:00:00Z"}], "os": "",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let manifest = serde_json::to_vec(&SignatureManifest {
        schema_version: 2,
        media_type: Some(MANIFEST_MEDIA_TYPE.into()),
        config: Descriptor {
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            size: config.len() as u64,
            digest: Digest::of(&config),
            annotations: BTreeMap::new(),
        },
        layers,
    })?;
    Ok(SignedImage {
        tag: format!("sha256-{}.sig", image.digest().hex()),
        manifest,
        manifest_media_type: MANIFEST_MEDIA_TYPE,
        config,
        payload,
    })
}
