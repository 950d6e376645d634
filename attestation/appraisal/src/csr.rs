//! The certification request (PKCS#10, RFC 2986). It contributes its public key and nothing else.

use edgewarden_names::CSR_BYTES_MAX;
use x509_parser::prelude::{FromDer, X509CertificationRequest};
use x509_parser::public_key::PublicKey;

use crate::crypto::{is_p256_point, verify_p256};

const OID_ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// Checks that the request is signed by its own P-256 key and gives that key's uncompressed point.
pub(crate) fn verified_point(der: &[u8]) -> Result<Vec<u8>, &'static str> {
    if der.len() > CSR_BYTES_MAX {
        return Err("the request is too large");
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| "the request cannot be read")?;
    if !rest.is_empty() {
        return Err("bytes follow the request");
    }
    if csr.signature_algorithm.algorithm.to_id_string() != OID_ECDSA_SHA256 {
        return Err("the request is not signed with ECDSA and SHA-256");
    }
    let info = &csr.certification_request_info;
    let Ok(PublicKey::EC(point)) = info.subject_pki.parsed() else {
        return Err("the request's key is no ECC key");
    };
    let point = point.data();
    if !is_p256_point(point) {
        return Err("the request's key is no uncompressed point on P-256");
    }
    if !verify_p256(point, info.raw, &csr.signature_value.data) {
        return Err("the request is not signed by its own key");
    }
    Ok(point.to_vec())
}
