//! The right to use a key: given to one instance, for some operations, until a time.
//!
//! ```text
//! u8   version, 1
//! u16  operations (bits of `edgewarden_workload_wire::keys::Operations`)
//! u64  not after, seconds since 1970
//! u64  deadline, milliseconds since this identityd started
//! [32] HMAC-SHA256 over the fields: purpose, instance, key, generation, and the above
//! ```
//!
//! The key of the HMAC is born with the process and dies with it: a restart takes every capability back, and so does the
//! end of an instance, for the next one has another name. Two clocks say when it is over, so that setting the wall clock
//! back does not lengthen it.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use edgewarden_decisions::renewal::Tick;
use edgewarden_names::{KeyName, Reason, Refusal, UnixTime};
use edgewarden_workload_wire::keys::{Capability, Operation, Operations};

use super::fields::encode;
use crate::refuse::random;

const VERSION: u8 = 1;
const PURPOSE: &[u8] = b"edgewarden-key-capability-v1";
const TAG_BYTES: usize = 32;

/// Claims of a capability. Not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub operations: Operations,
    pub not_after: UnixTime,
    pub deadline: Duration,
    tag: [u8; TAG_BYTES],
}

impl Claims {
    /// Reads what a caller sent.
    pub fn parse(token: &[u8]) -> Option<Self> {
        let (&[version], rest) = token.split_first_chunk::<1>()?;
        let (operations, rest) = rest.split_first_chunk::<2>()?;
        let (not_after, rest) = rest.split_first_chunk::<8>()?;
        let (deadline, rest) = rest.split_first_chunk::<8>()?;
        let tag = <[u8; TAG_BYTES]>::try_from(rest).ok()?;
        if version != VERSION {
            return None;
        }
        Some(Self {
            operations: Operations::from_bits(u16::from_be_bytes(*operations))?,
            not_after: UnixTime(u64::from_be_bytes(*not_after)),
            deadline: Duration::from_millis(u64::from_be_bytes(*deadline)),
            tag,
        })
    }
}

/// Instance and key that a capability is bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    pub instance: &'a str,
    pub key: &'a KeyName,
    pub generation: u64,
}

impl Bound<'_> {
    fn message(&self, head: &[u8]) -> Vec<u8> {
        let generation = self.generation.to_be_bytes();
        encode(&[PURPOSE, self.instance.as_bytes(), self.key.as_str().as_bytes(), &generation, head])
    }
}

/// Makes and judges capabilities.
pub(super) struct Capabilities(hmac::Key);

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Capabilities(..)")
    }
}

