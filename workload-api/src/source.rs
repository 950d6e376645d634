//! What stands behind one Workload API socket.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::jwt::{Audience, JwtKeys};
use crate::keys::KeySource;
use crate::secrets::SecretSource;

/// One identity, complete: what a module needs to prove who it is and to check others.
pub struct X509Context {
    pub id: SpiffeId,
    /// DER, the leaf first, then its issuers without the root. Empty, with the key, when the module's key stays in the
    /// keystore: such a module gets roots here, and its certificate by `edgewarden.keys.v1`.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 DER, unencrypted (the specification demands it so).
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The trust domain's roots, DER. Never empty.
    pub bundle_der: Vec<Vec<u8>>,
    pub trust_domain: TrustDomain,
}

impl X509Context {
    /// The same without certificate and key.
    pub(crate) fn without_key(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain_der: Vec::new(),
            key_pkcs8: Zeroizing::default(),
            bundle_der: self.bundle_der.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }

    /// Refuses what has no key to give, because the module's key stays in the keystore.
    pub(crate) fn check_key(&self) -> Result<(), Refusal> {
        if !self.key_pkcs8.is_empty() {
            return Ok(());
        }
        let rule = "the deployment wants this module's key in the keystore; Certify of edgewarden.keys.v1 is the way to its certificate";
        Err(Refusal::new(Reason::IdentityResidentKey, &self.id, rule))
    }
}

impl fmt::Debug for X509Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Context").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What others are checked with, beside the roots of [`X509Context`]. Never one trust domain's for another's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    /// JWT keys, our own trust domain's too.
    pub jwt: Arc<BTreeMap<TrustDomain, Arc<JwtKeys>>>,
    /// Roots of other trust domains, DER.
    pub foreign_x509: Arc<BTreeMap<TrustDomain, Vec<Vec<u8>>>>,
}

/// A JWT-SVID: who holds it is taken for its subject, until it expires.
pub struct JwtSvid {
    pub id: SpiffeId,
    /// JWS compact serialization.
    pub token: Zeroizing<String>,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the latest identity of an instance is. `None` means that the instance has ended: streams end.
pub type Current = watch::Receiver<Option<Arc<X509Context>>>;

/// The owner of one socket: one instance of one module. All methods return at once (no blocking I/O beyond `/proc`).
pub trait IdentitySource: Send + Sync + 'static {
    /// Judges the caller. Asked at each call and again before each message of a stream.
    ///
    /// `caller.*` refuses the caller (PermissionDenied); any other reason says "not now" (Unavailable).
    fn authorize(&self, caller: &PeerEvidence) -> Result<(), Refusal>;

    /// Whether who connects is one of this socket's callers, so that others cannot take the connections that are meant
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

    /// What others are checked with, now and later. When the sender is gone, the last value stays.
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
