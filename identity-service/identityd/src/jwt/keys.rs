//! Turns of the signing keys: the one that signs now, and the time when the next one is due. No clock and no disk.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_svid::jwt::SigningKey;

#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    pub token: Duration,
    /// Time for which a key signs.
    pub key: Duration,
    /// Time for which it is known before.
    pub lead: Duration,
}

/// A key, and the time in which it signs.
#[derive(Debug)]
struct DatedKey {
    key: Arc<SigningKey>,
    from: UnixTime,
    until: UnixTime,
}

#[derive(Debug)]
pub(super) struct Keys {
    lifetimes: Lifetimes,
    current: Option<DatedKey>,
    next: Option<DatedKey>,
}

/// A key that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    from: UnixTime,
    until: UnixTime,
    /// The end of the last token that it may sign.
    pub not_after: UnixTime,
    pub token_seconds: u32,
    /// There is none that signs now.
    pub alone: bool,
}

impl Keys {
    /// No keys yet.
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self { lifetimes, current: None, next: None }
    }

    /// The next key takes its turn, and a key whose time is over is forgotten.
    fn advance(&mut self, now: UnixTime) {
        // Made when another time was believed: it would sign for longer than a key may.
        self.current.take_if(|current| now.plus(self.lifetimes.lead) < current.from);
        self.next.take_if(|next| now.plus(self.lifetimes.lead.saturating_mul(2)) < next.from);
        if self.next.as_ref().is_some_and(|next| next.from <= now) {
            self.current = self.next.take();
        }
        if self.current.as_ref().is_some_and(|current| current.until <= now) {
            // Better early than nobody: it has been in the bundle for a while.
            self.current = self.next.take();
        }
        self.current.take_if(|current| current.until <= now);
    }

    /// The key that is to be made now, if one is.
    pub fn due(&mut self, now: UnixTime) -> Option<Due> {
        self.advance(now);
        let Lifetimes { token, key, lead } = self.lifetimes;
        let alone = match &self.current {
            Some(current) if self.next.is_some() || now.plus(lead) < current.until => return None,
            Some(_) => false,
            None => true,
        };
        let from = if alone { now } else { now.plus(lead) };
        let until = from.plus(key);
        let token_seconds = u32::try_from(token.as_secs()).unwrap_or(u32::MAX);
        Some(Due { from, until, not_after: until.plus(token), token_seconds, alone })
    }

    /// Takes a key that was made for `due` and published.
    pub fn put(&mut self, key: SigningKey, due: &Due) {
        let held = DatedKey { key: Arc::new(key), from: due.from, until: due.until };
        if due.alone { self.current = Some(held) } else { self.next = Some(held) }
    }

    /// The key that signs now, and the end of what it signs.
    pub fn signer(&mut self, now: UnixTime) -> Option<(Arc<SigningKey>, UnixTime)> {
        self.advance(now);
        let current = self.current.as_ref()?;
        // A clock that was set back far makes no token that begins before its key.
        let end = now.plus(self.lifetimes.token);
        Some((Arc::clone(&current.key), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_decisions::jwt_keys::{PublishedKey, PublishedKeys};

    const START: UnixTime = UnixTime(1_800_000_000);

    fn lifetimes() -> Lifetimes {
        let seconds = Duration::from_secs;
        Lifetimes { token: seconds(300), key: seconds(3600), lead: seconds(900) }
    }

    /// A week with a restart now and then: whatever is signed can be checked for as long as it lives.
    #[test]
    fn every_token_can_be_checked_until_it_expires() {
        let mut published = PublishedKeys::default();
        let mut keys = Keys::new(lifetimes());
        let mut alive: Vec<(String, UnixTime)> = Vec::new();
        let (mut kids, mut most) = (std::collections::BTreeSet::new(), 0);
        for step in 0..(7 * 24 * 60) {
            let now = START.plus(Duration::from_secs(60 * step));
            if step % 377 == 0 {
                keys = Keys::new(lifetimes());
            }
            if let Some(due) = keys.due(now) {
                let key = SigningKey::generate().unwrap();
                let public = PublishedKey::new(&key, due.not_after, due.token_seconds);
                published = published.publish(public, due.alone, now);
                keys.put(key, &due);
            }
            if let Some(left) = published.without_expired(now) {
                published = left;
            }
            let (key, end) = keys.signer(now).unwrap();
            kids.insert(key.kid().to_owned());
            alive.push((key.kid().into(), end));
            alive.retain(|(_, end)| *end > now);
            for (kid, end) in &alive {
                let held = published.keys().iter().find(|key| key.kid == *kid);
                assert!(held.is_some_and(|held| *end <= held.not_after), "step {step}");
            }
            most = most.max(published.keys().len());
        }
        assert!(kids.len() > 150 && most <= 4, "{} keys, {most} at a time", kids.len());
    }

    #[test]
    fn a_key_is_published_before_its_turn() {
        let mut keys = Keys::new(lifetimes());
        assert!(keys.signer(START).is_none());
        let first = keys.due(START).unwrap();
        assert!(first.alone && first.from == START);
        keys.put(SigningKey::generate().unwrap(), &first);
        let kid = |keys: &mut Keys, now| keys.signer(now).unwrap().0.kid().to_owned();
        let first_kid = kid(&mut keys, START);
        let after = |seconds| START.plus(Duration::from_secs(seconds));
        assert_eq!(keys.due(after(2699)), None);
        let second = keys.due(after(2700)).unwrap();
        assert!(!second.alone && second.from == after(3600));
        keys.put(SigningKey::generate().unwrap(), &second);
        assert_eq!(keys.due(after(2701)), None);
        assert_eq!(kid(&mut keys, after(3599)), first_kid);
        assert_ne!(kid(&mut keys, after(3600)), first_kid);
        // Both are over: nothing signs, and a new one is due at once.
        assert!(keys.signer(after(7200)).is_none());
        assert!(keys.due(after(7200)).unwrap().alone);
    }

    #[test]
    fn a_key_of_a_false_time_signs_no_more_when_the_truth_returns() {
        let mut keys = Keys::new(lifetimes());
        let due = keys.due(START.plus(Duration::from_secs(86_400))).unwrap();
        keys.put(SigningKey::generate().unwrap(), &due);
        assert!(keys.signer(START).is_none());
        let again = keys.due(START).unwrap();
        assert!(again.alone && again.until == START.plus(Duration::from_secs(3600)));
    }
}
