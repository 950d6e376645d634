//! One-time tokens by which leaf devices enrol.
//!
//! A token is 256 random bits, told once and kept as its SHA-256: who reads the state folder learns no token.
//! One per leaf; a new one replaces the old; the first right use spends it, on disk before the certificate goes out.
//!
//! Tokens end with the boot of the machine in which they were made, and when an older copy of them is put back: it would
//! bring used ones back, and nothing on the disk can tell that.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_protocol::deployment::LEAVES_MAX;
use edgewarden_protocol::document::Document;
use edgewarden_protocol::token::LeafToken;
use serde::{Deserialize, Serialize};

/// Longest life of a token: a week, for a technician who travels.
pub const TOKEN_LIFETIME_SECONDS_MAX: u32 = 7 * 86400;

/// One-time tokens of leaf devices, by their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafTokens {
    /// The kernel's name of the boot in which they were made.
    boot: String,
    /// Number of changes in that boot.
    changes: u64,
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
    /// Those that count in this boot, of which `known` changes are known (`identityd`'s `leaf_mark`), and whose were lost.
    pub fn of_run(&self, boot: &str, known: Option<u64>, now: UnixTime) -> (Self, Vec<LeafName>) {
        let same_boot = self.boot == boot;
        if same_boot && known.is_some_and(|known| self.changes >= known) {
            return (self.clone(), Vec::new());
        }
        let unused = self.tokens.iter().filter(|(_, token)| token.expires > now);
        let lost = unused.map(|(leaf, _)| leaf.clone()).collect();
        let changes = known.unwrap_or(0).max(if same_boot { self.changes } else { 0 });
        (Self { boot: boot.into(), changes, tokens: BTreeMap::new() }, lost)
    }

    /// Number of changes in this boot.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns the tokens with one more, the token itself and its end.
    pub fn allow(
        &self,
        leaf: &LeafName,
        lifetime_seconds: u32,
        random: &[u8; 32],
        now: UnixTime,
    ) -> Result<(Self, LeafToken, UnixTime), Refusal> {
        if !(1..=TOKEN_LIFETIME_SECONDS_MAX).contains(&lifetime_seconds) {
            let rule = format!("a token lives 1 to {TOKEN_LIFETIME_SECONDS_MAX} seconds");
            return Err(Refusal::new(Reason::RequestInvalid, leaf, rule));
        }
        let mut next = self.changed();
        next.tokens.retain(|_, token| token.expires > now);
        if next.tokens.len() >= LEAVES_MAX && !next.tokens.contains_key(leaf) {
            return Err(Refusal::new(Reason::Busy, leaf, "too many leaf tokens are unused"));
        }
        let token = LeafToken::from(hex::encode(random));
        let expires = now.plus(Duration::from_secs(lifetime_seconds.into()));
        next.tokens.insert(leaf.clone(), TokenHash { sha256: hash(token.reveal()), expires });
        Ok((next, token, expires))
    }

    /// The tokens without the one that was just used. Which of "unknown", "wrong" and "expired" it was, the peer does
    /// not learn. A wrong guess leaves the token alone: it would else let anyone lock a leaf out.
    pub fn spend(&self, leaf: &LeafName, token: &LeafToken, now: UnixTime) -> Result<Self, Refusal> {
        let rule = "the token is unknown, used, expired, or older than the gateway's last start";
        let wrong = || Refusal::new(Reason::LeafToken, leaf, rule);
        let kept = self.tokens.get(leaf).filter(|kept| kept.expires > now).ok_or_else(wrong)?;
        verify_slices_are_equal(kept.sha256.as_bytes(), hash(token.reveal()).as_bytes())
            .map_err(|_| wrong())?;
        let mut next = self.changed();
        next.tokens.remove(leaf);
        Ok(next)
    }

    fn changed(&self) -> Self {
        Self { changes: self.changes.saturating_add(1), ..self.clone() }
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
        assert!(!serde_json::to_string(&tokens).unwrap().contains(token.reveal()), "the token is not kept");

        let spent = tokens.spend(&leaf, &token, UnixTime(1059)).unwrap();
        let (replaced, second, _) = tokens.allow(&leaf, 60, &[8; 32], now).unwrap();
        for (name, tokens, leaf, token, now) in [
            ("used", &spent, &leaf, token.reveal(), 1059),
            ("expired", &tokens, &leaf, token.reveal(), 1060),
            ("another leaf's", &tokens, &other, token.reveal(), 1000),
            ("wrong", &tokens, &leaf, "guess", 1000),
            ("empty", &tokens, &leaf, "", 1000),
            ("upper case", &tokens, &leaf, &token.reveal().to_uppercase(), 1000),
            ("replaced", &replaced, &leaf, token.reveal(), 1000),
        ] {
            let refusal = tokens.spend(leaf, &token.into(), UnixTime(now)).unwrap_err();
            assert_eq!(refusal.reason, Reason::LeafToken, "{name}");
        }
        replaced.spend(&leaf, &second, now).unwrap();
        for lifetime in [0, TOKEN_LIFETIME_SECONDS_MAX + 1] {
            let refusal = tokens.allow(&leaf, lifetime, &[7; 32], now).unwrap_err();
            assert_eq!(refusal.reason, Reason::RequestInvalid);
        }
    }

    #[test]
    fn tokens_end_with_their_boot_and_when_older_ones_are_put_back() {
        let leaf = LeafName::parse("sensor-1").unwrap();
        let now = UnixTime(1000);
        let (first, lost) = LeafTokens::default().of_run("one", None, now);
        assert!(lost.is_empty());
        let (made, token, _) = first.allow(&leaf, 60, &[7; 32], now).unwrap();
        let spent = made.spend(&leaf, &token, now).unwrap();
        // As they were written last, and when the mark was not written any more.
        for known in [0, 1] {
            let (kept, lost) = made.of_run("one", Some(known), now);
            assert!(lost.is_empty() && kept.spend(&leaf, &token, now).is_ok(), "{known}");
        }
        for (name, boot, known) in [
            ("used since", "one", Some(spent.changes())),
            ("nobody knows", "one", None),
            ("another boot", "two", None),
            ("another boot that has its own", "two", Some(1)),
        ] {
            let (kept, lost) = made.of_run(boot, known, now);
            assert_eq!(lost, std::slice::from_ref(&leaf), "{name}");
            assert!(kept.spend(&leaf, &token, now).is_err(), "{name}");
            // What is made from here on is ahead of all that was.
            let (next, token, _) = kept.allow(&leaf, 60, &[8; 32], now).unwrap();
            assert!(Some(next.changes()) > known, "{name}");
            assert!(next.of_run(boot, Some(next.changes()), now).0.spend(&leaf, &token, now).is_ok());
        }
        let expired = UnixTime(2000);
        assert!(made.of_run("two", None, expired).1.is_empty(), "an expired token is no loss");
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
