//! One open stream: the identity of the moment, then each later one, for as long as the caller may have it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::encoded::{Encoded, Latest};
use super::service::{Service, status};
use super::turns::Turns;
use crate::jwt::JwtKeys;
use crate::source::{Bundles, Current, IdentitySource, X509Context};
use crate::workloadapi::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};

/// A stream's place in the socket's budget, and its owner's count of it.
pub(super) struct Open {
    source: Arc<dyn IdentitySource>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    pub(super) fn new(source: Arc<dyn IdentitySource>, permit: OwnedSemaphorePermit) -> Self {
        source.stream_opened();
        Self { source, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.source.stream_closed();
    }
}

/// What a message is made of.
#[derive(Clone)]
pub(super) struct Known {
    context: Arc<X509Context>,
    bundles: Arc<Bundles>,
}

/// The messages of a stream, encoded, then a status.
pub(super) type Updates = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// A message of a stream. Each is complete: what it does not name is withdrawn (SPIFFE Workload API, section 4.1).
pub(super) trait Message: prost::Message + Default + 'static {
    /// The one that the socket's streams of this kind send now.
    fn latest(sent: &Sent) -> &Latest;
    /// Whether both make the same message, which then is not sent again.
    fn same(before: &Known, now: &Known) -> bool;
    /// Whether there is such a message for this identity.
    fn check(_: &Known) -> Result<(), Refusal> {
        Ok(())
    }
    fn of(known: &Known) -> Self;
    /// What is kept of it to compare with the next. Not a key that the message does not hold: while a bundle stays the same
    /// the identity changes many times.
    fn kept(known: Known) -> Known {
        known.without_key()
    }
}

impl Known {
    fn without_key(self) -> Self {
        Self { context: Arc::new(self.context.without_key()), bundles: self.bundles }
    }
}

/// What the streams of one socket send.
#[derive(Default)]
pub(super) struct Sent {
    svids: Latest,
    bundles: Latest,
    jwt_bundles: Latest,
}

/// The private key, where it is.
struct KeyOf(Arc<X509Context>);

impl AsRef<[u8]> for KeyOf {
    fn as_ref(&self) -> &[u8] {
        &self.0.key_pkcs8
    }
}

impl Message for X509svidResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.svids
    }

    fn same(before: &Known, now: &Known) -> bool {
        Arc::ptr_eq(&before.context, &now.context) && before.bundles.foreign_x509 == now.bundles.foreign_x509
    }

    fn check(known: &Known) -> Result<(), Refusal> {
        known.context.check_key()
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let svid = X509svid {
            spiffe_id: context.id.to_string(),
            x509_svid: context.chain_der.concat().into(),
            x509_svid_key: Bytes::from_owner(KeyOf(Arc::clone(context))),
            bundle: context.bundle_der.concat().into(),
            hint: String::new(),
        };
        Self { svids: vec![svid], federated_bundles: foreign(context, bundles).collect(), ..Self::default() }
    }

    fn kept(known: Known) -> Known {
        known
    }
}

impl Message for X509BundlesResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.bundles
    }

    fn same(before: &Known, now: &Known) -> bool {
        before.context.trust_domain == now.context.trust_domain
            && before.context.bundle_der == now.context.bundle_der
            && before.bundles.foreign_x509 == now.bundles.foreign_x509
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let own = (context.trust_domain.id().to_string(), context.bundle_der.concat().into());
        Self { bundles: foreign(context, bundles).chain([own]).collect(), ..Self::default() }
    }
}

impl Message for JwtBundlesResponse {
    fn latest(sent: &Sent) -> &Latest {
        &sent.jwt_bundles
    }

    fn same(before: &Known, now: &Known) -> bool {
        before.context.trust_domain == now.context.trust_domain && before.bundles.jwt == now.bundles.jwt
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let mut all: HashMap<String, Bytes> = bundles
            .jwt
            .iter()
            .map(|(domain, keys)| (domain.id().to_string(), keys.to_jwks().into()))
            .collect();
        // Our own trust domain's is always there, also when it has no key.
        all.entry(context.trust_domain.id().to_string())
            .or_insert_with(|| JwtKeys::default().to_jwks().into());
        Self { bundles: all }
    }
}

/// Roots of other trust domains, by their SPIFFE IDs.
fn foreign<'a>(context: &'a X509Context, bundles: &'a Bundles) -> impl Iterator<Item = (String, Bytes)> {
    let others = bundles.foreign_x509.iter().filter(|(domain, _)| **domain != context.trust_domain);
    others.map(|(domain, roots)| (domain.id().to_string(), roots.concat().into()))
}

struct State<M> {
    open: Open,
    caller: PeerEvidence,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    current: Current,
    bundles: watch::Receiver<Arc<Bundles>>,
    stopped: watch::Receiver<()>,
    sent: Arc<Sent>,
    turns: Turns,
    last: Option<Arc<Encoded>>,
    message: PhantomData<fn() -> M>,
}

/// The first message comes at once. The stream ends with a status: PermissionDenied when the caller is gone or no
/// longer what it was, Unavailable when the instance has ended or the server stops.
pub(super) fn updates<M: Message>(
    open: Open,
    caller: PeerEvidence,
    mut current: Current,
    bundles: watch::Receiver<Arc<Bundles>>,
    stopped: watch::Receiver<()>,
    sent: Arc<Sent>,
    turns: Turns,
) -> Updates {
    current.mark_changed();
    let watched = caller.clone();
    // An error means that the process cannot be watched; what cannot be watched is not answered either.
    let caller_exited = Box::pin(async move { drop(watched.exited().await) });
    let message = PhantomData;
    let state = State::<M> {
        open,
        caller,
        caller_exited,
        current,
        bundles,
        stopped,
        sent,
        turns,
        last: None,
        message,
    };
    Box::pin(unfold(Some(state), async |state| {
        let mut state = state?;
        match state.next().await {
            Ok(message) => Some((Ok(message), Some(state))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl<M: Message> State<M> {
    async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            tokio::select! {
                biased;
                _ = self.stopped.changed() => return Err(ended("the service is stopping")),
                () = &mut self.caller_exited => {
                    let rule = "the process that opened this stream has exited";
                    return Err(status(&Refusal::new(Reason::CallerUnknown, "caller", rule)));
                }
                changed = self.current.changed() => changed.map_err(|_| ended("the instance has ended"))?,
                // Without its sender it never changes again.
                Ok(()) = self.bundles.changed() => {}
            }
            let _turn = self.turns.of_stream(&self.stopped).await?;
            let context = self.current.borrow_and_update().clone();
            let context = context.ok_or_else(|| ended("the instance has ended"))?;
            let known = Known { context, bundles: Arc::clone(&self.bundles.borrow_and_update()) };
            Service::authorize(&*self.open.source, &self.caller)?;
            M::check(&known).map_err(|refusal| status(&refusal))?;
            if self.last.as_ref().is_some_and(|last| M::same(&last.known, &known)) {
                continue;
            }
            let message = M::latest(&self.sent).of::<M>(known);
            let bytes = message.bytes();
            self.last = Some(message);
            return Ok(bytes);
        }
    }
}

pub(super) fn ended(rule: &str) -> Status {
    status(&Refusal::new(Reason::IdentityUnavailable, "stream", rule))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edgewarden_names::SpiffeId;
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
