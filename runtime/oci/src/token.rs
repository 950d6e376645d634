//! The answer of a server that gives tokens (distribution, "Token authentication" and its OAuth 2 form).

use std::time::Duration;

use serde::Deserialize;

use crate::secret::Secret;

/// Longest answer, with everything that is not looked at.
pub const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Longest token, so that it fits the header of any server.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The specification's word for an answer that names none, and for one that names less.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A token is asked for again after this, whatever the answer says.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// A token for a registry.
#[derive(Debug)]
pub struct TokenAnswer {
    /// Printable characters, for the header `Authorization: Bearer`.
    pub token: Secret,
    /// Time for which it may be used, a minute to an hour.
    pub lifetime: Duration,
    /// Stands in the place of the identity token that was shown.
    pub refresh: Option<Secret>,
}

/// Error of an answer that gives no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over the limit.
    #[error("it is over {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or of other types.
    #[error("it is not the JSON that it should be")]
    Json,
    /// No token, or none that a header can carry.
    #[error("it has no `token` of 1 to {TOKEN_BYTES_MAX} printable characters")]
    Token,
}

#[derive(Deserialize)]
struct Raw {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<i64>,
    refresh_token: Option<Secret>,
}

/// A token that a header can carry, whatever the bytes are.
pub fn parse(answer: &[u8]) -> Result<TokenAnswer, TokenError> {
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(TokenError::TooLong);
    }
    // The error would repeat the token.
    let raw: Raw = serde_json::from_slice(answer).map_err(|_| TokenError::Json)?;
    let token = raw.token.or(raw.access_token).filter(is_token).ok_or(TokenError::Token)?;
    let named = raw.expires_in.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let lifetime = named.unwrap_or(LIFETIME_MIN).clamp(LIFETIME_MIN, LIFETIME_MAX);
    Ok(TokenAnswer { token, lifetime, refresh: raw.refresh_token.filter(is_token) })
}

fn is_token(token: &Secret) -> bool {
    let token = token.reveal();
    matches!(token.len(), 1..=TOKEN_BYTES_MAX) && token.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_as_servers_give_them() {
        // What is not looked at is skipped without a call for each level.
        let nested = format!("{{\"token\":\"abc\",\"x\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
        for (answer, token, seconds, refresh) in [
            (r#"{"token":"abc"}"#, "abc", 60, None),
            (
                r#"{"access_token":"abc","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#,
                "abc",
                300,
                None,
            ),
            (r#"{"token":"abc","access_token":"abc","refresh_token":"def"}"#, "abc", 60, Some("def")),
            (&nested, "abc", 60, None),
            (r#"{"token":"abc","expires_in":5}"#, "abc", 60, None),
            (r#"{"token":"abc","expires_in":-1}"#, "abc", 60, None),
            (r#"{"token":"abc","expires_in":9223372036854775807}"#, "abc", 3600, None),
            (r#"{"token":"abc","expires_in":null,"scope":["x"],"refresh_token":""}"#, "abc", 60, None),
        ] {
            let read = parse(answer.as_bytes()).unwrap();
            assert_eq!(read.token.reveal(), token, "{answer}");
            assert_eq!(read.lifetime, Duration::from_secs(seconds), "{answer}");
            assert_eq!(read.refresh.as_ref().map(Secret::reveal), refresh, "{answer}");
            assert!(!format!("{read:?}").contains("abc"), "{read:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let token = |token: &str| format!("{{\"token\":{}}}", serde_json::json!(token)).into_bytes();
        for (answer, expected) in [
            (b"".to_vec(), TokenError::Json),
            (b"abc".to_vec(), TokenError::Json),
            (b"[]".to_vec(), TokenError::Json),
            (b"{}".to_vec(), TokenError::Token),
            (br#"{"token":null}"#.to_vec(), TokenError::Token),
            (br#"{"token":1}"#.to_vec(), TokenError::Json),
            (br#"{"token":"abc""#.to_vec(), TokenError::Json),
            (br#"{"token":"abc"} x"#.to_vec(), TokenError::Json),
            (br#"{"token":"abc","token":"def"}"#.to_vec(), TokenError::Json),
            (br#"{"token":"abc","expires_in":"60"}"#.to_vec(), TokenError::Json),
            (br#"{"token":"abc","expires_in":1e300}"#.to_vec(), TokenError::Json),
            (b"{\"token\":\"\xff\"}".to_vec(), TokenError::Json),
            (token(""), TokenError::Token),
            (token("a b"), TokenError::Token),
            (token("a\r\nHost: evil"), TokenError::Token),
            (token("ä"), TokenError::Token),
            (token(&"a".repeat(TOKEN_BYTES_MAX + 1)), TokenError::Token),
            (token(&"a".repeat(64 * 1024)), TokenError::TooLong),
        ] {
            assert_eq!(parse(&answer).map(drop), Err(expected), "{}", String::from_utf8_lossy(&answer));
        }
    }
}
