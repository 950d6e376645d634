//! The Explicit Trust Anchor database (RFC 7030 section 1.1): the site's root certificates, from a file that the
//! operator gave. It never grows by what a server says.

use edgewarden_ca::CERTIFICATE_BYTES_MAX;
use edgewarden_names::{Reason, Refusal, pem};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use crate::certificate::{Certificate, Malformed};

pub const ANCHORS_MAX: usize = 16;
/// Largest file of them.
pub const ANCHORS_BYTES_MAX: usize = 256 * 1024;

/// Certificates that chains end at. There is at least one.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
}

impl TrustAnchors {
    /// Of DER certificates of CAs. As RFC 5280 section 6.1.1 has it, an anchor is believed because it was given: its
    /// own dates and signature are not looked at.
    pub fn new(certificates: &[Vec<u8>]) -> Result<Self, Refusal> {
        let refuse = |rule: &str| Refusal::new(Reason::EstConfig, "trust anchors", rule);
        if certificates.is_empty() || certificates.len() > ANCHORS_MAX {
            return Err(refuse("there are 1 to 16 trust anchors"));
        }
        let mut read = Self { certificates: Vec::new(), anchors: Vec::new() };
        for der in certificates {
            if der.len() > CERTIFICATE_BYTES_MAX {
                return Err(refuse("a certificate is too long"));
            }
            let certificate = Certificate::parse(der).map_err(|Malformed(rule)| refuse(rule))?;
            if !certificate.is_ca {
                return Err(refuse("a certificate is not a CA's"));
            }
            let der = CertificateDer::from(der.as_slice());
            let anchor =
                anchor_from_trusted_cert(&der).map_err(|_| refuse("a certificate cannot be an anchor"))?;
            read.anchors.push(anchor.to_owned());
            read.certificates.push(certificate);
        }
        Ok(read)
    }

    /// Of the text of a PEM file.
    pub fn parse(file: &[u8]) -> Result<Self, Refusal> {
        let refuse = |rule: String| Refusal::new(Reason::EstConfig, "trust anchors", rule);
        let text = std::str::from_utf8(file).map_err(|_| refuse("the file is not PEM".into()))?;
        let certificates = pem::all(text, pem::CERTIFICATE).map_err(|error| refuse(error.to_string()))?;
        Self::new(&certificates)
    }

    /// DER, in the order in which they were given.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(|certificate| certificate.der.as_slice())
    }

    /// As a path builder takes them.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}
