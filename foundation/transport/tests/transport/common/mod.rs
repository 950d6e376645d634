//! A trust domain of the test's own making, whose members may be wrong in any way, and handshakes between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::SpiffeId;
use edgewarden_svid::{X509Context, peer_id};
use edgewarden_transport::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

pub const DOMAIN_ID: &str = "spiffe://plant.example";
pub const MODULE: &str = "spiffe://plant.example/gateway/gw-1/module/analytics";
pub const FLEET: &str = "spiffe://plant.example/fleet";

pub use edgewarden_testkit::domain;

/// Contents of a certificate. `leaf` and `ca` make good ones for a test to spoil.
#[derive(Clone)]
pub struct Template {
    pub names: Vec<&'static str>,
    pub dns: Vec<&'static str>,
    pub uris: Vec<&'static str>,
    pub ca: IsCa,
    pub key_usages: Vec<KeyUsagePurpose>,
    pub extended: Vec<ExtendedKeyUsagePurpose>,
    /// Seconds from now.
    pub from: i64,
    pub to: i64,
}

impl Template {
    pub fn leaf(id: &'static str) -> Self {
        Self {
            names: vec![],
            dns: vec!["analytics"],
            uris: vec![id],
            ca: IsCa::ExplicitNoCa,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            from: -60,
            to: 3600,
        }
    }

    pub fn ca(name: &'static str, depth: u8) -> Self {
        Self {
            names: vec![name],
            dns: vec![],
            uris: vec![DOMAIN_ID],
            ca: IsCa::Ca(BasicConstraints::Constrained(depth)),
            key_usages: vec![KeyUsagePurpose::KeyCertSign],
            extended: vec![],
            from: -60,
            to: 24 * 3600,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (number, name) in self.names.iter().enumerate() {
            // rcgen holds one value for each type, so a second CN is written by its number.
            let kind = if number == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *name);
        }
        let uris = self.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let dns = self.dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        params.is_ca = self.ca;
        params.key_usages.clone_from(&self.key_usages);
        params.extended_key_usages.clone_from(&self.extended);
        params.not_before = OffsetDateTime::now_utc() + time::Duration::seconds(self.from);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::seconds(self.to);
        params
    }
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// From this one up, without the root.
    chain: Vec<Vec<u8>>,
    pub root: Vec<u8>,
}

impl Authority {
    pub fn root() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut template = Template::ca("plant.example", 2);
        template.ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let params = template.params();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), chain: vec![], root }
    }

    /// The root of a site's own CA, which knows nothing of SPIFFE.
    pub fn site() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut template = Template::ca("Site root", 2);
        template.ca = IsCa::Ca(BasicConstraints::Unconstrained);
        template.uris.clear();
        let params = template.params();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), chain: vec![], root }
    }

    pub fn issuer(&self, template: &Template) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = template.params();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = [vec![certificate.der().to_vec()], self.chain.clone()].concat();
        Self { issuer: Issuer::new(params, key), chain, root: self.root.clone() }
    }

    /// The issuing CA of a gateway beneath this root.
    pub fn gateway(&self, name: &'static str) -> Self {
        self.issuer(&Template::ca(name, 1)).issuer(&Template::ca("issuing", 0))
    }

    pub fn issue(&self, template: &Template) -> Member {
        let key = KeyPair::generate().unwrap();
        let certificate = template.params().signed_by(&key, &self.issuer).unwrap();
        let chain = [vec![certificate.der().to_vec()], self.chain.clone()].concat();
        Member { chain, key: key.serialize_der(), root: self.root.clone() }
    }
}

/// A certificate with its key, good or bad.
#[derive(Clone)]
pub struct Member {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
    pub root: Vec<u8>,
}

impl Member {
    pub fn context(&self, id: &str) -> Arc<X509Context> {
        Arc::new(X509Context {
            id: SpiffeId::parse(id).unwrap(),
            chain_der: self.chain.clone(),
            key_pkcs8: Zeroizing::new(self.key.clone()),
            bundle_der: vec![self.root.clone()],
            trust_domain: domain(),
        })
    }

    pub fn identity(&self, id: &str) -> Identity {
        Identity::new(watch::channel(Some(self.context(id))).1)
    }

    fn certified(&self) -> CertifiedKey {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).unwrap()
    }

    /// A client that shows this certificate whatever it is, and accepts what `config` accepts.
    pub fn as_client(&self, mut config: ClientConfig) -> ClientConfig {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(self.certified()));
        config
    }

    /// A server that shows this certificate whatever it is, and accepts every client.
    pub fn as_server(&self) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified())))
    }
}

/// Each side's word on the other, or the error that broke the handshake off.
pub struct Met {
    pub by_server: io::Result<Option<SpiffeId>>,
    pub by_client: io::Result<Option<SpiffeId>>,
}

/// A handshake and one byte each way, since a TLS 1.3 client learns only then that its certificate was refused.
pub async fn meet(server: ServerConfig, client: ClientConfig) -> Met {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(there).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        Ok(stream.get_ref().1.peer_certificates().map(|chain| peer_id(chain).unwrap()))
    };
    let client = async {
        let name = ServerName::try_from("ignored.example").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, here).await?;
        let mut byte = [7];
        stream.write_all(&byte).await?;
        stream.flush().await?;
        stream.read_exact(&mut byte).await?;
        Ok(stream.get_ref().1.peer_certificates().map(|chain| peer_id(chain).unwrap()))
    };
    let (by_server, by_client) =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(server, client) }).await.unwrap();
    Met { by_server, by_client }
}
