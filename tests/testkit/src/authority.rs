//! A certificate authority that issues whatever it is told, good or bad.

use std::sync::Arc;

use edgewarden_names::{SpiffeId, pem};
use edgewarden_svid::X509Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use zeroize::Zeroizing;

/// Contents of a CA's certificate: it may sign certificates, at any depth. Verifiers find an issuer by its name.
pub fn ca(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Contents of an X.509-SVID.
pub fn svid(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A subject's alternative name.
pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// A P-256 public key as a certificate's subject: an uncompressed SEC1 point.
#[derive(Debug)]
pub struct Point<'a>(pub &'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A CA with its own key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, DER.
    pub der: Vec<u8>,
    /// From its own certificate up, without the root.
    chain: Vec<Vec<u8>>,
    /// The certificate of the root above it, or its own.
    pub root: Vec<u8>,
}

impl Authority {
    /// A root with a P-256 key.
    pub fn root(contents: impl Into<CertificateParams>) -> Self {
        Self::root_with_key(contents, KeyPair::generate().unwrap())
    }

    /// A root with this key.
    pub fn root_with_key(contents: impl Into<CertificateParams>, key: KeyPair) -> Self {
        let params = contents.into();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), root: der.clone(), der, chain: Vec::new() }
    }

    /// Certified by `self`, whatever it is.
    #[must_use]
    pub fn beneath(&self, contents: impl Into<CertificateParams>) -> Self {
        self.beneath_with_key(contents, KeyPair::generate().unwrap())
    }

    /// The same, with this key.
    #[must_use]
    pub fn beneath_with_key(&self, contents: impl Into<CertificateParams>, key: KeyPair) -> Self {
        let params = contents.into();
        let der = self.certify(params.clone(), &key);
        let chain = self.chain_from(der.clone());
        Self { issuer: Issuer::new(params, key), der, chain, root: self.root.clone() }
    }

    /// A certificate for a new key.
    pub fn issue(&self, contents: impl Into<CertificateParams>) -> Member {
        let key = KeyPair::generate().unwrap();
        let chain = self.chain_from(self.certify(contents, &key));
        Member { chain, key: key.serialize_der(), root: self.root.clone() }
    }

    /// A certificate for this key.
    pub fn certify(&self, contents: impl Into<CertificateParams>, key: &impl PublicKeyData) -> Vec<u8> {
        contents.into().signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        pem::encode(pem::CERTIFICATE, &self.der)
    }

    /// Its own key.
    pub fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    fn chain_from(&self, der: Vec<u8>) -> Vec<Vec<u8>> {
        [vec![der], self.chain.clone()].concat()
    }
}

/// A certificate with its key, good or bad.
#[derive(Debug, Clone)]
pub struct Member {
    /// DER: its own first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub key: Vec<u8>,
    /// Certificate of the root above it, DER.
    pub root: Vec<u8>,
}

impl Member {
    /// As the Workload API gives it.
    pub fn context(&self, id: &str) -> Arc<X509Context> {
        let id = SpiffeId::parse(id).unwrap();
        Arc::new(X509Context {
            trust_domain: id.trust_domain(),
            id,
            chain_der: self.chain.clone(),
            key_pkcs8: Zeroizing::new(self.key.clone()),
            bundle_der: vec![self.root.clone()],
        })
    }
}
