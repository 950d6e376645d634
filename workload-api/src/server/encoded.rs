//! A message of a stream as the bytes that go out, made once for all the streams of a socket that send it.
//!
//! A module's private key is in some of these bytes: they are wiped when the last stream has sent another message, or has
//! ended. Not ours to wipe is what the HTTP/2 library copies where a client takes a message in small pieces (frames below
//! 256 bytes, and the first bytes of larger ones).

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prost::bytes::Bytes;
use zeroize::Zeroizing;

use super::stream::{Known, Message};

/// Compressed or not, and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const HEAD_BYTES: usize = 5;

pub(super) struct Encoded {
    /// What the message was made of, as far as the next is compared with it.
    pub(super) known: Known,
    bytes: Zeroizing<Vec<u8>>,
}

impl Encoded {
    fn of<M: Message>(known: Known) -> Self {
        let message = M::of(&known);
        let length = message.encoded_len();
        // Of its last size from the start: bytes that had to move would leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD_BYTES.saturating_add(length)));
        bytes.push(0);
        // Chains and bundles of a gigabyte are not accepted anywhere.
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
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
