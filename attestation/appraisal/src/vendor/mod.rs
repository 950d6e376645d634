//! The certificate authorities of TPM vendors, and the check of an EK certificate's chain to them.
//!
//! TCG EK Credential Profile 2.6; RFC 5280 for the path. The caller's bundle is trusted; certificates that a device
//! sends only help to build the path.

use edgewarden_names::{Reason, Refusal, UnixTime};
use rustls_pki_types::{CertificateDer, UnixTime as PkiTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Largest bundle: the collections of all vendors hold some 2000 certificates.
const BUNDLE_BYTES_MAX: usize = 16 * 1024 * 1024;
const BUNDLE_CERTIFICATES_MAX: usize = 8192;

/// Extended key usage `tcg-kp-EKCertificate`, 2.23.133.8.1, as content octets.
const EKU_EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// Roots and intermediates that EK certificates may chain to.
#[derive(Debug, Clone, Default)]
pub struct VendorRoots {
    roots: Vec<CertificateDer<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VendorRootsError {
    #[error("the vendor roots are over {BUNDLE_BYTES_MAX} bytes or {BUNDLE_CERTIFICATES_MAX} certificates")]
    TooLarge,
    #[error("the vendor roots are no PEM: block {block} cannot be read")]
    Pem { block: usize },
    #[error("block {block} of the vendor roots is a `{label}`, not a CERTIFICATE")]
    Label { block: usize, label: String },
    #[error("block {block} of the vendor roots is no X.509 version 3 certificate of an authority")]
    Certificate { block: usize },
    #[error("the vendor roots hold no self-signed certificate, so nothing would be trusted")]
    NoRoot,
}

impl VendorRoots {
    /// No vendor at all: every TPM is refused.
    pub fn none() -> Self {
        Self::default()
    }

    /// From a bundle of PEM certificates. Self-signed ones are roots, the others help to build the path.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, VendorRootsError> {
        if bundle.len() > BUNDLE_BYTES_MAX {
            return Err(VendorRootsError::TooLarge);
        }
        let mut vendors = Self::default();
        for (at, pem) in Pem::iter_from_buffer(bundle).enumerate() {
            let block = at + 1;
            if block > BUNDLE_CERTIFICATES_MAX {
                return Err(VendorRootsError::TooLarge);
            }
            let pem = pem.map_err(|_| VendorRootsError::Pem { block })?;
            if pem.label != "CERTIFICATE" {
                return Err(VendorRootsError::Label { block, label: pem.label.chars().take(40).collect() });
            }
            let bad = || VendorRootsError::Certificate { block };
            let (rest, parsed) = X509Certificate::from_der(&pem.contents).map_err(|_| bad())?;
            if !rest.is_empty() || !parsed.is_ca() {
                return Err(bad());
            }
            let self_signed = parsed.subject() == parsed.issuer();
            let certificate = CertificateDer::from(pem.contents.clone());
            anchor_from_trusted_cert(&certificate).map_err(|_| bad())?;
            if self_signed {
                vendors.roots.push(certificate);
            } else {
                vendors.intermediates.push(certificate);
            }
        }
        if vendors.roots.is_empty() { Err(VendorRootsError::NoRoot) } else { Ok(vendors) }
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Checks that `leaf` is an EK certificate that chains to one of the roots at `now`.
    pub(crate) fn verify(&self, leaf: &[u8], sent: &[&[u8]], now: UnixTime) -> Result<(), Refusal> {
        let untrusted = |rule: String| Refusal::new(Reason::AttestEkUntrusted, "EK certificate", rule);
        if self.roots.is_empty() {
            return Err(untrusted("no TPM vendor is trusted".to_owned()));
        }
        let leaf = CertificateDer::from(leaf);
        let end_entity = EndEntityCert::try_from(&leaf)
            .map_err(|error| untrusted(format!("the certificate cannot be read: {error}")))?;
        let anchors: Vec<_> =
            self.roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
        let sent = sent.iter().map(|der| CertificateDer::from(*der));
        let intermediates: Vec<_> = sent.chain(self.intermediates.iter().cloned()).collect();
        end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                PkiTime::since_unix_epoch(std::time::Duration::from_secs(now.0)),
                // Vendors' intermediates carry no EKU, so `required` would refuse the path. The leaf's own EKU is
                // required by `ek::Certificate::parse`.
                KeyUsage::required_if_present(EKU_EK_CERTIFICATE),
                None,
                None,
            )
            .map_err(|error| untrusted(format!("no path to a trusted vendor: {error}")))?;
        Ok(())
    }
}
