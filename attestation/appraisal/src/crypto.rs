//! Hashes and signatures, by aws-lc-rs.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Curve, Key, Public, Scheme, Signature};

/// True when `der` is the ECDSA P-256 SHA-256 signature of `message` by the key with this uncompressed point.
pub(crate) fn verify_p256(point: &[u8], message: &[u8], der: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, der).is_ok()
}

/// True when a TPM's `signature` (TPMT_SIGNATURE) of `message` is by `point`, with ECDSA and SHA-256.
pub(crate) fn verify_tpm(point: &[u8], message: &[u8], signature: &Signature) -> bool {
    signature.hash() == HashAlg::Sha256
        && signature.to_der().is_some_and(|der| verify_p256(point, message, &der))
}

/// The point of a P-256 key with one of `schemes`, when it is on the curve.
pub(crate) fn p256_point(public: &Public, schemes: &[Scheme]) -> Option<Vec<u8>> {
    match &public.key {
        Key::Ecc { scheme, curve: Curve::P256, .. } if schemes.contains(scheme) => {
            public.point().filter(|point| is_p256_point(point))
        }
        _ => None,
    }
}

/// True for an uncompressed point on P-256.
pub(crate) fn is_p256_point(point: &[u8]) -> bool {
    point.len() == 65 && aws_lc_rs::signature::ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).is_ok()
}
