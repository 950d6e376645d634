//! [`edgewarden_svid::peer::verify`] as rustls wants to call it.

use std::fmt;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, SpiffeId};
use edgewarden_svid::Roots;
use edgewarden_svid::peer::{self, Usage};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use crate::identity::Identity;
use crate::provider::provider;

/// Judges a peer whose chain is already verified.
pub type Authorizer = Arc<dyn Fn(&SpiffeId) -> Result<(), Refusal> + Send + Sync>;

/// Roots that are believed: an identity's, as they change, or fixed ones.
pub(crate) enum Trust {
    Followed(Identity),
    Pinned(Arc<Roots>),
}

pub(crate) struct PeerVerifier {
    trust: Trust,
    authorize: Authorizer,
    /// `true` when a client must show a certificate.
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(crate) fn new(trust: Trust, authorize: Authorizer, mandatory: bool) -> Self {
        Self { trust, authorize, mandatory, algorithms: provider().signature_verification_algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let judge = |roots: &Roots| {
            let id = peer::verify(leaf, intermediates, roots, usage, now)?;
            (self.authorize)(&id)
        };
        let judged = match &self.trust {
            Trust::Pinned(roots) => judge(roots),
            Trust::Followed(identity) => match identity.current() {
                Some(held) => judge(&held.roots),
                None => Err(Refusal::new(
                    Reason::IdentityUnavailable,
                    "peer",
                    "we know no root to judge it by yet",
                )),
            },
        };
        judged.map_err(|refusal| {
            tracing::debug!(%refusal, "TLS peer refused");
            CertificateError::Other(OtherError(Arc::new(refusal))).into()
        })
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

fn only_tls13() -> Error {
    Error::General("TLS 1.3 only".into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, Usage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client has one identity; hints would only tell strangers whom we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
