//! A token's text, taken apart: JWS compact serialization (RFC 7515 section 7.1) with the few header parameters that a
//! JWT-SVID may have (JWT-SVID section 2). Distrusts every byte. That a token can be read says nothing about its truth.

use super::Algorithm;
use super::base64url::decode;
use super::json::{self, Json, JsonError, Object};

/// Longest token that is read.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest name of a key.
pub const KID_BYTES_MAX: usize = 256;

/// Error of a text that is no token.
#[derive(Debug, thiserror::Error)]
pub enum JwsError {
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a token has three parts with two dots between")]
    Parts,
    #[error("a part is not base64url without padding")]
    Base64,
    #[error("the {0} is {1}")]
    Json(&'static str, JsonError),
    #[error("the header has a parameter that a JWT-SVID may not have")]
    HeaderParameter,
    #[error("the algorithm is none that a JWT-SVID may have")]
    Algorithm,
    #[error("the header names no key")]
    KeyId,
    #[error("the type is neither `JWT` nor `JOSE`")]
    Type,
}

/// A token that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'a> {
    pub algorithm: Algorithm,
    pub kid: String,
    pub claims: Object,
    /// The text that the signature is over: header and claims as they came (RFC 7515 section 5.2).
    pub signed: &'a str,
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Parses the compact serialization (RFC 7515 section 7.1). Checks no signature.
    pub fn parse(text: &'a str) -> Result<Self, JwsError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(JwsError::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(JwsError::Parts)?;
        let (header, claims) = signed.split_once('.').ok_or(JwsError::Parts)?;
        if claims.contains('.') {
            return Err(JwsError::Parts);
        }
        let header = object("header", header)?;
        let (algorithm, kid) = read_header(&header)?;
        let claims = object("claims", claims)?;
        let signature = decode(signature).ok_or(JwsError::Base64)?;
        Ok(Self { algorithm, kid, claims, signed, signature })
    }
}

fn read_header(header: &Object) -> Result<(Algorithm, String), JwsError> {
    if header.keys().any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(JwsError::HeaderParameter);
    }
    let algorithm = header.get("alg").and_then(Json::as_str).and_then(Algorithm::parse);
    let algorithm = algorithm.ok_or(JwsError::Algorithm)?;
    // The specification lets tokens be without one; then any key would have to be tried, and stock libraries refuse.
    let kid = header.get("kid").and_then(Json::as_str).filter(|kid| !kid.is_empty());
    let kid = kid.filter(|kid| kid.len() <= KID_BYTES_MAX).ok_or(JwsError::KeyId)?;
    match header.get("typ").map(Json::as_str) {
        None | Some(Some("JWT" | "JOSE")) => Ok((algorithm, kid.into())),
        Some(_) => Err(JwsError::Type),
    }
}

fn object(name: &'static str, part: &str) -> Result<Object, JwsError> {
    json::parse_object(&decode(part).ok_or(JwsError::Base64)?).map_err(|error| JwsError::Json(name, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::base64url::encode;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()), encode(b"signature"))
    }

    #[test]
    fn a_header_says_key_algorithm_and_type_and_nothing_else() {
        for good in [
            r#"{"alg":"ES256","kid":"k"}"#,
            r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#,
            r#"{"typ":"JOSE","kid":"k","alg":"PS512"}"#,
        ] {
            assert!(Token::parse(&token(good, "{}")).is_ok(), "{good}");
        }
        for (bad, why) in [
            (r#"{"alg":"ES256"}"#, "names no key"),
            (r#"{"alg":"ES256","kid":""}"#, "names no key"),
            (r#"{"alg":"ES256","kid":7}"#, "names no key"),
            (r#"{"alg":"ES256","kid":null}"#, "names no key"),
            (r#"{"kid":"k"}"#, "algorithm"),
            (r#"{"alg":"none","kid":"k"}"#, "algorithm"),
            (r#"{"alg":"None","kid":"k"}"#, "algorithm"),
            (r#"{"alg":"HS256","kid":"k"}"#, "algorithm"),
            (r#"{"alg":"EdDSA","kid":"k"}"#, "algorithm"),
            (r#"{"alg":"ES256K","kid":"k"}"#, "algorithm"),
            (r#"{"alg":"es256","kid":"k"}"#, "algorithm"),
            (r#"{"alg":["ES256"],"kid":"k"}"#, "algorithm"),
            (r#"{"alg":"ES256","kid":"k","typ":"jwt"}"#, "type"),
            (r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#, "type"),
            (r#"{"alg":"ES256","kid":"k","typ":"wit+jwt"}"#, "type"),
            (r#"{"alg":"ES256","kid":"k","typ":null}"#, "type"),
            (r#"{"alg":"ES256","kid":"k","crit":["x"]}"#, "parameter"),
            (r#"{"alg":"ES256","kid":"k","jku":"https://evil.example"}"#, "parameter"),
            (r#"{"alg":"ES256","kid":"k","jwk":{}}"#, "parameter"),
            (r#"{"alg":"ES256","kid":"k","x5c":[]}"#, "parameter"),
            (r#"{"alg":"ES256","kid":"k","b64":false}"#, "parameter"),
            (r#"{"alg":"ES256","kid":"k","alg":"none"}"#, "header is not"),
            (r#"["ES256"]"#, "header is not"),
        ] {
            let error = Token::parse(&token(bad, "{}")).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_token_has_one_text() {
        let good = token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"sub":"x"}"#);
        assert!(Token::parse(&good).is_ok());
        let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
        for bad in [
            String::new(),
            "..".into(),
            header.into(),
            format!("{header}.{claims}"),
            format!("{good}."),
            format!("{good}.{signature}"),
            format!(".{good}"),
            format!("{header}..{signature}"),
            format!("{header}.{claims}.{signature}="),
            format!("{header}.{claims}.{signature}\n"),
            format!(" {good}"),
            format!("{header}=.{claims}.{signature}"),
            format!("{header}.{claims}.+/+/"),
            // The last character holds bits that mean nothing.
            format!("{header}.{claims}.AB"),
            format!("{header}.{claims}.A"),
            format!("{header}.{}.{signature}", encode(b"[]")),
            format!("{header}.{}.{signature}", encode(b"{\"exp\":1,\"exp\":2}")),
            format!("{header}.{claims}.{}", "A".repeat(TOKEN_BYTES_MAX)),
        ] {
            assert!(Token::parse(&bad).is_err(), "{bad:.100}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text: String, header: String, claims: String) {
            drop(Token::parse(&text));
            drop(Token::parse(&token(&header, &claims)));
        }
    }
}
