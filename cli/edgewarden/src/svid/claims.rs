//! Reading of a JWT's own end. Nothing is verified: the token is ours, and only its renewal depends on it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edgewarden_names::UnixTime;

#[derive(serde::Deserialize)]
struct Claims {
    exp: f64,
}

/// The `exp` claim (RFC 7519 section 4.1.4).
pub fn expires(token: &str) -> Option<UnixTime> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    Some(UnixTime(claims.exp as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_or_not() {
        let token = |payload: &str| format!("x.{}.y", URL_SAFE_NO_PAD.encode(payload));
        for (payload, end) in [
            (r#"{"exp":1700000000,"sub":"x"}"#, Some(1_700_000_000)),
            (r#"{"exp":1700000000.9}"#, Some(1_700_000_000)),
            (r#"{"exp":-5}"#, Some(0)),
            (r#"{"exp":1e300}"#, Some(u64::MAX)),
            (r#"{"exp":"tomorrow"}"#, None),
            ("{}", None),
            ("no", None),
        ] {
            assert_eq!(expires(&token(payload)), end.map(UnixTime), "{payload}");
        }
        for bad in ["", "x", "x.", "x.%.y"] {
            assert_eq!(expires(bad), None, "{bad}");
        }
    }
}
