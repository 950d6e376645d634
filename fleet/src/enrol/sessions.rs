//! Challenges that wait for their answer. Pure: time is an argument.
//!
//! A session is taken once, whatever comes of it, and dies after [`LIFETIME`]. Bounded in all and by source address,
//! so that one peer that only ever begins cannot keep others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal, UnixTime};

/// Longest time from a challenge to its answer.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Most open sessions in all.
pub const SESSIONS_MAX: usize = 4096;
/// Most open sessions of one source.
pub const SESSIONS_PER_SOURCE_MAX: usize = 64;

#[derive(Debug)]
struct Entry<T> {
    source: IpAddr,
    expires: UnixTime,
    content: T,
}

/// Enrolments between their two halves, by session name.
#[derive(Debug)]
pub struct Sessions<T> {
    entries: HashMap<String, Entry<T>>,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<T> Sessions<T> {
    /// Opens a session. `name` is fresh and cannot be guessed.
    pub fn open(&mut self, name: String, source: IpAddr, content: T, now: UnixTime) -> Result<(), Refusal> {
        self.entries.retain(|_, entry| entry.expires > now);
        let source = whole_network(source);
        let same = self.entries.values().filter(|entry| entry.source == source).count();
        if self.entries.len() >= SESSIONS_MAX || same >= SESSIONS_PER_SOURCE_MAX {
            return Err(Refusal::new(
                Reason::Busy,
                "enrolment",
                "too many enrolments have begun and not ended",
            ));
        }
        self.entries.insert(name, Entry { source, expires: now.plus(LIFETIME), content });
        Ok(())
    }

    /// Spends a session, whatever comes of it.
    pub fn take(&mut self, name: &str, now: UnixTime) -> Result<T, Refusal> {
        match self.entries.remove(name) {
            Some(entry) if entry.expires > now => Ok(entry.content),
            Some(_) => {
                Err(Refusal::new(Reason::AttestNonce, "session", "the challenge is older than 60 seconds"))
            }
            None => Err(Refusal::new(
                Reason::AttestNonce,
                "session",
                "the challenge is unknown or was answered before",
            )),
        }
    }
}

/// The network that a source is counted by: the /64 of an IPv6 address, for who has one address has them all (RFC 4291
/// section 2.5.4); an IPv4 address itself, also when it is mapped.
pub fn whole_network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: UnixTime = UnixTime(1_000_000);

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_session_is_good_once_and_for_a_minute() {
        let mut sessions = Sessions::default();
        for name in ["a", "b"] {
            sessions.open(name.into(), source(1), name, T0).unwrap();
        }
        assert_eq!(sessions.take("a", T0.plus(Duration::from_secs(59))), Ok("a"));
        for (name, at) in [("a", T0), ("b", T0.plus(LIFETIME)), ("b", T0), ("", T0), ("c", T0)] {
            assert_eq!(sessions.take(name, at).unwrap_err().reason, Reason::AttestNonce, "{name}");
        }
    }

    #[test]
    fn no_source_takes_all_the_room() {
        let mut sessions = Sessions::default();
        for n in 0..SESSIONS_PER_SOURCE_MAX {
            sessions.open(n.to_string(), source(1), (), T0).unwrap();
        }
        assert_eq!(sessions.open("more".into(), source(1), (), T0).unwrap_err().reason, Reason::Busy);
        sessions.open("other".into(), source(2), (), T0).unwrap();
        // Room comes back when sessions expire.
        sessions.open("later".into(), source(1), (), T0.plus(LIFETIME)).unwrap();
        let mut sessions = Sessions::default();
        for n in 0..SESSIONS_MAX {
            let source = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            sessions.open(n.to_string(), source, (), T0).unwrap();
        }
        assert_eq!(sessions.open("more".into(), source(9), (), T0).unwrap_err().reason, Reason::Busy);
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_source() {
        let a = whole_network("2001:db8::1".parse().unwrap());
        assert_eq!(a, whole_network("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(a, whole_network("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(whole_network("::ffff:192.0.2.1".parse().unwrap()), source(1));
    }
}
