//! The certificates of vendors that are known, by their names.

use std::collections::HashMap;

use super::bundle::{VendorBundle, VendorBundleError, VendorCertificate};
use super::certificate::Certificate;
use super::fault::{Fault, Kind};
use super::name::Name;

/// Roots and intermediates that EK certificates may chain to.
#[derive(Debug, Clone, Default)]
pub struct VendorRoots {
    certificates: Vec<Known>,
    /// By subject: positions in `certificates`.
    roots: HashMap<Name, Vec<usize>>,
    authorities: HashMap<Name, Vec<usize>>,
}

#[derive(Debug, Clone)]
struct Known {
    der: Vec<u8>,
    subject_key: Option<Vec<u8>>,
}

impl VendorRoots {
    /// No vendor at all: every TPM is refused.
    pub fn none() -> Self {
        Self::default()
    }

    /// From a file of certificates; see [`VendorBundle::read`]. What cannot be used in it is left out.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, VendorBundleError> {
        Ok(Self::of(&VendorBundle::read(bundle)?.certificates))
    }

    /// Sorts the certificates into roots and others. One that cannot be parsed is left out.
    pub fn of(certificates: &[VendorCertificate]) -> Self {
        let mut vendors = Self::default();
        for known in certificates {
            let Ok(certificate) = Certificate::parse(&known.der) else { continue };
            let at = vendors.certificates.len();
            let subject_key = certificate.subject_key().map(<[u8]>::to_vec);
            let list = if known.is_root { &mut vendors.roots } else { &mut vendors.authorities };
            list.entry(certificate.subject).or_default().push(at);
            vendors.certificates.push(Known { der: known.der.clone(), subject_key });
        }
        vendors
    }

    /// True when no root is there, so that nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(super) fn unknown_issuer(&self, certificate: &Certificate<'_>) -> Fault {
        let why = if self.is_empty() {
            "no TPM vendor is trusted".to_owned()
        } else if certificate.is_self_issued() {
            "it is a root that is not among the trusted vendors".to_owned()
        } else {
            "no certificate of its issuer is among the trusted vendors or was sent by the TPM".to_owned()
        };
        let (called, issuer) = (certificate.called(), certificate.issuer_called());
        Fault::new(Kind::Untrusted, format!("{called} was issued by {issuer}: {why}"))
    }

    pub(super) fn anchors_of(&self, certificate: &Certificate<'_>) -> impl Iterator<Item = &[u8]> {
        self.likeliest_first(&self.roots, certificate)
    }

    pub(super) fn authorities_of(&self, certificate: &Certificate<'_>) -> impl Iterator<Item = &[u8]> {
        self.likeliest_first(&self.authorities, certificate)
    }

    /// Those of the issuer's name; first those with the key that the certificate names, last those with another
    /// (RFC 4158 section 3.5).
    fn likeliest_first(
        &self,
        list: &HashMap<Name, Vec<usize>>,
        certificate: &Certificate<'_>,
    ) -> impl Iterator<Item = &[u8]> {
        let wanted = certificate.authority_key();
        let named = list.get(&certificate.issuer).into_iter().flatten();
        let mut found: Vec<&Known> = named.filter_map(|&at| self.certificates.get(at)).collect();
        found.sort_by_key(|known| match (wanted, known.subject_key.as_deref()) {
            (Some(wanted), Some(key)) if wanted == key => 0,
            (None, _) | (_, None) => 1,
            _ => 2,
        });
        found.into_iter().map(|known| known.der.as_slice())
    }
}
