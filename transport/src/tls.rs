//! rustls configurations that use the certificate of the moment at each handshake.

use std::sync::Arc;

use edgewarden_names::{Refusal, SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::identity::Identity;

/// Judges a peer whose chain is already verified.
pub type Authorizer = Arc<dyn Fn(&SpiffeId) -> Result<(), Refusal> + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("cannot configure TLS")]
pub struct TlsError(#[from] rustls::Error);

/// A server that demands a client certificate.
pub fn server_config(identity: &Identity, authorize: Authorizer) -> Result<ServerConfig, TlsError> {
    drop((identity, authorize));
    Err(TlsError(rustls::Error::HandshakeNotComplete))
}

/// A server whose clients may come without a certificate; one that shows a bad certificate is refused.
pub fn server_config_optional_client(identity: &Identity, authorize: Authorizer) -> Result<ServerConfig, TlsError> {
    server_config(identity, authorize)
}

/// A client that shows its certificate.
pub fn client_config(identity: &Identity, authorize: Authorizer) -> Result<ClientConfig, TlsError> {
    drop((identity, authorize));
    Err(TlsError(rustls::Error::HandshakeNotComplete))
}

/// A client without a certificate that knows the trust domain's root (DER) beforehand, such as a gateway that joins.
pub fn pinned_client_config(
    root: &CertificateDer<'_>,
    domain: &TrustDomain,
    authorize: Authorizer,
) -> Result<ClientConfig, TlsError> {
    drop((root, domain, authorize));
    Err(TlsError(rustls::Error::HandshakeNotComplete))
}

/// Lets in `id` only.
pub fn only(id: SpiffeId) -> Authorizer {
    Arc::new(move |peer| {
        if *peer == id {
            Ok(())
        } else {
            Err(Refusal::new(
                edgewarden_names::Reason::PeerUnauthorized,
                peer,
                format_args!("the peer must be `{id}`"),
            ))
        }
    })
}

/// Lets in everybody of the trust domain; for callers that judge each request by [`crate::peer_id`].
pub fn anyone() -> Authorizer {
    Arc::new(|_| Ok(()))
}

/// The ID that the fleet's server must show: `spiffe://<td>/fleet`.
pub fn fleet_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::fleet(domain)
}
