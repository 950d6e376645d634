//! Facts of a certificate, read from its bytes.

use edgewarden_names::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::{CERTIFICATE_BYTES_MAX, CaError, spki};

/// The parts of a certificate that its users act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// Hexadecimal, lower case.
    pub serial: String,
    /// The subject's only one.
    pub common_name: Option<String>,
    /// URI subject alternative names, as they stand.
    pub uris: Vec<String>,
    pub is_ca: bool,
    /// `pathLenConstraint`, if any.
    pub path_length: Option<u32>,
    /// The subject's P-256 point.
    pub point: Vec<u8>,
}

/// Reads a certificate with a P-256 key. Does not check its signature: that takes the chain and a trust anchor.
pub fn facts(der: &[u8]) -> Result<Facts, CaError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(CaError::Certificate("too long"));
    }
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| CaError::Certificate("not a DER certificate"))?;
    if !rest.is_empty() {
        return Err(CaError::Certificate("bytes after its end"));
    }
    let time =
        |at: i64| u64::try_from(at).map(UnixTime).map_err(|_| CaError::Certificate("a time before 1970"));
    let validity = certificate.validity();
    let constraints =
        certificate.basic_constraints().map_err(|_| CaError::Certificate("basicConstraints is malformed"))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CaError::Certificate("subjectAltName is malformed"))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut common_names = certificate.subject().iter_common_name();
    // Of several names one reader takes the first and another the last, so none is taken.
    let common_name = common_names.next().filter(|_| common_names.next().is_none());
    Ok(Facts {
        not_before: time(validity.not_before.timestamp())?,
        not_after: time(validity.not_after.timestamp())?,
        serial: serial_text(certificate.raw_serial()),
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        uris: names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
            .collect(),
        is_ca: constraints.as_ref().is_some_and(|found| found.value.ca),
        path_length: constraints.and_then(|found| found.value.path_len_constraint),
        point: spki::point(certificate.public_key().raw)?,
    })
}

/// A serial as people write it: hexadecimal, without the byte that DER puts before a number to keep it positive.
pub(crate) fn serial_text(mut bytes: &[u8]) -> String {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    hex::encode(bytes)
}
