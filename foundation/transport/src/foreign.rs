//! TLS to the bundle endpoints of other trust domains (SPIFFE Federation, section 5.2). TLS 1.3 only, without a
//! certificate of ours: an endpoint must not ask for one (sections 5.2.1.3, 5.2.2.3).
//!
//! `https_web`: the host name, under CAs that are named; never under the system's. `https_spiffe`: an X.509-SVID with
//! exactly the ID that is expected, under the authorities that are held of its trust domain ([`edgewarden_svid::foreign`]);
//! the host name does not count.

use std::fmt;
use std::sync::Arc;

use edgewarden_names::SpiffeId;
use edgewarden_svid::{anchors, foreign};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{self, CertificateDer, PrivatePkcs8KeyDer, ServerName, TrustAnchor};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::identity::Identity;
use crate::provider::provider;
use crate::tls::{CurrentCertificate, TlsError};

/// A client of an `https_web` endpoint under these CAs (DER).
pub fn web_client_config<C: AsRef<[u8]>>(authorities: &[C]) -> Result<ClientConfig, TlsError> {
    let roots = RootCertStore { roots: anchors(authorities)? };
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(fresh(config))
}

/// A client of the `https_spiffe` endpoint `id` under these authorities (DER) of its trust domain.
pub fn spiffe_client_config<C: AsRef<[u8]>>(
    id: SpiffeId,
    authorities: &[C],
) -> Result<ClientConfig, TlsError> {
    let algorithms = provider().signature_verification_algorithms;
    let verifier = ForeignVerifier { id, anchors: anchors(authorities)?, algorithms };
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(fresh(config))
}

/// Serves our own bundle as `https_spiffe`, with the certificate of the moment. Nobody is asked for one.
pub fn spiffe_server_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth();
    Ok(builder.with_cert_resolver(Arc::new(CurrentCertificate::new(identity.clone()))))
}

/// Serves our own bundle as `https_web`, with a certificate (DER, with its issuers) from elsewhere.
pub fn web_server_config(chain: Vec<Vec<u8>>, key_pkcs8: &[u8]) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth();
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivatePkcs8KeyDer::from(key_pkcs8.to_vec());
    Ok(builder.with_single_cert(chain, key.into())?)
}

/// A resumed session would carry an old judgement past a change of the bundle.
fn fresh(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

struct ForeignVerifier {
    id: SpiffeId,
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ForeignVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignVerifier").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ForeignVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        foreign::verify(leaf, intermediates, &self.anchors, &self.id, now)
            .map_err(|refusal| Error::from(CertificateError::Other(OtherError(Arc::new(refusal)))))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
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
