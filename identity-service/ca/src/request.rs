//! PKCS#10 requests (RFC 2986).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_names::{CSR_BYTES_MAX, GatewayName, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, string::Ia5String};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::signer::RemoteKey;
use crate::{CaError, CaSigner, spki};

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

/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 section 3.2): the only algorithm.
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A BIT STRING of whole bytes, fewer than 127 of them.
fn bit_string(bytes: &[u8]) -> Result<Vec<u8>, CaError> {
    let length = u8::try_from(bytes.len() + 1).ok().filter(|length| *length < 0x80);
    let mut der = vec![0x03, length.ok_or(CaError::Request("its signature is too long"))?, 0x00];
    der.extend_from_slice(bytes);
    Ok(der)
}

/// The one thing that a request contributes: its public key, a P-256 point whose private key signed the request.
///
/// The parts outside of the signature are compared byte by byte, for the parser reads them loosely: a request has
/// one form only.
pub fn public_point(csr_der: &[u8]) -> Result<Vec<u8>, CaError> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(CaError::Request("too long"));
    }
    let (rest, request) = X509CertificationRequest::from_der(csr_der)
        .map_err(|_| CaError::Request("not a DER PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(CaError::Request("bytes after its end"));
    }
    let info = &request.certification_request_info;
    let point =
        spki::point(info.subject_pki.raw).map_err(|_| CaError::Request("its key is not a P-256 key"))?;
    let signature: &[u8] = &request.signature_value.data;
    let unsigned = [ECDSA_WITH_SHA256.as_slice(), &bit_string(signature)?].concat();
    let signed =
        csr_der.strip_suffix(unsigned.as_slice()).ok_or(CaError::Request("it is not signed by ECDSA"))?;
    if !signed.ends_with(info.raw) {
        return Err(CaError::Request("not a DER PKCS#10 request"));
    }
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point.as_slice())
        .map_err(|_| CaError::Request("its key is not a P-256 key"))?
        .verify_sig(info.raw, signature)
        .map_err(|_| CaError::Request("its signature is not by its own key"))?;
    Ok(point)
}
