//! One certificate, read once into the parts that a path is judged by (RFC 5280 section 4).

use edgewarden_ca::CERTIFICATE_BYTES_MAX;
use edgewarden_names::UnixTime;
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use crate::der::{self, BIT_STRING, Reader, SEQUENCE};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<der::Malformed> for Malformed {
    fn from(der::Malformed(what): der::Malformed) -> Self {
        Self(what)
    }
}

/// Facts of a certificate by its holder's word. That they are true takes a path to an anchor.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    /// DER Names.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// DER SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) serial: String,
    pub(crate) common_name: Option<String>,
    /// Content of GeneralNames, empty without alternative names.
    pub(crate) alternatives: Vec<u8>,
    pub(crate) is_ca: bool,
    pub(crate) path_length: Option<u32>,
    /// `None`: any usage.
    pub(crate) may_sign_certificates: Option<bool>,
    pub(crate) may_sign: Option<bool>,
    pub(crate) constrains_names: bool,
    pub(crate) unknown_critical: bool,
}

const SUBJECT_ALT_NAME: &str = "2.5.29.17";

impl Certificate {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > CERTIFICATE_BYTES_MAX {
            return Err(Malformed("a certificate is too long"));
        }
        let (rest, read) =
            X509Certificate::from_der(bytes).map_err(|_| Malformed("not a DER certificate"))?;
        if !rest.is_empty() {
            return Err(Malformed("bytes after the end of a certificate"));
        }
        if read.version() != X509Version::V3 {
            return Err(Malformed("a certificate is not of version 3"));
        }
        if read.signature_algorithm != read.tbs_certificate.signature {
            return Err(Malformed("a certificate names two signature algorithms"));
        }
        // Refuses an extension that is there twice.
        read.extensions_map().map_err(|_| Malformed("a certificate has an extension twice"))?;
        let time = |at: i64| u64::try_from(at).map(UnixTime).map_err(|_| Malformed("a date before 1970"));
        let mut certificate = Self {
            der: bytes.to_vec(),
            subject: read.subject().as_raw().to_vec(),
            issuer: read.issuer().as_raw().to_vec(),
            spki: read.public_key().raw.to_vec(),
            not_before: time(read.validity().not_before.timestamp())?,
            not_after: time(read.validity().not_after.timestamp())?,
            serial: hex::encode(read.raw_serial().strip_prefix(&[0]).unwrap_or(read.raw_serial())),
            common_name: read
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            alternatives: Vec::new(),
            is_ca: false,
            path_length: None,
            may_sign_certificates: None,
            may_sign: None,
            constrains_names: false,
            unknown_critical: false,
        };
        for extension in read.extensions() {
            if extension.oid.to_id_string() == SUBJECT_ALT_NAME {
                let mut value = Reader::new(extension.value);
                certificate.alternatives = value.expect(SEQUENCE, "subjectAltName is malformed")?.to_vec();
                value.finish("subjectAltName is malformed")?;
            }
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.is_ca = constraints.ca;
                    certificate.path_length = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => {
                    certificate.may_sign_certificates = Some(usage.key_cert_sign());
                    certificate.may_sign = Some(usage.digital_signature());
                }
                ParsedExtension::NameConstraints(_) => certificate.constrains_names = true,
                ParsedExtension::ParseError { .. } => return Err(Malformed("an extension is malformed")),
                ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                // Policies are not asked for, so any will do (RFC 5280 section 6.1.1 (c)).
                | ParsedExtension::CertificatePolicies(_) => {}
                _ => certificate.unknown_critical |= extension.critical,
            }
        }
        Ok(certificate)
    }

    /// `true` when `issuer`'s key has signed this. The same algorithms as in TLS: no SHA-1.
    pub(crate) fn is_signed_by(&self, issuer: &Self) -> bool {
        self.verify(issuer).is_ok_and(|verified| verified)
    }

    fn verify(&self, issuer: &Self) -> Result<bool, der::Malformed> {
        let mut whole = Reader::new(Reader::new(&self.der).expect(SEQUENCE, "")?);
        let signed = whole.any()?.whole;
        let algorithm = whole.expect(SEQUENCE, "")?;
        let signature = bits(whole.expect(BIT_STRING, "")?)?;
        let mut key = Reader::new(Reader::new(&issuer.spki).expect(SEQUENCE, "")?);
        let kind = key.expect(SEQUENCE, "")?;
        let key = bits(key.expect(BIT_STRING, "")?)?;
        let fits = |candidate: &&&dyn SignatureVerificationAlgorithm| {
            candidate.signature_alg_id().as_ref() == algorithm
                && candidate.public_key_alg_id().as_ref() == kind
        };
        Ok(webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(fits)
            .any(|candidate| candidate.verify_signature(key, signed, signature).is_ok()))
    }
}

fn bits(content: &[u8]) -> Result<&[u8], der::Malformed> {
    content.strip_prefix(&[0]).ok_or(der::Malformed("a bit string of broken bytes"))
}
