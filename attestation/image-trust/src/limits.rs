//! Limits of one image and its evidence (docs/specification.md).

pub use edgewarden_protocol::control::{MANIFEST_BYTES_MAX, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX};

/// Largest image configuration.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Most layers of one image.
pub const LAYERS_MAX: usize = 128;
/// Largest layer, compressed.
pub const LAYER_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Largest image, the sum of its layers.
pub const IMAGE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Largest base64 text of a signature. An ECDSA P-256 signature in DER has at most 72 bytes.
pub const SIGNATURE_BYTES_MAX: usize = 256;
/// All of the evidence together: what the evidence may cost to judge.
pub const EVIDENCE_BYTES_MAX: usize = 8 * 1024 * 1024;
