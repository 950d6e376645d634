//! One certificate, taken apart, and how it is refused (`peer.unauthorized`). Distrusts every byte.

use edgewarden_names::{Reason, Refusal, SpiffeId};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub(crate) fn is_of_site(root: &CertificateDer<'_>) -> bool {
    parse(root).is_ok_and(|root| has_no_uri(&root))
}

/// Of a site's own, which knows nothing of SPIFFE. Malformed names are not no names.
pub(crate) fn has_no_uri(issuer: &X509Certificate<'_>) -> bool {
    let is_uri = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(_));
    issuer
        .subject_alternative_name()
        .is_ok_and(|names| names.is_none_or(|names| !names.value.general_names.iter().any(is_uri)))
}

pub(crate) fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let subject = certificate.subject();
    let names = certificate.subject_alternative_name().map_err(|error| broken(subject, &error))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).map_err(|error| broken(subject, &error)),
        _ => Err(refuse(subject, "a certificate carries exactly one URI SAN, its SPIFFE ID")),
    }
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(refuse("peer", "the certificate cannot be read")),
    }
}

pub(crate) fn no_path(id: &SpiffeId, error: &webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => {
            refuse(id, "the certificate, or one of its issuers, has expired")
        }
        webpki::Error::CertNotValidYet { .. } => {
            refuse(id, "the certificate, or one of its issuers, is not valid yet; compare the clocks")
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            refuse(id, "the certificates shown do not lead to the trust domain's root")
        }
        error => broken(id, error),
    }
}

pub(crate) fn broken(subject: impl std::fmt::Display, error: &impl std::fmt::Display) -> Refusal {
    refuse(subject, format_args!("the certificate is not acceptable: {error}"))
}

pub(crate) fn refuse(subject: impl std::fmt::Display, rule: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::PeerUnauthorized, subject, rule)
}
