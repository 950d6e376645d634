//! From the TPM's structures to what the rest of the world reads.

use tss_esapi::structures::{Public, Signature};
use tss_esapi::traits::Marshall as _;

use super::link::{Fault, fault};
use crate::ecdsa;
use crate::error::KeystoreError;

/// A coordinate with the zeros that a TPM may leave out.
pub(super) fn padded(bytes: &[u8]) -> Result<Vec<u8>, KeystoreError> {
    let zeros = ecdsa::NUMBER_BYTES
        .checked_sub(bytes.len())
        .ok_or(KeystoreError::Answer("a number of a P-256 key has more than 32 bytes"))?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(bytes);
    Ok(padded)
}

/// The uncompressed point of a P-256 key.
pub(super) fn point(public: &Public) -> Result<Vec<u8>, Fault> {
    let Public::Ecc { unique, .. } = public else {
        return Err(KeystoreError::Answer("the key is not an elliptic curve key").into());
    };
    let mut point = vec![4];
    point.extend(padded(unique.x().value())?);
    point.extend(padded(unique.y().value())?);
    Ok(point)
}

/// TPMT_PUBLIC.
pub(super) fn public_bytes(public: &Public) -> Result<Vec<u8>, Fault> {
    public.marshall().map_err(fault("write TPMT_PUBLIC"))
}

/// DER of an ECDSA signature.
pub(super) fn signature_der(signature: &Signature) -> Result<Vec<u8>, KeystoreError> {
    let Signature::EcDsa(signature) = signature else {
        return Err(KeystoreError::Answer("the signature is not ECDSA"));
    };
    ecdsa::der(signature.signature_r().value(), signature.signature_s().value())
}