fn head(operations: Operations, not_after: UnixTime, deadline: u64) -> Vec<u8> {
    let mut head = vec![VERSION];
    head.extend_from_slice(&operations.bits().to_be_bytes());
    head.extend_from_slice(&not_after.0.to_be_bytes());
    head.extend_from_slice(&deadline.to_be_bytes());
    head
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Capabilities {
    /// A new key, in memory only: capabilities end with the process.
    pub fn new() -> Result<Self, Refusal> {
        let secret = zeroize::Zeroizing::new(random()?);
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice())))
    }

    /// A capability for a key, for `lifetime` by both clocks.
    pub fn give(
        &self,
        bound: Bound<'_>,
        operations: Operations,
        lifetime: Duration,
        tick: Tick,
    ) -> Capability {
        let not_after = tick.wall.plus(lifetime);
        let deadline = milliseconds(tick.monotonic.saturating_add(lifetime));
        let mut token = head(operations, not_after, deadline);
        let tag = hmac::sign(&self.0, &bound.message(&token));
        token.extend_from_slice(tag.as_ref());
        Capability { token, not_after }
    }

    /// The tag is judged first and in constant time: what is said of operation and time afterwards is said to the one
    /// that the capability was given to.
    pub fn verify(
        &self,
        token: &[u8],
        bound: Bound<'_>,
        operation: Operation,
        tick: Tick,
    ) -> Result<(), Refusal> {
        let refuse = |rule: String| Err(Refusal::new(Reason::KeyCapability, bound.key, rule));
        let genuine = Claims::parse(token).filter(|claims| {
            let head = head(claims.operations, claims.not_after, milliseconds(claims.deadline));
            hmac::verify(&self.0, &bound.message(&head), &claims.tag).is_ok()
        });
        let Some(claims) = genuine else {
            return refuse("it is not a capability of this instance for this key".into());
        };
        if tick.wall >= claims.not_after || tick.monotonic >= claims.deadline {
            return refuse("the capability has expired".into());
        }
        if !claims.operations.contains(operation) {
            return refuse(format!("the capability is not for `{}`", operation.as_str()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Tick {
        Tick { monotonic: Duration::from_secs(seconds), wall: UnixTime(1_000_000 + seconds) }
    }

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    fn rule(outcome: Result<(), Refusal>) -> String {
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.reason, Reason::KeyCapability);
        refusal.rule
    }

    #[test]
    fn a_capability_is_for_one_instance_key_operation_and_time() {
        let capabilities = Capabilities::new().unwrap();
        let (key, other) = (name("k"), name("other"));
        let bound = Bound { instance: "alerts-1", key: &key, generation: 7 };
        let operations = Operations::of(&[Operation::Sign]);
        let given = capabilities.give(bound, operations, LIFE, at(100));
        let judge = |bound, operation, tick| capabilities.verify(&given.token, bound, operation, tick);
        assert_eq!(given.not_after, UnixTime(1_000_160));
        assert!(judge(bound, Operation::Sign, at(100)).is_ok());
        assert!(judge(bound, Operation::Sign, at(159)).is_ok());
        for (case, bound, operation, tick, said) in [
            (
                "instance",
                Bound { instance: "alerts-2", ..bound },
                Operation::Sign,
                at(100),
                "not a capability",
            ),
            (
                "module",
                Bound { instance: "analytics-1", ..bound },
                Operation::Sign,
                at(100),
                "not a capability",
            ),
            ("key", Bound { key: &other, ..bound }, Operation::Sign, at(100), "not a capability"),
            ("generation", Bound { generation: 8, ..bound }, Operation::Sign, at(100), "not a capability"),
            ("operation", bound, Operation::Certify, at(100), "not for `certify`"),
            ("time", bound, Operation::Sign, at(160), "expired"),
            // The wall clock was set back, or the other way about.
            (
                "monotonic",
                bound,
                Operation::Sign,
                Tick { monotonic: at(160).monotonic, ..at(100) },
                "expired",
            ),
            ("wall", bound, Operation::Sign, Tick { wall: at(160).wall, ..at(100) }, "expired"),
        ] {
            let said_so = rule(judge(bound, operation, tick));
            assert!(said_so.contains(said), "{case}: {said_so}");
        }
        // Another process of the same name has another key.
        let later = Capabilities::new().unwrap();
        assert!(
            rule(later.verify(&given.token, bound, Operation::Sign, at(100))).contains("not a capability")
        );
    }

    #[test]
    fn every_changed_bit_and_length_is_refused() {
        let capabilities = Capabilities::new().unwrap();
        let key = name("k");
        let bound = Bound { instance: "alerts-1", key: &key, generation: 7 };
        let operations = Operations::of(&[Operation::Sign]);
        let token = capabilities.give(bound, operations, LIFE, at(100)).token;
        for bit in 0..token.len() * 8 {
            let mut changed = token.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            for operation in Operation::ALL {
                assert!(capabilities.verify(&changed, bound, operation, at(100)).is_err(), "bit {bit}");
            }
        }
        for length in (0..token.len()).chain([token.len() + 1]) {
            let mut changed = token.clone();
            changed.resize(length, 0);
            assert!(
                capabilities.verify(&changed, bound, Operation::Sign, at(100)).is_err(),
                "{length} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_not_ours_is_no_capability(token in prop::collection::vec(any::<u8>(), 0..80)) {
            let capabilities = Capabilities::new().unwrap();
            let key = name("k");
            let bound = Bound { instance: "alerts-1", key: &key, generation: 7 };
            for operation in Operation::ALL {
                prop_assert!(capabilities.verify(&token, bound, operation, at(0)).is_err());
            }
        }
    }
}
