//! The trait behind one Workload API socket.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_svid::jwt::Audience;
use edgewarden_svid::{Bundles, JwtSvid, X509Context};
use tokio::sync::watch;

use crate::{KeySource, SecretSource};

/// The latest identity of an instance. `None` means that the instance has ended: streams end.
pub type Current = watch::Receiver<Option<Arc<X509Context>>>;

/// The owner of one socket: one instance of one module. All methods return at once (no blocking I/O beyond `/proc`).
pub trait IdentitySource: Send + Sync + 'static {
    /// Judges the caller. Asked at each call and again before each message of a stream.
    ///
    /// `caller.*` refuses the caller (PermissionDenied); any other reason says "not now" (Unavailable).
    fn authorize(&self, caller: &PeerEvidence) -> Result<(), Refusal>;

    /// `true` when `caller` is one of this socket's callers, so that others cannot take the connections that are meant
    /// for them. Decides only which budget a connection counts against: each call is judged by
    /// [`IdentitySource::authorize`].
    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        self.authorize(caller).is_ok()
    }

    /// The identity of this socket's instance, now and later. All subscribers see the same certificate.
    fn subscribe(&self) -> Result<Current, Refusal>;

    /// A JWT-SVID of this socket's instance: of the identity `id`, or of the one it has when `id` is `None`.
    fn jwt_svid(&self, _audience: &Audience, _id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        Err(Refusal::new(Reason::IdentityUnavailable, "JWT-SVID", "nobody signs JWT-SVIDs here"))
    }

    /// The bundles that others are checked with, now and later. When the sender is gone, the last value stays.
    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        watch::channel(Arc::default()).1
    }

    /// The time to judge tokens by.
    fn now(&self) -> UnixTime {
        UnixTime::now()
    }

    /// The deployment secrets of this socket's instance, if it is one that can have any.
    fn secrets(&self) -> Option<Arc<dyn SecretSource>> {
        None
    }

    /// A stream has opened. Each is followed by one [`IdentitySource::stream_closed`].
    fn stream_opened(&self) {}

    fn stream_closed(&self) {}

    /// The resident keys of this socket's instance; `None`: it has none, and the service is not offered.
    fn keys(&self) -> Option<Arc<dyn KeySource>> {
        None
    }
}
