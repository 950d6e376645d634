//! The algorithms that a JWT-SVID may be signed with (JWT-SVID section 2.1, RFC 7518 section 3.1), and which kind of
//! key each of them needs. No HMAC, no `none`, no EdDSA.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};

use super::PublicKey;

/// Signature algorithm of a token (JWT-SVID section 2.2, RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

impl Algorithm {
    /// Parses the header's `alg`; `None` for every other algorithm, `none` and HMAC among them.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }

    /// `true` when `key` made the signature. A key of another kind than the algorithm's made none.
    pub fn verifies(self, key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
        match (self, key) {
            (Self::Es256, PublicKey::P256(point)) => {
                verifies(&ECDSA_P256_SHA256_FIXED, point, signed, signature)
            }
            (Self::Es384, PublicKey::P384(point)) => {
                verifies(&ECDSA_P384_SHA384_FIXED, point, signed, signature)
            }
            (Self::Es512, PublicKey::P521(point)) => {
                verifies(&ECDSA_P521_SHA512_FIXED, point, signed, signature)
            }
            (_, PublicKey::Rsa { n, e }) => self.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }),
            _ => false,
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::Es512 => None,
        }
    }
}

fn verifies(
    algorithm: &'static dyn VerificationAlgorithm,
    point: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
}
