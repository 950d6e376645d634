//! rustls configurations that use the certificate and the roots of the moment at each handshake, so that a rotation
//! needs no new configuration and breaks no connection.
//!
//! TLS 1.3 only. No resumption and no early data: a resumed session would carry an old judgement of its peer past the
//! end of a certificate or a change of policy.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use edgewarden_names::{Reason, Refusal, SpiffeId, TrustDomain};
use edgewarden_svid::{RootError, Roots};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, OtherError, ServerConfig, SignatureScheme};

use crate::identity::Identity;
use crate::log_limit::{Line, LogLimit};
use crate::provider::provider;
use crate::verifier::{PeerVerifier, Trust};

pub use crate::verifier::Authorizer;

/// Lines a minute about a certificate of ours that has expired: one says it.
const EXPIRED_LINES_MAX: u32 = 1;

/// Error of a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot configure TLS")]
    Configure(#[from] rustls::Error),
    #[error("the pinned root certificate cannot be used")]
    Root(#[from] RootError),
}

/// A server that demands a client certificate.
pub fn server_config(identity: &Identity, authorize: Authorizer) -> Result<ServerConfig, TlsError> {
    server(identity, authorize, true)
}

/// A server whose clients may come without a certificate; one that shows a bad certificate is refused.
pub fn server_config_optional_client(
    identity: &Identity,
    authorize: Authorizer,
) -> Result<ServerConfig, TlsError> {
    server(identity, authorize, false)
}

/// A client that shows its certificate.
pub fn client_config(identity: &Identity, authorize: Authorizer) -> Result<ClientConfig, TlsError> {
    let verifier = PeerVerifier::new(Trust::Followed(identity.clone()), authorize, true);
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(CurrentCertificate::new(identity.clone())));
    Ok(identity.clock().judges(harden(config)))
}

/// A client without a certificate that knows the trust domain's root (DER) beforehand: a gateway that joins, an
/// operator's command line.
pub fn pinned_client_config(
    root: &CertificateDer<'_>,
    domain: &TrustDomain,
    authorize: Authorizer,
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(Roots::new(domain.clone(), &[root])?);
    let verifier = PeerVerifier::new(Trust::Pinned(roots), authorize, true);
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(harden(config))
}

fn server(identity: &Identity, authorize: Authorizer, mandatory: bool) -> Result<ServerConfig, TlsError> {
    let verifier = PeerVerifier::new(Trust::Followed(identity.clone()), authorize, mandatory);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(CurrentCertificate::new(identity.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(identity.clock().judges_clients(config))
}

pub(crate) fn harden(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    // The peer is told by its SPIFFE ID; its host name, sent in the clear, would serve only those who listen.
    config.enable_sni = false;
    config
}

/// Lets in `id` only.
pub fn only(id: SpiffeId) -> Authorizer {
    Arc::new(move |peer| {
        if *peer == id {
            return Ok(());
        }
        Err(Refusal::new(Reason::PeerUnauthorized, peer, format_args!("the peer must be `{id}`")))
    })
}

/// Lets in everybody of the trust domain; for callers that judge each request by [`edgewarden_svid::peer_id`].
pub fn anyone() -> Authorizer {
    Arc::new(|_| Ok(()))
}

/// The ID that the fleet's server must show: `spiffe://<td>/fleet`.
pub fn fleet_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::fleet(domain)
}

/// The refusal behind a failed connection, when it was our verifier that refused.
pub fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
    let mut error = Some(error);
    while let Some(current) = error {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) =
            current.downcast_ref()
        {
            return other.downcast_ref();
        }
        // An I/O error that wraps another shows the other's source, not the other itself.
        error = match current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

/// Our own certificate of the moment. None when there is none or it has ended: then the handshake fails here, with
/// our log, rather than at the peer.
pub(crate) struct CurrentCertificate {
    identity: Identity,
    /// Whoever connects, or is connected to, brings a line otherwise.
    logged: LogLimit,
}

impl CurrentCertificate {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, logged: LogLimit::new(EXPIRED_LINES_MAX) }
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let held = self.identity.current();
        match held {
            Some(held) if self.identity.clock().now() < held.expires => Some(Arc::clone(&held.key)),
            Some(held) => {
                if let Line::Write { left_out } = self.logged.line(Instant::now()) {
                    tracing::warn!(id = %held.id, expires = %held.expires, left_out, "no handshake: our certificate has expired");
                }
                None
            }
            None => {
                tracing::debug!("no handshake: there is no certificate yet");
                None
            }
        }
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurrentCertificate").field(&self.identity.id()).finish()
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl rustls::client::ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
