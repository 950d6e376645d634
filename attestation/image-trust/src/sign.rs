//! Signs images in cosign's keyed layout.

use std::path::Path;

use edgewarden_protocol::deployment::ImageReference;

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot read the key `{}`", path.display())]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("the key file `{}` can be read by others; run `chmod 600` on it", .0.display())]
    Mode(std::path::PathBuf),
    #[error("the key is not an unencrypted P-256 private key in PKCS#8 PEM")]
    Key,
    #[error("the crypto library refused to sign")]
    Crypto,
}

/// A P-256 key that signs images. Wiped when dropped.
pub struct SigningKey {
    _private: (),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// What to push so that the image counts as signed: blobs first, then the manifest under the tag.
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
    pub fn generate() -> Result<Self, SignError> {
        Err(SignError::Crypto)
    }
    /// PKCS#8 PEM, unencrypted.
    pub fn from_pem(_pem: &str) -> Result<Self, SignError> {
        Err(SignError::Key)
    }
    /// Reads a file that only its owner may read.
    pub fn load(_path: &Path) -> Result<Self, SignError> {
        Err(SignError::Key)
    }
    /// PEM, SubjectPublicKeyInfo: what a deployment pins as `image_keys[].public_key`.
    pub fn public_pem(&self) -> String {
        String::new()
    }
    /// PKCS#8 PEM.
    pub fn private_pem(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(String::new())
    }
}

/// The bytes that are signed: cosign's "simple signing" payload.
pub fn payload(_image: &ImageReference) -> Vec<u8> {
    Vec::new()
}

/// Signs one image.
pub fn sign(_image: &ImageReference, _key: &SigningKey) -> Result<SignedImage, SignError> {
    Err(SignError::Crypto)
}
