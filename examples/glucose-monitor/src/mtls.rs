//! TLS 1.3 between SPIFFE IDs (SPIFFE X.509-SVID section 5).
//!
//! Trusts the roots of the trust domain, and nothing that a host name says. A peer is let in when its chain leads to
//! a root and its one URI SAN is a SPIFFE ID that the caller allows.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use spiffe::{SpiffeId, X509Source};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// Source of our certificate of the moment, and of the roots of our peers.
pub trait Certificates: Send + Sync + fmt::Debug {
    /// Our own, if there is one.
    fn own(&self) -> Option<Arc<CertifiedKey>>;
    /// The roots that peers' chains must lead to.
    fn roots(&self) -> Vec<CertificateDer<'static>>;
}

/// Certificates from the Workload API, followed as they rotate.
#[derive(Debug)]
pub struct Workload(pub X509Source);

/// Certificates from files, as a leaf device has them. `own` is absent before it has enrolled.
#[derive(Debug)]
pub struct Fixed {
    pub own: Option<Arc<CertifiedKey>>,
    pub root: CertificateDer<'static>,
}

impl Workload {
    /// Longest life of a connection that is made now: nine tenths of what is left of the certificate.
    pub fn use_for(&self) -> Duration {
        let left = self.0.svid().ok().and_then(|svid| {
            let (_, certificate) = x509_parser::parse_x509_certificate(svid.leaf().as_bytes()).ok()?;
            Duration::try_from(certificate.validity().time_to_expiration()?).ok()
        });
        left.unwrap_or(Duration::from_secs(60)) * 9 / 10
    }
}

impl Certificates for Workload {
    fn own(&self) -> Option<Arc<CertifiedKey>> {
        let svid = self.0.svid().ok()?;
        let chain = svid.cert_chain().iter().map(|cert| cert.as_bytes().to_vec().into()).collect();
        certified_key(chain, svid.private_key().as_bytes()).ok()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        let Ok(svid) = self.0.svid() else { return Vec::new() };
        let bundle = self.0.try_bundle_for_trust_domain(svid.spiffe_id().trust_domain());
        let authorities = bundle.iter().flat_map(|bundle| bundle.authorities());
        authorities.map(|root| root.as_bytes().to_vec().into()).collect()
    }
}

impl Certificates for Fixed {
    fn own(&self) -> Option<Arc<CertifiedKey>> {
        self.own.clone()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.clone()]
    }
}

/// A chain with its key (PKCS#8).
pub fn certified_key(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<Arc<CertifiedKey>, Error> {
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)))?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// Says whether an ID is one that we want to speak with.
pub type Allow = Box<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// TLS 1.3 client with our certificate of the moment, for servers that `allow` lets in. Nothing is resumed.
pub fn client_config(certificates: Arc<dyn Certificates>, allow: Allow) -> Result<ClientConfig, Error> {
    let verifier = Verifier::new(Arc::clone(&certificates), allow);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Own(certificates)));
    // A resumed session would not look at the peer's certificate again.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// TLS 1.3 server with our certificate of the moment, for clients that `allow` lets in. Nothing is resumed.
pub fn server_config(certificates: Arc<dyn Certificates>, allow: Allow) -> Result<ServerConfig, Error> {
    let verifier = Verifier::new(Arc::clone(&certificates), allow);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Own(certificates)));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The other module of our own gateway that is called `name`.
pub fn neighbour(own: &SpiffeId, name: &str) -> Option<SpiffeId> {
    let (gateway, _) = own.path().split_once("/module/").or_else(|| own.path().split_once("/leaf/"))?;
    SpiffeId::new(format!("spiffe://{}{gateway}/module/{name}", own.trust_domain_name())).ok()
}

/// SPIFFE ID of the other end, after the handshake.
pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<SpiffeId> {
    spiffe::cert::spiffe_id_from_der(certificates?.first()?).ok()
}

/// `host:port` by the container's /etc/hosts: modules have no DNS, and need none.
pub fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let wrong = || format!("`{address}` is not `host:port`");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let hosts = std::fs::read_to_string("/etc/hosts").map_err(|error| format!("/etc/hosts: {error}"))?;
    for line in hosts.lines() {
        let mut words = line.split_once('#').map_or(line, |(entry, _)| entry).split_whitespace();
        let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
        if let Some(ip) = ip
            && words.any(|name| name == host)
        {
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err(format!("`{host}` is not in /etc/hosts"))
}

#[derive(Debug)]
struct Own(Arc<dyn Certificates>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.own()
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.own()
    }
}

struct Verifier {
    certificates: Arc<dyn Certificates>,
    allow: Allow,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(certificates: Arc<dyn Certificates>, allow: Allow) -> Self {
        Self { certificates, allow, provider: Arc::new(default_provider()) }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let roots = self.certificates.roots();
        let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = EndEntityCert::try_from(end_entity).map_err(bad)?;
        certificate
            .verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, intermediates, now, usage, None, None)
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => CertificateError::Expired,
                webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
                _ => CertificateError::UnknownIssuer,
            })?;
        let id = spiffe::cert::spiffe_id_from_der(end_entity)
            .map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        if (self.allow)(&id) { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
