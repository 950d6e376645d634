//! P-256 public keys: the uncompressed point (65 bytes) and SubjectPublicKeyInfo (RFC 5480).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_names::pem;

use crate::CaError;

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (65 bytes follow) }: the only form of a P-256 key
/// with an uncompressed point (RFC 5480 section 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

pub const POINT_BYTES: usize = 65;

/// Refuses what is not an uncompressed point on P-256.
pub fn check_point(point: &[u8]) -> Result<(), CaError> {
    if point.len() != POINT_BYTES || point.first() != Some(&4) {
        return Err(CaError::Key("not an uncompressed P-256 point of 65 bytes"));
    }
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .map(drop)
        .map_err(|_| CaError::Key("the point is not on the curve P-256"))
}

/// The point in a DER SubjectPublicKeyInfo.
pub fn point(der: &[u8]) -> Result<Vec<u8>, CaError> {
    let point = der
        .strip_prefix(SPKI_PREFIX.as_slice())
        .ok_or(CaError::Key("not a P-256 SubjectPublicKeyInfo with an uncompressed point"))?;
    check_point(point)?;
    Ok(point.to_vec())
}

/// The point in a PEM `PUBLIC KEY`, as operators' and image keys are kept.
pub fn point_of_pem(text: &str) -> Result<Vec<u8>, CaError> {
    point(&pem::one(text, pem::PUBLIC_KEY)?)
}

/// A DER SubjectPublicKeyInfo.
pub fn der(point: &[u8]) -> Result<Vec<u8>, CaError> {
    check_point(point)?;
    let mut der = SPKI_PREFIX.to_vec();
    der.extend_from_slice(point);
    Ok(der)
}

/// A PEM `PUBLIC KEY`.
pub fn to_pem(point: &[u8]) -> Result<String, CaError> {
    Ok(pem::encode(pem::PUBLIC_KEY, &der(point)?))
}
