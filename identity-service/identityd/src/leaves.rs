//! One-time tokens by which leaf devices enrol.
//!
//! A token is 256 random bits, told once and kept as its SHA-256: who reads the state folder learns no token.
//! One per leaf; a new one replaces the old; the first right use spends it, on disk before the certificate goes out.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_protocol::deployment::LEAVES_MAX;
use serde::{Deserialize, Serialize};

use crate::state::Document;

/// Longest life of a token: a week, for a technician who travels.
pub const TOKEN_LIFETIME_SECONDS_MAX: u32 = 7 * 86400;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafTokens {
    tokens: BTreeMap<LeafName, TokenHash>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHash {
    sha256: String,
    expires: UnixTime,
}

impl Document for LeafTokens {
    const FILE: &'static str = "leaf-tokens.json";

    fn check(&self) -> Result<(), String> {
        if self.tokens.len() > LEAVES_MAX {
            return Err(format!("{} tokens are over the limit of {LEAVES_MAX}", self.tokens.len()));
        }
        Ok(())
    }
}

fn hash(token: &str) -> String {
    hex::encode(digest(&SHA256, token.as_bytes()))
}

impl LeafTokens {
    /// Returns the tokens with one more, the token itself and its end.
    pub fn allow(
        &self,
        leaf: &LeafName,
        lifetime_seconds: u32,
        random: &[u8; 32],
        now: UnixTime,
    ) -> Result<(Self, String, UnixTime), Refusal> {
        if !(1..=TOKEN_LIFETIME_SECONDS_MAX).contains(&lifetime_seconds) {
            let rule = format!("a token lives 1 to {TOKEN_LIFETIME_SECONDS_MAX} seconds");
            return Err(Refusal::new(Reason::RequestInvalid, leaf, rule));
        }
        let mut next = self.clone();
        next.tokens.retain(|_, token| token.expires > now);
        if next.tokens.len() >= LEAVES_MAX && !next.tokens.contains_key(leaf) {
            return Err(Refusal::new(Reason::Busy, leaf, "too many leaf tokens are unused"));
        }
        let token = hex::encode(random);
        let expires = now.plus(Duration::from_secs(lifetime_seconds.into()));
        next.tokens.insert(leaf.clone(), TokenHash { sha256: hash(&token), expires });
        Ok((next, token, expires))
    }

    /// The tokens without the one that was just used. Which of "unknown", "wrong" and "expired" it was, the peer does
    /// not learn. A wrong guess leaves the token alone: it would else let anyone lock a leaf out.
    pub fn spend(&self, leaf: &LeafName, token: &str, now: UnixTime) -> Result<Self, Refusal> {
        let wrong = || Refusal::new(Reason::LeafToken, leaf, "the token is unknown, used or expired");
        let kept = self.tokens.get(leaf).filter(|kept| kept.expires > now).ok_or_else(wrong)?;
        verify_slices_are_equal(kept.sha256.as_bytes(), hash(token).as_bytes()).map_err(|_| wrong())?;
        let mut next = self.clone();
        next.tokens.remove(leaf);
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_enrols_its_leaf_once_and_in_time() {
        let leaf = LeafName::parse("sensor-1").unwrap();
        let other = LeafName::parse("sensor-2").unwrap();
        let now = UnixTime(1000);
        let (tokens, token, expires) = LeafTokens::default().allow(&leaf, 60, &[0xa7; 32], now).unwrap();
        assert_eq!(expires, UnixTime(1060));
        assert!(!serde_json::to_string(&tokens).unwrap().contains(&token), "the token is not kept");

        let spent = tokens.spend(&leaf, &token, UnixTime(1059)).unwrap();
        let (replaced, second, _) = tokens.allow(&leaf, 60, &[8; 32], now).unwrap();
        for (name, tokens, leaf, token, now) in [
            ("used", &spent, &leaf, token.as_str(), 1059),
            ("expired", &tokens, &leaf, &token, 1060),
            ("another leaf's", &tokens, &other, &token, 1000),
            ("wrong", &tokens, &leaf, "guess", 1000),
            ("empty", &tokens, &leaf, "", 1000),
            ("upper case", &tokens, &leaf, &token.to_uppercase(), 1000),
            ("replaced", &replaced, &leaf, &token, 1000),
        ] {
            let refusal = tokens.spend(leaf, token, UnixTime(now)).unwrap_err();
            assert_eq!(refusal.reason, Reason::LeafToken, "{name}");
        }
        replaced.spend(&leaf, &second, now).unwrap();
        for lifetime in [0, TOKEN_LIFETIME_SECONDS_MAX + 1] {
            let refusal = tokens.allow(&leaf, lifetime, &[7; 32], now).unwrap_err();
            assert_eq!(refusal.reason, Reason::RequestInvalid);
        }
    }

    #[test]
    fn unused_tokens_have_a_limit_and_expired_ones_make_room() {
        let mut tokens = LeafTokens::default();
        for n in 0..LEAVES_MAX {
            let leaf = LeafName::parse(&format!("leaf-{n}")).unwrap();
            tokens.tokens.insert(leaf, TokenHash { sha256: String::new(), expires: UnixTime(100) });
        }
        let one_more = LeafName::parse("one-more").unwrap();
        assert_eq!(tokens.allow(&one_more, 60, &[0; 32], UnixTime(99)).unwrap_err().reason, Reason::Busy);
        let (tokens, ..) = tokens.allow(&one_more, 60, &[0; 32], UnixTime(100)).unwrap();
        assert_eq!(tokens.tokens.len(), 1);
    }
}
