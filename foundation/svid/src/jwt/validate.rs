//! Validation of a JWT-SVID (JWT-SVID section 4, RFC 7519 section 7.2).
//!
//! Never returns a subject without having checked the signature with a key of the subject's own trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{SpiffeId, TrustDomain, UnixTime};

use super::JwtKeys;
use super::json::{Json, Object};
use super::jws::{JwsError, Token};

/// Lead that the clock of who issued a token may have over ours. An end is an end: no such grace for `exp`.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// NumericDates above it are no times (and not exact in a double).
const TIME_MAX: f64 = 9_007_199_254_740_992.0;

/// The fault of a token that is not believed. Its text may be told to whoever brought the token.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error(transparent)]
    Token(#[from] JwsError),
    #[error("the claim `{0}` is missing or not what it should be")]
    Claim(&'static str),
    #[error("the token is not for this audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is of the future")]
    NotYet,
    #[error("no keys of the trust domain `{0}` are held here")]
    TrustDomain(TrustDomain),
    #[error("the key is none of the subject's trust domain, or not one that speaks for the subject")]
    Key,
    #[error("the signature is wrong")]
    Signature,
}

/// A token that was checked. Only [`validate`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    id: SpiffeId,
    claims: Object,
}

impl Validated {
    /// The subject.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// All claims. `aud` is an array, also where the token had a text.
    pub fn claims(&self) -> &Object {
        &self.claims
    }
}

/// Validates a token for one audience, at `now`, with the keys of its subject's trust domain among `keys`.
pub fn validate(
    token: &str,
    audience: &str,
    keys: &BTreeMap<TrustDomain, Arc<JwtKeys>>,
    now: UnixTime,
) -> Result<Validated, Invalid> {
    let mut token = Token::parse(token)?;
    let id = subject(&token.claims)?;
    let audiences = audiences(&token.claims)?;
    if !audiences.iter().any(|one| one == audience) {
        return Err(Invalid::Audience);
    }
    check_times(&token.claims, now)?;
    let domain = id.trust_domain();
    let Some(keys) = keys.get(&domain) else { return Err(Invalid::TrustDomain(domain)) };
    let key = keys.get(&token.kid).filter(|key| key.speaks_for(&id)).ok_or(Invalid::Key)?;
    if !token.algorithm.verifies(&key.public, token.signed.as_bytes(), &token.signature) {
        return Err(Invalid::Signature);
    }
    let audiences = audiences.into_iter().map(Json::String).collect();
    token.claims.insert("aud".into(), Json::Array(audiences));
    Ok(Validated { id, claims: token.claims })
}

/// A SPIFFE ID, written as SPIFFE IDs are written and not only one that can be read as one: `sub` is compared as a text
/// by many.
fn subject(claims: &Object) -> Result<SpiffeId, Invalid> {
    let text = claims.get("sub").and_then(Json::as_str).ok_or(Invalid::Claim("sub"))?;
    let id = SpiffeId::parse(text).map_err(|_| Invalid::Claim("sub"))?;
    if id.as_str() == text { Ok(id) } else { Err(Invalid::Claim("sub")) }
}

fn audiences(claims: &Object) -> Result<Vec<String>, Invalid> {
    let text = |value: &Json| value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let all = match claims.get("aud") {
        Some(Json::Array(all)) => all.iter().map(text).collect(),
        Some(one) => text(one).map(|one| vec![one]),
        None => None,
    };
    all.filter(|all| !all.is_empty()).ok_or(Invalid::Claim("aud"))
}

fn check_times(claims: &Object, now: UnixTime) -> Result<(), Invalid> {
    let expires = time(claims, "exp")?.ok_or(Invalid::Claim("exp"))?;
    if expires <= now {
        return Err(Invalid::Expired);
    }
    for name in ["nbf", "iat"] {
        if time(claims, name)?.is_some_and(|at| at > now.plus(CLOCK_SKEW)) {
            return Err(Invalid::NotYet);
        }
    }
    Ok(())
}

/// A NumericDate (RFC 7519 section 2), in whole seconds.
fn time(claims: &Object, name: &'static str) -> Result<Option<UnixTime>, Invalid> {
    match claims.get(name) {
        None => Ok(None),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked, and parts of a second are cut off"
        )]
        Some(Json::Number(at)) if (0.0..=TIME_MAX).contains(at) => Ok(Some(UnixTime(*at as u64))),
        Some(_) => Err(Invalid::Claim(name)),
    }
}
