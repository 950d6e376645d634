//! An identity (X.509-SVID with its key) and the bundles that others are checked with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::jwt::JwtKeys;

/// One identity, complete: what a module needs to prove who it is and to check others.
pub struct X509Context {
    pub id: SpiffeId,
    /// DER, the leaf first, then its issuers without the root. Empty, with the key, when the module's key stays in the
    /// keystore: such a module gets roots here, and its certificate by `edgewarden.keys.v1`.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 DER, unencrypted (the specification demands it so).
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The trust domain's roots, DER. Never empty.
    pub bundle_der: Vec<Vec<u8>>,
    pub trust_domain: TrustDomain,
}

impl X509Context {
    /// The same without certificate and key.
    #[must_use]
    pub fn without_key(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain_der: Vec::new(),
            key_pkcs8: Zeroizing::default(),
            bundle_der: self.bundle_der.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }

    /// Refuses what has no key to give, because the module's key stays in the keystore.
    pub fn check_key(&self) -> Result<(), Refusal> {
        if !self.key_pkcs8.is_empty() {
            return Ok(());
        }
        let rule = "the deployment wants this module's key in the keystore; Certify of edgewarden.keys.v1 is the way to its certificate";
        Err(Refusal::new(Reason::IdentityResidentKey, &self.id, rule))
    }
}

impl fmt::Debug for X509Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Context").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Bundles of trust domains, beside the roots of [`X509Context`]. Never one trust domain's for another's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    /// JWT keys, our own trust domain's too.
    pub jwt: Arc<BTreeMap<TrustDomain, Arc<JwtKeys>>>,
    /// Roots of other trust domains, DER.
    pub foreign_x509: Arc<BTreeMap<TrustDomain, Vec<Vec<u8>>>>,
}

/// A JWT-SVID: who holds it is taken for its subject, until it expires.
pub struct JwtSvid {
    pub id: SpiffeId,
    /// JWS compact serialization.
    pub token: Zeroizing<String>,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("id", &self.id).finish_non_exhaustive()
    }
}
