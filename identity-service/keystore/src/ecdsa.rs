//! ECDSA signatures as devices give them, two numbers, and as X.509 wants them, DER.

use crate::error::KeystoreError;

/// Bytes of a number of P-256.
pub(crate) const NUMBER_BYTES: usize = 32;

/// SEQUENCE { INTEGER r, INTEGER s } (RFC 3279 section 2.2.3).
pub(crate) fn der(r: &[u8], s: &[u8]) -> Result<Vec<u8>, KeystoreError> {
    let mut body = Vec::with_capacity(72);
    for number in [r, s] {
        integer(number, &mut body)?;
    }
    let mut der =
        vec![0x30, u8::try_from(body.len()).map_err(|_| KeystoreError::Answer("a long signature"))?];
    der.append(&mut body);
    Ok(der)
}

/// A positive INTEGER: no leading zero but the one that keeps the sign.
fn integer(number: &[u8], into: &mut Vec<u8>) -> Result<(), KeystoreError> {
    if number.len() > NUMBER_BYTES {
        return Err(KeystoreError::Answer("a number of a P-256 signature has more than 32 bytes"));
    }
    let mut digits = number;
    while let [0, rest @ ..] = digits {
        digits = rest;
    }
    let sign = digits.first().is_none_or(|byte| byte & 0x80 != 0);
    let length = digits.len() + usize::from(sign);
    into.extend([2, u8::try_from(length).map_err(|_| KeystoreError::Answer("a long signature"))?]);
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
