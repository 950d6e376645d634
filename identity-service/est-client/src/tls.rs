//! TLS to the EST server: 1.3 only, the server told by the explicit trust anchors and its host name (RFC 7030 sections
//! 3.3.1 and 3.6.1), and our certificate with a key that may be in any keystore.

use std::fmt;
use std::sync::Arc;

use edgewarden_ca::CaSigner;
use edgewarden_est::{EnrolledChain, TrustAnchors};
use edgewarden_names::{Reason, Refusal};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

/// A key in any keystore. Its calls may block for seconds.
pub type Key = Arc<dyn CaSigner + Send + Sync>;

/// A certificate to show, and its key.
#[derive(Clone)]
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

fn refuse(rule: &str) -> Refusal {
    Refusal::new(Reason::EstConfig, "client certificate", rule)
}

impl ClientIdentity {
    /// `chain` is DER, ours first. Refused when the key is not the certificate's.
    pub fn new(chain: &[Vec<u8>], key: Key) -> Result<Self, Refusal> {
        let point = key.public_point().map_err(|_| refuse("its key cannot be used"))?;
        Self::checked(chain, Arc::new(ElsewhereKey { key, point }))
    }

    /// An identity by a chain that was enrolled.
    pub fn enrolled(chain: &EnrolledChain, key: Key) -> Result<Self, Refusal> {
        Self::new(chain.certificates(), key)
    }

    pub(crate) fn from_pkcs8(chain: &[Vec<u8>], key: &Zeroizing<Vec<u8>>) -> Result<Self, Refusal> {
        let key = PrivatePkcs8KeyDer::from(key.to_vec());
        let key = provider()
            .key_provider
            .load_private_key(key.into())
            .map_err(|_| refuse("its key is not one that TLS can use"))?;
        Self::checked(chain, key)
    }

    fn checked(chain: &[Vec<u8>], key: Arc<dyn SigningKey>) -> Result<Self, Refusal> {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| refuse("the key is not that of the certificate"))?;
        Ok(Self { chain: certified.cert, key: certified.key })
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

pub(crate) fn config(
    anchors: &TrustAnchors,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(RootCertStore { roots: anchors.anchors().to_vec() });
    let mut config = match identity {
        Some(identity) => {
            let certified = CertifiedKey::new(identity.chain.clone(), Arc::clone(&identity.key));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A P-256 key that signs elsewhere, as rustls wants to call it.
struct ElsewhereKey {
    key: Key,
    point: Vec<u8>,
}

impl fmt::Debug for ElsewhereKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ElsewhereKey(..)")
    }
}

impl SigningKey for ElsewhereKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(ElsewhereSigner(Arc::clone(&self.key))) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        edgewarden_ca::spki::der(&self.point).ok().map(Into::into)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

struct ElsewhereSigner(Key);

impl fmt::Debug for ElsewhereSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ElsewhereSigner(..)")
    }
}

impl Signer for ElsewhereSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message).map_err(|error| {
            tracing::warn!(%error, "the key of the client certificate did not sign");
            Error::General("the key did not sign".into())
        })
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
