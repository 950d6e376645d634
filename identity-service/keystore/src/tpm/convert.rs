//! From the TPM's structures to what the rest of the world reads.

use tss_esapi::structures::{Public, Signature};
use tss_esapi::traits::Marshall as _;

use super::link::{Fault, fault};
use crate::KeystoreError;

const COORDINATE_BYTES: usize = 32;

/// A coordinate with the zeros that a TPM may leave out.
fn padded(bytes: &[u8]) -> Result<Vec<u8>, KeystoreError> {
    let zeros = COORDINATE_BYTES
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

/// DER of an ECDSA signature: SEQUENCE { INTEGER r, INTEGER s } (RFC 3279 section 2.2.3).
pub(super) fn signature_der(signature: &Signature) -> Result<Vec<u8>, KeystoreError> {
    let Signature::EcDsa(signature) = signature else {
        return Err(KeystoreError::Answer("the signature is not ECDSA"));
    };
    let mut body = Vec::with_capacity(72);
    for number in [signature.signature_r().value(), signature.signature_s().value()] {
        integer(number, &mut body)?;
    }
    let mut der =
        vec![0x30, u8::try_from(body.len()).map_err(|_| KeystoreError::Answer("a long signature"))?];
    der.append(&mut body);
    Ok(der)
}

/// A positive INTEGER: no leading zero but the one that keeps the sign.
fn integer(number: &[u8], into: &mut Vec<u8>) -> Result<(), KeystoreError> {
    if number.len() > COORDINATE_BYTES {
        return Err(KeystoreError::Answer("a number of a P-256 signature has more than 32 bytes"));
    }
    let first = number.iter().position(|byte| *byte != 0);
    let digits = first.and_then(|at| number.get(at..)).unwrap_or_default();
    let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0);
    let length = digits.len() + usize::from(sign);
    into.extend([2, u8::try_from(length).unwrap_or_default()]);
    if sign {
        into.push(0);
    }
    into.extend_from_slice(digits);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_der() {
        for (number, expected) in [
            (&[][..], &[2, 1, 0][..]),
            (&[0, 0], &[2, 1, 0]),
            (&[0, 0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 1, 0], &[2, 2, 1, 0]),
        ] {
            let mut der = Vec::new();
            integer(number, &mut der).unwrap();
            assert_eq!(der, expected, "{number:?}");
        }
        assert!(integer(&[1; 33], &mut Vec::new()).is_err());
    }
}
