//! A trust domain of the test's own making, whose members may be wrong in any way, and handshakes between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::SpiffeId;
use edgewarden_svid::peer_id;
use edgewarden_testkit::authority::uri;
use edgewarden_transport::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const DOMAIN_ID: &str = "spiffe://plant.example";
pub const MODULE: &str = "spiffe://plant.example/gateway/gw-1/module/analytics";
pub const FLEET: &str = "spiffe://plant.example/fleet";

pub use edgewarden_testkit::authority::Member;
pub use edgewarden_testkit::{Authority, domain};

/// Contents of a certificate. `leaf` and `ca` make good ones for a test to spoil.
#[derive(Debug, Clone)]
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
        let uris = self.uris.iter().map(|id| uri(id));
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

impl From<&Template> for CertificateParams {
    fn from(template: &Template) -> Self {
        template.params()
    }
}

/// The root of the trust domain.
pub fn fleet_root() -> Authority {
    let mut template = Template::ca("plant.example", 2);
    template.ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Authority::root(&template)
}

/// The root of a site's own CA, which knows nothing of SPIFFE.
pub fn site_root() -> Authority {
    let mut template = Template::ca("Site root", 2);
    template.ca = IsCa::Ca(BasicConstraints::Unconstrained);
    template.uris.clear();
    Authority::root(&template)
}

/// The issuing CA of a gateway beneath this root.
pub fn issuing_ca(root: &Authority, gateway: &'static str) -> Authority {
    root.beneath(&Template::ca(gateway, 1)).beneath(&Template::ca("issuing", 0))
}

pub fn identity_of(member: &Member, id: &str) -> Identity {
    Identity::new(watch::channel(Some(member.context(id))).1)
}

fn certified(member: &Member) -> CertifiedKey {
    let chain = member.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(member.key.clone()));
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).unwrap()
}

/// A client that shows this certificate whatever it is, and accepts what `config` accepts.
pub fn client_as(member: &Member, mut config: ClientConfig) -> ClientConfig {
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified(member)));
    config
}

/// A server that shows this certificate whatever it is, and accepts every client.
pub fn server_as(member: &Member) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(member))))
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
