//! A message of a stream as the bytes that go out, made once for all the streams of a socket that send it.
//!
//! A module's private key is in some of these bytes: they are wiped when the last stream has sent another message, or has
//! ended. Not ours to wipe is what the HTTP/2 library copies where a client takes a message in small pieces (frames below
//! 256 bytes, and the first bytes of larger ones).

use std::sync::{Arc, Mutex, PoisonError, Weak};

use edgewarden_workload_wire::workloadapi::{JwtBundlesResponse, X509BundlesResponse, X509svidResponse};
use prost::bytes::Bytes;
use zeroize::Zeroizing;

use crate::message::{Known, Message};

/// Compressed or not, and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const HEAD_BYTES: usize = 5;

pub(super) struct Encoded {
    /// The values that the message was made of, as far as the next is compared with them.
    pub(super) known: Known,
    bytes: Zeroizing<Vec<u8>>,
}

impl Encoded {
    #[expect(
        clippy::expect_used,
        reason = "chains and bundles are bounded where they are accepted, far below the 4 GiB of a message"
    )]
    fn of<M: Message>(known: Known) -> Self {
        let message = M::of(&known);
        let length = message.encoded_len();
        // Of its last size from the start: bytes that had to move would leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD_BYTES.saturating_add(length)));
        bytes.push(0);
        bytes.extend_from_slice(&u32::try_from(length).expect("a message below 4 GiB").to_be_bytes());
        message.encode_raw(&mut *bytes);
        Self { known: M::kept(known), bytes }
    }

    pub(super) fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self)))
    }
}

struct Shared(Arc<Encoded>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// The message that the streams of one kind send now. Held by them, not by this.
#[derive(Default)]
pub(super) struct Latest(Mutex<Weak<Encoded>>);

impl Latest {
    pub(super) fn of<M: Message>(&self, known: Known) -> Arc<Encoded> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = latest.upgrade().filter(|latest| M::same(&latest.known, &known)) {
            return latest;
        }
        let made = Arc::new(Encoded::of::<M>(known));
        *latest = Arc::downgrade(&made);
        made
    }
}

/// Messages that the streams of one socket send, each encoded once.
#[derive(Default)]
pub(super) struct Sent {
    svids: Latest,
    bundles: Latest,
    jwt_bundles: Latest,
}

/// A message that has streams of its own.
pub(super) trait Streamed: Message {
    /// The one that the socket's streams of this kind send now.
    fn latest(sent: &Sent) -> &Latest;
}

impl Streamed for X509svidResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.svids
    }
}

impl Streamed for X509BundlesResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.bundles
    }
}

impl Streamed for JwtBundlesResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.jwt_bundles
    }
}

#[cfg(test)]
mod tests {
    use edgewarden_names::SpiffeId;
    use edgewarden_svid::X509Context;
    use prost::Message as _;
    use zeroize::Zeroizing;

    use super::*;

    fn known(key: &[u8]) -> Known {
        let id = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/analytics").unwrap();
        let context = X509Context {
            trust_domain: id.trust_domain(),
            id,
            chain_der: vec![b"leaf".to_vec()],
            key_pkcs8: Zeroizing::new(key.to_vec()),
            bundle_der: vec![b"root".to_vec()],
        };
        Known { context: Arc::new(context), bundles: Arc::default() }
    }

    #[test]
    fn all_streams_send_the_same_bytes_until_the_identity_changes() {
        let (latest, before) = (Latest::default(), known(b"a key"));
        let first = latest.of::<X509svidResponse>(before.clone());
        let again = latest.of::<X509svidResponse>(before.clone());
        assert!(Arc::ptr_eq(&first, &again));
        // A flag, a length of four bytes, the message.
        let bytes = first.bytes();
        assert_eq!(bytes[..5], [0, 0, 0, 0, u8::try_from(bytes.len() - 5).unwrap()]);
        let message = X509svidResponse::decode(bytes.slice(5..)).unwrap();
        assert_eq!(message, X509svidResponse::of(&before));
        assert_eq!(message.svids[0].x509_svid_key, "a key");

        let after = latest.of::<X509svidResponse>(known(b"another"));
        assert!(!Arc::ptr_eq(&first, &after));
        // A stream that is behind gets what it knows of, not what is newest.
        assert_eq!(*latest.of::<X509svidResponse>(before).bytes(), *bytes);
    }

    #[test]
    fn nothing_is_held_that_no_stream_sends() {
        let latest = Latest::default();
        let only = Arc::downgrade(&latest.of::<X509svidResponse>(known(b"a key")));
        assert!(only.upgrade().is_none());
    }

    /// While a bundle stays the same the identity changes many times.
    #[test]
    fn who_follows_a_bundle_holds_no_key() {
        let latest = Latest::default();
        let (x509, jwt) = (
            latest.of::<X509BundlesResponse>(known(b"a key")),
            Latest::default().of::<JwtBundlesResponse>(known(b"a key")),
        );
        assert!(x509.known.context.key_pkcs8.is_empty() && jwt.known.context.key_pkcs8.is_empty());
        assert!(Arc::ptr_eq(&x509, &latest.of::<X509BundlesResponse>(known(b"another"))));
    }
}
