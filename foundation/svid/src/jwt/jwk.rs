//! JWK Sets (RFC 7517) of JWT-SVID keys, as bundles carry them (SPIFFE Trust Domain and Bundle, section 4).

use std::sync::Arc;

use serde_json::json;

use super::base64url::{decode, encode};
use super::json::{self, Json, JsonError, Object};
use super::jws::KID_BYTES_MAX;
use super::{JwtKey, JwtKeys, PublicKey};

/// Largest JWK Set that is read. Each gateway of a trust domain has keys of its own in it.
pub const JWKS_BYTES_MAX: usize = 128 * 1024;
/// Most JWT keys of one trust domain.
pub const KEYS_MAX: usize = 512;
/// Most values in a JWK Set's JSON: a key has some eight.
const VALUES_MAX: usize = 16 * KEYS_MAX;
const USE: &str = "jwt-svid";
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Error of a JWK Set (RFC 7517) that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("a JWK Set has at most {JWKS_BYTES_MAX} bytes and {KEYS_MAX} JWT keys")]
    TooLarge,
    #[error("the JWK Set is {0}")]
    Json(#[from] JsonError),
    #[error("the JWK Set has no `keys`, or they are no array of objects")]
    Keys,
    #[error("a JWT key has no `kid`, or one that another has too")]
    KeyId,
    #[error("the JWT key `{0}` is not a key that JWT-SVIDs may be signed with")]
    Key(String),
    #[error("`{0}` is not a whole number in its range")]
    Parameter(&'static str),
}

impl JwtKeys {
    /// The JWT keys of a bundle. What is for another use, or of a kind that is not known, is passed over (section 4.2);
    /// a JWT key that is not right refuses the whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        Self::of(&document(bytes)?)
    }

    pub(crate) fn of(document: &Object) -> Result<Self, JwksError> {
        let Some(Json::Array(all)) = document.get("keys") else { return Err(JwksError::Keys) };
        let mut keys = Self {
            keys: Vec::new(),
            sequence: integer(document, "spiffe_sequence")?.unwrap_or_default(),
            refresh_hint_seconds: integer(document, "spiffe_refresh_hint")?
                .map(|hint| u32::try_from(hint).map_err(|_| JwksError::Parameter("spiffe_refresh_hint")))
                .transpose()?,
        };
        for key in all {
            let Json::Object(key) = key else { return Err(JwksError::Keys) };
            let Some(key) = read(key)? else { continue };
            if keys.get(&key.kid).is_some() {
                return Err(JwksError::KeyId);
            }
            if keys.keys.len() == KEYS_MAX {
                return Err(JwksError::TooLarge);
            }
            keys.keys.push(Arc::new(key));
        }
        Ok(keys)
    }

    /// The JWK Set as text.
    pub fn to_jwks(&self) -> Vec<u8> {
        self.to_jwks_after(Vec::new())
    }

    /// The same, with other keys before those for JWT-SVIDs.
    pub(crate) fn to_jwks_after(&self, mut keys: Vec<serde_json::Value>) -> Vec<u8> {
        keys.extend(self.keys.iter().map(|key| write(key)));
        let mut document = json!({"keys": keys, "spiffe_sequence": self.sequence});
        if let (Some(hint), Some(document)) = (self.refresh_hint_seconds, document.as_object_mut()) {
            document.insert("spiffe_refresh_hint".into(), hint.into());
        }
        document.to_string().into_bytes()
    }
}

/// A JWK Set's JSON.
pub(crate) fn document(bytes: &[u8]) -> Result<Object, JwksError> {
    if bytes.len() > JWKS_BYTES_MAX {
        return Err(JwksError::TooLarge);
    }
    Ok(json::parse_object_within(bytes, VALUES_MAX)?)
}

fn read(key: &Object) -> Result<Option<JwtKey>, JwksError> {
    let text = |name: &str| key.get(name).and_then(Json::as_str);
    let Some(family @ ("EC" | "RSA")) = text("kty").filter(|_| text("use") == Some(USE)) else {
        return Ok(None);
    };
    let kid = text("kid").filter(|kid| (1..=KID_BYTES_MAX).contains(&kid.len())).ok_or(JwksError::KeyId)?;
    let bytes = |name: &str| text(name).and_then(decode);
    let public = if family == "RSA" {
        bytes("n").zip(bytes("e")).and_then(|(n, e)| PublicKey::rsa(n, e))
    } else {
        let point = bytes("x").zip(bytes("y")).map(|(x, y)| (x.len(), [&[4], x.as_slice(), &y].concat()));
        point.and_then(|(half, point)| match (text("crv")?, half) {
            ("P-256", 32) => PublicKey::p256(point),
            ("P-384", 48) => PublicKey::p384(point),
            ("P-521", 66) => PublicKey::p521(point),
            _ => None,
        })
    };
    let public = public.ok_or_else(|| JwksError::Key(kid.chars().take(64).collect()))?;
    Ok(Some(JwtKey { kid: kid.into(), public, beneath: None }))
}

