//! Check that a certificate is the gateway CA's of one gateway, for who has nothing but the fleet's root.
//!
//! Trusts the root that the caller pins. Distrusts the certificate. The gateway CA's key also signs statements of its
//! gateway; their readers come here for the key.

use edgewarden_names::{GatewayName, TrustDomain, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::{CERTIFICATE_BYTES_MAX, CaError, chain};

/// The P-256 point of the gateway CA's key, when the root signed the certificate for this gateway and it is valid now.
pub fn point(
    der: &[u8],
    root_der: &[u8],
    domain: &TrustDomain,
    gateway: &GatewayName,
    now: UnixTime,
) -> Result<Vec<u8>, CaError> {
    let facts = chain::facts(der)?;
    check_signature(der, root_der)?;
    if !facts.is_ca || facts.path_length != Some(1) {
        return Err(CaError::Certificate("not a gateway CA's"));
    }
    if facts.common_name.as_deref() != Some(gateway.as_str()) {
        return Err(CaError::Certificate("it is another gateway's"));
    }
    if facts.uris != [domain.id().as_str()] {
        return Err(CaError::Certificate("it is of another trust domain"));
    }
    if now >= facts.not_after {
        return Err(CaError::IssuerExpired { not_after: facts.not_after, now });
    }
    if now < facts.not_before {
        return Err(CaError::IssuerNotYetValid { not_before: facts.not_before, now });
    }
    Ok(facts.point)
}

fn check_signature(der: &[u8], root_der: &[u8]) -> Result<(), CaError> {
    let parse =
        |der| X509Certificate::from_der(der).map_err(|_| CaError::Certificate("not a DER certificate"));
    if root_der.len() > CERTIFICATE_BYTES_MAX {
        return Err(CaError::Certificate("the root's is too long"));
    }
    let ((_, certificate), (_, root)) = (parse(der)?, parse(root_der)?);
    let signed = certificate.issuer().as_raw() == root.subject().as_raw()
        && certificate.verify_signature(Some(root.public_key())).is_ok();
    if signed { Ok(()) } else { Err(CaError::Certificate("the fleet's root did not sign it")) }
}
