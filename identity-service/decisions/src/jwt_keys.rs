//! The public halves of the keys for JWT-SVIDs whose tokens may still be valid, on disk.

use std::collections::BTreeSet;
use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_protocol::document::Document;
use edgewarden_protocol::jwt_keys::KEYS_MAX;
use edgewarden_svid::jwt::{PublicKey, SigningKey, thumbprint};
use serde::{Deserialize, Serialize};

/// The public keys that JWT-SVIDs of this gateway may be signed with, and the number of their last change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedKeys {
    sequence: u64,
    /// Oldest first.
    keys: Vec<PublishedKey>,
}

/// A public key of JWT-SVIDs, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedKey {
    pub kid: String,
    /// Uncompressed P-256 point, hexadecimal.
    point: String,
    /// The longest life of its tokens.
    token_seconds: u32,
    /// No token of it ends later.
    pub not_after: UnixTime,
}

impl PublishedKey {
    /// The public half of `key`, whose tokens live at most `token_seconds`.
    pub fn new(key: &SigningKey, not_after: UnixTime, token_seconds: u32) -> Self {
        Self { kid: key.kid().into(), point: hex::encode(key.point()), token_seconds, not_after }
    }

    /// Uncompressed point. `None` when the text is not hexadecimal.
    pub fn point(&self) -> Option<Vec<u8>> {
        hex::decode(&self.point).ok()
    }
}

impl Document for PublishedKeys {
    const FILE: &'static str = "jwt-keys.json";

    fn check(&self) -> Result<(), String> {
        if self.keys.len() > KEYS_MAX {
            return Err(format!("{} keys are over the limit of {KEYS_MAX}", self.keys.len()));
        }
        let mut seen = BTreeSet::new();
        for key in &self.keys {
            let point = key.point().ok_or_else(|| format!("the key `{}` is not hexadecimal", key.kid))?;
            if thumbprint(&point).is_none_or(|name| name != key.kid) || PublicKey::p256(point).is_none() {
                return Err(format!("`{}` does not name its key", key.kid.escape_debug()));
            }
            if !seen.insert(&key.kid) {
                return Err(format!("the key `{}` is there twice", key.kid));
            }
        }
        Ok(())
    }
}

impl PublishedKeys {
    /// The keys, oldest first.
    pub fn keys(&self) -> &[PublishedKey] {
        &self.keys
    }

    /// Number of the last change; it only rises.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// With one more key. When it is `alone`, nobody has the private halves of the others any more: each signed its last
    /// token before now. More keys than the bound, as from a process that is started over and over, lose the oldest.
    #[must_use]
    pub fn publish(&self, key: PublishedKey, alone: bool, now: UnixTime) -> Self {
        let mut next = self.without_expired(now).unwrap_or_else(|| self.clone());
        if alone {
            for old in &mut next.keys {
                let last = now.plus(Duration::from_secs(old.token_seconds.into()));
                old.not_after = old.not_after.min(last);
            }
        }
        next.keys.push(key);
        let over = next.keys.len().saturating_sub(KEYS_MAX);
        next.keys.drain(..over);
        next.changed(self, now)
    }

    /// Without the keys whose last token is over; `None` when there are none such.
    pub fn without_expired(&self, now: UnixTime) -> Option<Self> {
        if self.keys.iter().all(|key| now < key.not_after) {
            return None;
        }
        let keys = self.keys.iter().filter(|key| now < key.not_after).cloned().collect();
        Some(Self { keys, ..*self }.changed(self, now))
    }

    /// The time is in the sequence so that it goes on growing should the state be lost.
    fn changed(mut self, before: &Self, now: UnixTime) -> Self {
        self.sequence = before.sequence.saturating_add(1).max(now.0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(not_after: u64) -> PublishedKey {
        PublishedKey::new(&SigningKey::generate().unwrap(), UnixTime(not_after), 300)
    }

    #[test]
    fn keys_of_before_a_restart_stay_as_long_as_their_tokens() {
        let first = PublishedKeys::default().publish(key(100_000), true, UnixTime(1000));
        assert_eq!(first.keys[0].not_after, UnixTime(100_000));
        // In time: the other goes on signing.
        let second = first.publish(key(200_000), false, UnixTime(2000));
        assert_eq!(second.keys[0].not_after, UnixTime(100_000));
        let restarted = second.publish(key(300_000), true, UnixTime(3000));
        let ends: Vec<_> = restarted.keys.iter().map(|key| key.not_after.0).collect();
        assert_eq!(ends, [3300, 3300, 300_000]);
        assert!(first.sequence < second.sequence && second.sequence < restarted.sequence);
        assert_eq!(restarted.without_expired(UnixTime(3299)), None);
        let left = restarted.without_expired(UnixTime(3300)).unwrap();
        assert!(left.keys.len() == 1 && left.sequence > restarted.sequence);
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let mut keys = PublishedKeys::default();
        for n in 0..100 {
            keys = keys.publish(key(100_000), true, UnixTime(1000 + n));
            assert!(keys.check().is_ok());
        }
        assert_eq!(keys.keys.len(), KEYS_MAX);
    }

    #[test]
    fn a_document_with_other_keys_than_it_names_is_refused() {
        let good =
            PublishedKeys::default().publish(key(1), true, UnixTime(0)).publish(key(2), false, UnixTime(0));
        assert_eq!(good.check(), Ok(()));
        let broken = |change: fn(&mut PublishedKeys)| {
            let mut keys = good.clone();
            change(&mut keys);
            keys
        };
        for bad in [
            broken(|keys| keys.keys[0].point = keys.keys[1].point.clone()),
            broken(|keys| keys.keys[0].kid = keys.keys[1].kid.clone()),
            broken(|keys| keys.keys[1] = keys.keys[0].clone()),
            broken(|keys| keys.keys[0].point.truncate(10)),
            broken(|keys| keys.keys[0].point.push('x')),
            broken(|keys| keys.keys = vec![keys.keys[0].clone(); KEYS_MAX + 1]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
