//! Trust anchors of a trust domain, and the signatures that count beneath them.

use edgewarden_names::TrustDomain;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor};
use webpki::aws_lc_rs as algorithms;

use crate::certificate::is_of_site;

/// Signature algorithms of certificates that are believed: those that rustls with aws-lc-rs knows, so that a chain that
/// is judged here is judged as in a handshake.
pub const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    algorithms::ML_DSA_44,
    algorithms::ML_DSA_65,
    algorithms::ML_DSA_87,
];

/// A root certificate that is no trust anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct RootError(#[from] webpki::Error);

/// Roots of one trust domain, as trust anchors.
#[derive(Debug, Clone)]
pub struct Roots {
    pub(crate) domain: TrustDomain,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// Of each anchor, whether it is a site's own CA: one without a URI SAN, which knows nothing of SPIFFE.
    of_site: Vec<bool>,
}

impl Roots {
    /// Roots of `domain`, DER.
    pub fn new<C: AsRef<[u8]>>(domain: TrustDomain, certificates: &[C]) -> Result<Self, RootError> {
        let of_site = certificates.iter().map(|der| is_of_site(&CertificateDer::from(der.as_ref())));
        Ok(Self { domain, of_site: of_site.collect(), anchors: anchors(certificates)? })
    }

    /// `true` when a path that ends at this anchor is a site's.
    pub(crate) fn is_of_site(&self, anchor: &TrustAnchor<'_>) -> bool {
        self.anchors.iter().zip(&self.of_site).any(|(known, of_site)| *of_site && known == anchor)
    }
}

/// The trust anchors that these certificates (DER) stand for. One that cannot be used refuses all.
pub fn anchors<C: AsRef<[u8]>>(certificates: &[C]) -> Result<Vec<TrustAnchor<'static>>, RootError> {
    let anchor = |der: &C| {
        let der = CertificateDer::from(der.as_ref());
        Ok(webpki::anchor_from_trusted_cert(&der)?.to_owned())
    };
    certificates.iter().map(anchor).collect()
}
