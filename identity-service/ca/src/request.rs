//! PKCS#10 requests (RFC 2986).

use edgewarden_names::{GatewayName, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, string::Ia5String};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::signer::RemoteKey;
use crate::{CaError, CaSigner, spki};

/// Longest request that is read.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// A request for a gateway CA's certificate, signed by its key. The names in it are for people and logs: the fleet
/// takes only the key.
pub fn certificate_request(
    signer: &dyn CaSigner,
    gateway: &GatewayName,
    domain: &TrustDomain,
) -> Result<Vec<u8>, CaError> {
    let key = RemoteKey::new(signer)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, gateway.as_str());
    params.subject_alt_names =
        vec![SanType::URI(Ia5String::try_from(domain.id().as_str()).map_err(CaError::Build)?)];
    let request = params.serialize_request(&key).map_err(|error| key.explain(error))?;
    Ok(request.der().to_vec())
}

/// The one thing that a request contributes: its public key, a P-256 point whose private key signed the request.
pub fn public_point(csr_der: &[u8]) -> Result<Vec<u8>, CaError> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(CaError::Request("too long"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| CaError::Request("not a DER PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(CaError::Request("bytes after its end"));
    }
    let point = spki::point(request.certification_request_info.subject_pki.raw)
        .map_err(|_| CaError::Request("its key is not a P-256 key"))?;
    request.verify_signature().map_err(|_| CaError::Request("its signature is not by its own key"))?;
    Ok(point)
}
