//! The endorsement key: its certificate and its public area (TCG EK Credential Profile 2.6).

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attributes, Curve, Key, Public, Scheme, Symmetric};
use edgewarden_names::{Digest, Reason, Refusal};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::crypto::sha256;
use crate::roca;

const EKU_EK_CERTIFICATE: &str = "2.23.133.8.1";
/// Attributes of the subject alternative name's directoryName (section 3.1.2).
const OID_MANUFACTURER: &str = "2.23.133.2.1";
const OID_MODEL: &str = "2.23.133.2.2";

/// Object attributes of the templates: L-1 and L-2, and the H family, which adds userWithAuth (section B.3 and B.4).
const TEMPLATE: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::ADMIN_WITH_POLICY
    | Attributes::RESTRICTED
    | Attributes::DECRYPT;
const TEMPLATE_HIGH: u32 = TEMPLATE | Attributes::USER_WITH_AUTH;

/// What is taken from an EK certificate. Whose signature it carries is checked apart, by `VendorRoots::verify`.
#[derive(Debug)]
pub(crate) struct Certificate {
    key: CertifiedKey,
    /// SHA-256 of the SubjectPublicKeyInfo: the device.
    pub(crate) device: Digest,
    /// Manufacturer and model, as the vendor wrote them.
    pub(crate) maker: String,
}

#[derive(Debug)]
enum CertifiedKey {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ecc { point: Vec<u8> },
}

fn untrusted(rule: &str) -> Refusal {
    Refusal::new(Reason::AttestEkUntrusted, "EK certificate", rule)
}

impl Certificate {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, Refusal> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| untrusted("the certificate cannot be read"))?;
        if !rest.is_empty() {
            return Err(untrusted("bytes follow the certificate"));
        }
        let eku = certificate.extended_key_usage().ok().flatten();
        let is_ek = |oid: &x509_parser::der_parser::Oid<'_>| oid.to_id_string() == EKU_EK_CERTIFICATE;
        if !eku.is_some_and(|eku| eku.value.other.iter().any(is_ek)) {
            return Err(untrusted(
                "the certificate is not for an endorsement key (extended key usage 2.23.133.8.1)",
            ));
        }
        if certificate.is_ca() {
            return Err(untrusted("the certificate is that of an authority"));
        }
        let spki = certificate.public_key();
        let key = match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => CertifiedKey::Rsa {
                modulus: without_leading_zeros(rsa.modulus).to_vec(),
                exponent: without_leading_zeros(rsa.exponent).to_vec(),
            },
            Ok(PublicKey::EC(point)) => CertifiedKey::Ecc { point: point.data().to_vec() },
            _ => return Err(untrusted("the certified key is neither RSA nor ECC")),
        };
        let fits = match (certificate.key_usage(), &key) {
            (Ok(None), _) => true,
            (Ok(Some(usage)), CertifiedKey::Rsa { .. }) => usage.value.key_encipherment(),
            (Ok(Some(usage)), CertifiedKey::Ecc { .. }) => usage.value.key_agreement(),
            (Err(_), _) => false,
        };
        if !fits {
            return Err(untrusted("the certificate's key usage does not allow what an endorsement key does"));
        }
        if let CertifiedKey::Rsa { modulus, .. } = &key
            && roca::is_weak(modulus)
        {
            return Err(untrusted(
                "the endorsement key can be factored (CVE-2017-15361); update the TPM's firmware",
            ));
        }
        let device = Digest::from_sha256(&sha256(spki.raw));
        Ok(Self { key, device, maker: maker(&certificate) })
    }

    /// Checks that `public` is the certified key, made from one of TCG's templates.
    pub(crate) fn check_public(&self, public: &Public) -> Result<(), Refusal> {
        let refuse = |rule| Err(Refusal::new(Reason::AttestEkUntrusted, "EK", rule));
        let same = match (&self.key, &public.key) {
            (CertifiedKey::Rsa { modulus, exponent }, Key::Rsa { modulus: m, exponent: e, .. }) => {
                // Exponent 0 stands for 65537 (Part 2, section 12.2.3.5).
                let e = if *e == 0 { 65537 } else { *e };
                modulus == m && exponent == without_leading_zeros(&e.to_be_bytes())
            }
            (CertifiedKey::Ecc { point }, Key::Ecc { .. }) => public.point().as_ref() == Some(point),
            _ => false,
        };
        if !same {
            return refuse("the EK is not the key in its certificate");
        }
        if !matches!(public.attributes.0, TEMPLATE | TEMPLATE_HIGH) {
            return refuse("the EK has not the attributes of a TCG template");
        }
        // Cipher and name algorithm go with the key (sections B.3.3, B.3.4 and B.4.5).
        let (Key::Rsa { symmetric, scheme, .. } | Key::Ecc { symmetric, scheme, .. }) = &public.key;
        let template = match &public.key {
            Key::Rsa { .. } | Key::Ecc { curve: Curve::P256, .. } => (Symmetric::Aes128Cfb, HashAlg::Sha256),
            Key::Ecc { curve: Curve::P384, .. } => (Symmetric::Aes256Cfb, HashAlg::Sha384),
        };
        if *scheme != Scheme::Null || (*symmetric, public.name_alg) != template {
            return refuse("the EK has not the algorithms of a TCG template");
        }
        Ok(())
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

/// Manufacturer and model from the subject alternative name. A vendor's word, shown to people, decides nothing.
fn maker(certificate: &X509Certificate<'_>) -> String {
    let mut manufacturer = None;
    let mut model = None;
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            let GeneralName::DirectoryName(directory) = name else { continue };
            for attribute in directory.iter_attributes() {
                let slot = match attribute.attr_type().to_id_string().as_str() {
                    OID_MANUFACTURER => &mut manufacturer,
                    OID_MODEL => &mut model,
                    _ => continue,
                };
                *slot = attribute.as_str().ok().map(printable);
            }
        }
    }
    let manufacturer = manufacturer.map(|id| vendor_text(&id).unwrap_or(id));
    [manufacturer, model].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}

/// `id:494E5443` is `INTC` (TCG Vendor ID Registry).
fn vendor_text(id: &str) -> Option<String> {
    let bytes = hex::decode(id.strip_prefix("id:")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim_end_matches(['\0', ' ']);
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}
