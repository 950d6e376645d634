//! Makes JWT-SVIDs: ES256 (RFC 7518 section 3.4), `kid` and `typ` always set, no claims but those that the
//! specification defines (JWT-SVID section 3) and `iat`.
//!
//! No `jti`: a token may be handed out twice while it is fresh, and a validator that counts them would refuse it then.
//! No `iss`: a token is checked with the keys of its subject's trust domain, and never by discovery.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_names::{SpiffeId, UnixTime};
use serde::Serialize;
use zeroize::Zeroizing;

use super::base64url::encode;
use super::{Audience, JwtKey, PublicKey, thumbprint};

/// Error of the cryptographic library.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("a P-256 key cannot be made")]
    Generate,
    #[error("a token cannot be signed")]
    Sign,
}

/// A private key. It lives in this process's memory and nowhere else.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    /// Uncompressed.
    point: [u8; 65],
    kid: String,
    /// The same for every token, encoded.
    header: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a [String],
    iat: u64,
    exp: u64,
}

impl SigningKey {
    /// A new P-256 key; its ID is its thumbprint (RFC 7638).
    pub fn generate() -> Result<Self, SigningError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SigningError::Generate)?;
        let point: [u8; 65] = pair.public_key().as_ref().try_into().map_err(|_| SigningError::Generate)?;
        let kid = thumbprint(&point).ok_or(SigningError::Generate)?;
        let header = encode(format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"JWT"}}"#).as_bytes());
        Ok(Self { pair, point, kid, header })
    }

    /// The key's ID: its thumbprint (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key as an uncompressed point.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// The public half, bound to IDs beneath `beneath` if that is given.
    pub fn public(&self, beneath: Option<SpiffeId>) -> JwtKey {
        JwtKey { kid: self.kid.clone(), public: PublicKey::P256(self.point), beneath }
    }

    /// About 20 microseconds on a server's core.
    pub fn issue(
        &self,
        subject: &SpiffeId,
        audience: &Audience,
        issued: UnixTime,
        expires: UnixTime,
    ) -> Result<Zeroizing<String>, SigningError> {
        let claims =
            Claims { sub: subject.as_str(), aud: audience.as_slice(), iat: issued.0, exp: expires.0 };
        let claims = serde_json::to_vec(&claims).map_err(|_| SigningError::Sign)?;
        // Room for the whole: a growing string would leave pieces of the token behind.
        let mut token = Zeroizing::new(String::with_capacity(self.header.len() + claims.len() * 2 + 128));
        token.push_str(&self.header);
        token.push('.');
        token.push_str(&encode(&claims));
        let signature =
            self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| SigningError::Sign)?;
        token.push('.');
        token.push_str(&encode(signature.as_ref()));
        Ok(token)
    }
}
