//! Tokens that the callers of one socket were given lately. They end with the socket.
//!
//! A token is handed out again for half of its life, so that a module that asks before each message costs one signature
//! in minutes, and two of its processes have the same token. Both the tokens and the audit log are bounded: beyond
//! [`AUDIENCES_MAX`] audience sets the oldest is forgotten, and further ones are only counted.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{SpiffeId, UnixTime};
use edgewarden_protocol::audit::{Event, KeyUse, clip};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::JwtAuthority;

/// Most sets of audiences whose tokens are kept, and whose first token is written to the audit log.
pub const AUDIENCES_MAX: usize = 64;
/// Most bytes of tokens that are kept.
const TOKENS_BYTES_MAX: usize = 128 * 1024;

pub(crate) struct Tokens {
    instance: String,
    events: mpsc::Sender<Event>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kept: HashMap<Vec<String>, Kept>,
    signed: u64,
    reused: u64,
    /// Hashes of the audience sets that are in the audit log.
    told: BTreeSet<Vec<u8>>,
    told_all: bool,
}

struct Kept {
    token: Zeroizing<String>,
    made: UnixTime,
    reuse_until: UnixTime,
    /// Its place in the order of making.
    number: u64,
}

impl Inner {
    fn bytes(&self) -> usize {
        self.kept
            .iter()
            .map(|(asked, kept)| kept.token.len() + asked.iter().map(String::len).sum::<usize>())
            .sum()
    }

    fn forget_oldest(&mut self) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.number).map(|(asked, _)| asked.clone());
        if let Some(oldest) = oldest {
            self.kept.remove(&oldest);
        }
    }

    /// `Some` when this is to be written down; `true` when it is the last that is.
    fn tell(&mut self, asked: &[String]) -> Option<bool> {
        if self.told_all {
            return None;
        }
        // The parts cannot run into each other: no audience holds a control character.
        let hash = digest(&SHA256, asked.join("\n").as_bytes()).as_ref().to_vec();
        if !self.told.insert(hash) {
            return None;
        }
        self.told_all = self.told.len() >= AUDIENCES_MAX;
        Some(self.told_all)
    }
}

impl Tokens {
    /// No tokens yet, for one socket.
    pub fn new(authority: &JwtAuthority, instance: &str) -> Self {
        Self { instance: instance.into(), events: authority.events.clone(), inner: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for these audiences that has half of its life left.
    pub fn fresh(&self, asked: &[String], now: UnixTime) -> Option<Zeroizing<String>> {
        let mut inner = self.lock();
        let kept = inner.kept.get(asked)?;
        // A clock that was set back would make it a token of the future.
        let fresh = kept.made <= now && now < kept.reuse_until;
        let token = fresh.then(|| kept.token.clone())?;
        inner.reused = inner.reused.saturating_add(1);
        Some(token)
    }

    /// Keeps a token, and returns what is to be written down about it.
    pub fn keep(
        &self,
        asked: Vec<String>,
        token: &Zeroizing<String>,
        now: UnixTime,
        expires: UnixTime,
        id: &SpiffeId,
    ) -> Option<Event> {
        let mut inner = self.lock();
        inner.signed = inner.signed.saturating_add(1);
        let told = inner.tell(&asked).map(|last| {
            let more = if last { "; further audiences are only counted" } else { "" };
            let detail = format!("{}, for {}{more}", self.instance, asked.join(" "));
            Event::new("jwt_svid.issued", id, clip(&detail)).with_key(KeyUse::Jwt)
        });
        let reuse_until = now.plus(expires.after(now) / 2);
        let kept = Kept { token: token.clone(), made: now, reuse_until, number: inner.signed };
        inner.kept.insert(asked, kept);
        while inner.kept.len() > AUDIENCES_MAX || inner.bytes() > TOKENS_BYTES_MAX {
            inner.forget_oldest();
        }
        told
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let inner = self.lock();
        if inner.signed == 0 {
            return;
        }
        let detail = format!("{} signed, {} handed out again", inner.signed, inner.reused);
        let event = Event::new("jwt_svid.counted", &self.instance, detail).with_key(KeyUse::Jwt);
        if self.events.try_send(event).is_err() {
            tracing::debug!(instance = self.instance, "the count of JWT-SVIDs was not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (Tokens, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(8);
        (Tokens { instance: "a-1".into(), events, inner: Mutex::default() }, told)
    }

    fn keep(tokens: &Tokens, audience: &str, length: usize, now: u64) -> Option<Event> {
        let id = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/a").unwrap();
        let token = Zeroizing::new(audience.repeat(length));
        tokens.keep(vec![audience.into()], &token, UnixTime(now), UnixTime(now + 300), &id)
    }

    fn fresh(tokens: &Tokens, audience: &str, now: u64) -> bool {
        tokens.fresh(&[audience.into()], UnixTime(now)).is_some()
    }

    #[test]
    fn a_token_is_handed_out_again_for_half_of_its_life() {
        let (tokens, _told) = tokens();
        assert!(!fresh(&tokens, "db", 1000));
        keep(&tokens, "db", 1, 1000);
        for (now, expected) in [(1000, true), (1149, true), (1150, false), (1300, false), (999, false)] {
            assert_eq!(fresh(&tokens, "db", now), expected, "{now}");
        }
        assert!(!fresh(&tokens, "queue", 1000));
    }

    #[test]
    fn audiences_without_end_hold_no_memory_and_fill_no_log() {
        let (tokens, mut told) = tokens();
        let mut events = Vec::new();
        for n in 0..10_000 {
            events.extend(keep(&tokens, &format!("audience-{n}"), 100, 1000));
        }
        let inner = tokens.lock();
        assert!(inner.kept.len() <= AUDIENCES_MAX && inner.bytes() <= TOKENS_BYTES_MAX);
        drop(inner);
        assert!(fresh(&tokens, "audience-9999", 1000) && !fresh(&tokens, "audience-0", 1000));
        assert_eq!(events.len(), AUDIENCES_MAX);
        assert!(events.last().unwrap().detail.contains("only counted"));
        // A few that are large are few.
        keep(&tokens, "large", 20_000, 1000);
        assert!(tokens.lock().bytes() <= TOKENS_BYTES_MAX && fresh(&tokens, "large", 1000));
        drop(tokens);
        let last = told.try_recv().unwrap();
        assert_eq!(last.kind, "jwt_svid.counted");
        assert!(last.detail.starts_with("10001 signed, 2 handed out again"), "{}", last.detail);
    }

    #[test]
    fn an_audience_is_written_down_once() {
        let (tokens, _told) = tokens();
        assert!(keep(&tokens, "db", 1, 1000).unwrap().detail.contains("a-1, for db"));
        assert!(keep(&tokens, "db", 1, 2000).is_none());
        assert!(keep(&tokens, "queue", 1, 2000).is_some());
    }
}
