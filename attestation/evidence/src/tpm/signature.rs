use super::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, hash_alg};
use crate::reader::{Reader, put_sized};
use crate::{HashAlg, ParseError};

/// Largest ECC parameter: P-521.
const ECC_BYTES_MAX: usize = 66;
/// RSA-4096.
const RSA_BYTES_MAX: usize = 512;

/// TPMT_SIGNATURE (TPM 2.0 Library Part 2, section 11.3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    Ecdsa { hash: HashAlg, r: Vec<u8>, s: Vec<u8> },
    RsaSsa { hash: HashAlg, signature: Vec<u8> },
    RsaPss { hash: HashAlg, signature: Vec<u8> },
}

impl Signature {
    /// Parses a TPMT_SIGNATURE (ECDSA, RSASSA, RSAPSS), without a byte left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "signature");
        let algorithm = reader.u16()?;
        let what = "signature algorithm";
        if !matches!(algorithm, ALG_ECDSA | ALG_RSASSA | ALG_RSAPSS) {
            return Err(ParseError::Value { what, value: algorithm.into() });
        }
        let hash = hash_alg(&mut reader)?;
        let mut field = |name, max| -> Result<Vec<u8>, ParseError> { Ok(reader.sized(name, max)?.to_vec()) };
        let signature = match algorithm {
            ALG_ECDSA => Self::Ecdsa {
                hash,
                r: field("signature's R", ECC_BYTES_MAX)?,
                s: field("signature's S", ECC_BYTES_MAX)?,
            },
            ALG_RSASSA => Self::RsaSsa { hash, signature: field("RSA signature", RSA_BYTES_MAX)? },
            _ => Self::RsaPss { hash, signature: field("RSA signature", RSA_BYTES_MAX)? },
        };
        reader.end()?;
        Ok(signature)
    }

    /// The TPMT_SIGNATURE.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (algorithm, hash) = match self {
            Self::Ecdsa { hash, .. } => (ALG_ECDSA, hash),
            Self::RsaSsa { hash, .. } => (ALG_RSASSA, hash),
            Self::RsaPss { hash, .. } => (ALG_RSAPSS, hash),
        };
        let mut out = algorithm.to_be_bytes().to_vec();
        out.extend_from_slice(&hash.id().to_be_bytes());
        match self {
            Self::Ecdsa { r, s, .. } => {
                put_sized(&mut out, r);
                put_sized(&mut out, s);
            }
            Self::RsaSsa { signature, .. } | Self::RsaPss { signature, .. } => put_sized(&mut out, signature),
        }
        out
    }

    /// Hash algorithm of the signature.
    pub fn hash(&self) -> HashAlg {
        match self {
            Self::Ecdsa { hash, .. } | Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } => *hash,
        }
    }

    /// An ECDSA signature in DER: `SEQUENCE { INTEGER r, INTEGER s }` (RFC 3279 section 2.2.3).
    pub fn to_der(&self) -> Option<Vec<u8>> {
        let Self::Ecdsa { r, s, .. } = self else { return None };
        let mut body = der_integer(r)?;
        body.extend(der_integer(s)?);
        let mut der = vec![0x30];
        der.extend(der_length(body.len())?);
        der.extend(body);
        Some(der)
    }
}

/// The shortest form of a positive INTEGER. None for zero, which no signature contains.
fn der_integer(big_endian: &[u8]) -> Option<Vec<u8>> {
    let start = big_endian.iter().position(|&byte| byte != 0)?;
    let digits = big_endian.get(start..)?;
    let sign_byte = usize::from(digits.first().is_some_and(|byte| byte & 0x80 != 0));
    let mut der = vec![0x02];
    der.extend(der_length(digits.len() + sign_byte)?);
    der.extend(std::iter::repeat_n(0, sign_byte));
    der.extend_from_slice(digits);
    Some(der)
}

fn der_length(length: usize) -> Option<Vec<u8>> {
    match u8::try_from(length).ok()? {
        short @ 0..=0x7f => Some(vec![short]),
        long => Some(vec![0x81, long]),
    }
}
