//! An image, as it is told to be judged.

use edgewarden_names::{Digest, ModuleName};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::deployment::ImageReference;

/// Limits of one image's evidence (docs/specification.md).
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const SIGNATURES_MAX: usize = 64;
pub const SIGNATURE_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// An image's manifest, configuration and signatures, to be judged. `runtimed` fetches them; nothing in them is
/// trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEvidence {
    pub module: ModuleName,
    pub image: ImageReference,
    /// The image manifest, the bytes whose SHA-256 is the reference's digest.
    pub manifest: Bytes,
    /// The image configuration that the manifest names.
    pub config: Bytes,
    /// Signature manifests in cosign's layout (`sha256-<hex>.sig`) with the payload blobs that they name.
    pub signatures: Vec<SignatureEvidence>,
}

/// A signature manifest with the payload blobs that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureEvidence {
    pub manifest: Bytes,
    pub payloads: Vec<Bytes>,
}

/// One layer of an image (OCI image-spec, descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub digest: Digest,
    /// SHA-256 of the uncompressed layer (OCI image-spec, `rootfs.diff_ids`).
    pub diff_id: Digest,
    pub size: u64,
    pub media_type: String,
}