fn write(key: &JwtKey) -> serde_json::Value {
    let (curve, halves) = match &key.public {
        PublicKey::P256([_, halves @ ..]) => ("P-256", halves.as_slice()),
        PublicKey::P384([_, halves @ ..]) => ("P-384", halves.as_slice()),
        PublicKey::P521([_, halves @ ..]) => ("P-521", halves.as_slice()),
        PublicKey::Rsa { n, e } => {
            return json!({"kty": "RSA", "use": USE, "kid": key.kid, "n": encode(n), "e": encode(e)});
        }
    };
    let (x, y) = halves.split_at(halves.len() / 2);
    json!({"kty": "EC", "use": USE, "kid": key.kid, "crv": curve, "x": encode(x), "y": encode(y)})
}

fn integer(document: &Object, name: &'static str) -> Result<Option<u64>, JwksError> {
    match document.get(name) {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
        Some(Json::Number(value)) if (0.0..=INTEGER_MAX).contains(value) && value.fract() == 0.0 => {
            Ok(Some(*value as u64))
        }
        Some(_) => Err(JwksError::Parameter(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::SigningKey;

    #[test]
    fn what_is_written_is_read_again() {
        let keys = (0..3).map(|_| Arc::new(SigningKey::generate().unwrap().public(None))).collect();
        let keys = JwtKeys { keys, sequence: 7, refresh_hint_seconds: Some(300) };
        assert_eq!(JwtKeys::parse(&keys.to_jwks()).unwrap(), keys);
        let text = String::from_utf8(keys.to_jwks()).unwrap();
        assert!(!text.contains("\"d\"") && text.contains(r#""use":"jwt-svid""#), "{text}");
        // An empty set means that everything was revoked, which is not the same as no set.
        assert_eq!(JwtKeys::parse(b"{\"keys\":[]}").unwrap(), JwtKeys::default());
    }

    #[test]
    fn keys_that_are_not_for_jwt_svids_are_passed_over_and_wrong_ones_refused() {
        let good = write(&SigningKey::generate().unwrap().public(None));
        let with = |name: &str, value: serde_json::Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let without = |name: &str| {
            let mut key = good.clone();
            key.as_object_mut().unwrap().remove(name);
            key
        };
        let parse = |keys: serde_json::Value| JwtKeys::parse(json!({"keys": keys}).to_string().as_bytes());
        for passed in [
            with("use", json!("x509-svid")),
            with("use", json!("wit-svid")),
            with("use", json!("sig")),
            without("use"),
            without("kty"),
            with("kty", json!("oct")),
            with("kty", json!("OKP")),
        ] {
            assert_eq!(parse(json!([passed])).unwrap().keys.len(), 0, "{passed}");
        }
        for refused in [
            without("kid"),
            with("kid", json!("")),
            with("kid", json!(7)),
            with("kid", json!("k".repeat(257))),
            without("x"),
            with("x", json!("AA")),
            with("y", good["x"].clone()),
            with("crv", json!("P-384")),
            with("crv", json!("secp256k1")),
            with("x", json!(format!("{}=", good["x"].as_str().unwrap()))),
            with("kty", json!("RSA")),
            json!("no object"),
        ] {
            assert!(parse(json!([refused])).is_err(), "{refused}");
        }
        assert!(parse(json!([good, good])).is_err());
        for bad in [
            "",
            "{}",
            "[]",
            "{\"keys\":{}}",
            "{\"keys\":[],\"keys\":[]}",
            "{\"keys\":[],\"spiffe_sequence\":-1}",
        ] {
            assert!(JwtKeys::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..=KEYS_MAX).map(|n| with("kid", json!(n.to_string()))).collect();
        assert!(parse(json!(many)).is_err());
        assert!(JwtKeys::parse(&vec![b' '; JWKS_BYTES_MAX + 1]).is_err());
    }
}
