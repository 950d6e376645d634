//! Our certificate and key and the roots that peers are checked with, as of now.

use std::fmt;
use std::sync::Arc;

use edgewarden_names::{Refusal, SpiffeId, UnixTime};
use edgewarden_svid::{RootError, Roots, X509Context, peer_expiry, peer_id};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::Clock;

/// An identity as it is, and as it becomes. `None`: there is none, or it has ended.
pub type Current = watch::Receiver<Option<Arc<X509Context>>>;

/// Error of an identity that never comes.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The source has ended: no certificate will come.
    #[error("the identity has ended")]
    Ended,
}

/// One certificate, read and ready to be used.
pub(crate) struct Credentials {
    pub(crate) id: SpiffeId,
    pub(crate) expires: UnixTime,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) roots: Roots,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum CredentialsError {
    #[error(transparent)]
    Certificate(#[from] Refusal),
    #[error("the certificate names `{named}`, the identity is `{told}`")]
    OtherId { named: SpiffeId, told: SpiffeId },
    #[error("the key does not fit the certificate")]
    Key(#[from] rustls::Error),
    #[error("a root certificate cannot be used")]
    Root(#[from] RootError),
}

impl Credentials {
    fn new(context: &X509Context) -> Result<Self, CredentialsError> {
        let chain: Vec<_> = context.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let id = peer_id(&chain)?;
        if id != context.id || id.trust_domain() != context.trust_domain {
            return Err(CredentialsError::OtherId { named: id, told: context.id.clone() });
        }
        let expires = peer_expiry(&chain)?;
        // Read where it is: a copy would not be wiped.
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(context.key_pkcs8.as_slice()));
        let key = CertifiedKey::new(chain, any_supported_type(&key)?);
        key.keys_match()?;
        let roots = Roots::new(context.trust_domain.clone(), &context.bundle_der)?;
        Ok(Self { id, expires, key: Arc::new(key), roots })
    }
}

/// A certificate with its key, and the roots of its trust domain, followed as they rotate. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Identity {
    held: watch::Receiver<Option<Arc<Credentials>>>,
    clock: Clock,
}

impl Identity {
    /// Follows what somebody else provides: a client of the Workload API, or who issues. Needs a tokio runtime.
    ///
    /// An identity that cannot be used is logged, and the one before it stays. When the provider is dropped, its last
    /// word stays; when it says `None`, handshakes fail from then on.
    pub fn new(mut current: Current) -> Self {
        let (latest, held) = watch::channel(None);
        // What is there already can be used at once.
        take(&mut current, &latest);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = latest.closed() => return,
                    changed = current.changed() => if changed.is_err() {
                        // Keeps the channel, and so the last word, for those who hold it.
                        return latest.closed().await;
                    },
                }
                take(&mut current, &latest);
            }
        });
        Self { held, clock: Clock::new() }
    }

    /// Judges by this clock, in every configuration made of it.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns once there is a certificate.
    pub async fn ready(&self) -> Result<(), IdentityError> {
        self.held.clone().wait_for(Option::is_some).await.map(drop).map_err(|_| IdentityError::Ended)
    }

    /// SPIFFE ID of the current certificate. `None` before [`Identity::ready`].
    pub fn id(&self) -> Option<SpiffeId> {
        self.current().map(|held| held.id.clone())
    }

    /// End of the current certificate, or of one of its issuers if that is earlier.
    pub fn expires(&self) -> Option<UnixTime> {
        self.current().map(|held| held.expires)
    }

    /// Returns when there is another certificate than when this was called.
    pub fn rotated(&self) -> impl Future<Output = Result<(), IdentityError>> + Send + use<> {
        let mut held = self.held.clone();
        held.mark_unchanged();
        async move { held.changed().await.map_err(|_| IdentityError::Ended) }
    }

    pub(crate) fn current(&self) -> Option<Arc<Credentials>> {
        self.held.borrow().clone()
    }
}

fn take(current: &mut Current, latest: &watch::Sender<Option<Arc<Credentials>>>) {
    let context = current.borrow_and_update().clone();
    match context.as_deref().map(Credentials::new) {
        None => drop(latest.send_replace(None)),
        Some(Ok(held)) => drop(latest.send_replace(Some(Arc::new(held)))),
        Some(Err(error)) => tracing::error!(%error, "an identity cannot be used; keeping the one before"),
    }
}
