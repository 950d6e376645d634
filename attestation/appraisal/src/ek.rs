//! The endorsement key: its certificate and its public area (TCG EK Credential Profile 2.6).

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attributes, Curve, Key, Public, Scheme, Symmetric};
use edgewarden_names::{Digest, Reason, Refusal, sha256};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};
use x509_parser::public_key::{PublicKey, RSAPublicKey};

use crate::roca;
use crate::vendor::certificate::{Certificate, EKU_EK_CERTIFICATE};
use crate::vendor::{Fault, Kind, printable};

/// Attributes of the subject alternative name's directoryName (section 3.1.2).
const OID_MANUFACTURER: &str = "2.23.133.2.1";
const OID_MODEL: &str = "2.23.133.2.2";
const OID_RSA: &str = "1.2.840.113549.1.1.1";
/// The key type of an RSA key that is for OAEP only (RFC 4055 section 4.1), as some makers call an endorsement key; its
/// parameters say which hashes its maker thinks of, and the TPM's template says which it uses.
const OID_RSAES_OAEP: &str = "1.2.840.113549.1.1.7";

/// Object attributes of the templates: L-1 and L-2, and the H family, which adds userWithAuth (section B.3 and B.4).
const TEMPLATE: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::ADMIN_WITH_POLICY
    | Attributes::RESTRICTED
    | Attributes::DECRYPT;
const TEMPLATE_HIGH: u32 = TEMPLATE | Attributes::USER_WITH_AUTH;

/// The facts taken from an EK certificate. Its signature is checked apart, by `VendorRoots::verify`.
#[derive(Debug)]
pub(crate) struct Endorsement {
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

impl Endorsement {
    pub(crate) fn of(certificate: &Certificate<'_>) -> Result<Self, Refusal> {
        Self::read(certificate).map_err(|fault| fault.refusal("EK certificate"))
    }

    fn read(certificate: &Certificate<'_>) -> Result<Self, Fault> {
        let called = certificate.called();
        let is_for_endorsement = certificate.extensions().any(|extension| match extension {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                usage.other.iter().any(|oid| oid.to_id_string() == EKU_EK_CERTIFICATE)
            }
            _ => false,
        });
        if !is_for_endorsement {
            let text =
                format!("{called} is not for an endorsement key (extendedKeyUsage {EKU_EK_CERTIFICATE})");
            return Err(Fault::invalid(text));
        }
        if certificate.basic_constraints().0 {
            return Err(Fault::invalid(format!("{called} is that of an authority (basicConstraints)")));
        }
        let spki = certificate.parsed.public_key();
        let kind = spki.algorithm.algorithm.to_id_string();
        let key = match (kind.as_str(), spki.parsed()) {
            (OID_RSA | OID_RSAES_OAEP, _) => match RSAPublicKey::from_der(&spki.subject_public_key.data) {
                Ok((_, key)) => CertifiedKey::Rsa {
                    modulus: without_leading_zeros(key.modulus).to_vec(),
                    exponent: without_leading_zeros(key.exponent).to_vec(),
                },
                Err(_) => return Err(Fault::invalid(format!("the RSA key of {called} cannot be read"))),
            },
            (_, Ok(PublicKey::EC(point))) => CertifiedKey::Ecc { point: point.data().to_vec() },
            _ => {
                let text =
                    format!("the key of {called} is of kind {}, neither RSA nor ECC", printable(&kind));
                return Err(Fault::new(Kind::Unsupported, text));
            }
        };
        let fits = certificate.extensions().all(|extension| match (extension, &key) {
            (ParsedExtension::KeyUsage(usage), CertifiedKey::Rsa { .. }) => usage.key_encipherment(),
            (ParsedExtension::KeyUsage(usage), CertifiedKey::Ecc { .. }) => usage.key_agreement(),
            _ => true,
        });
        if !fits {
            return Err(Fault::invalid(format!(
                "the keyUsage of {called} does not allow what an endorsement key does"
            )));
        }
        if let CertifiedKey::Rsa { modulus, .. } = &key
            && roca::is_weak(modulus)
        {
            return Err(Fault::invalid(format!(
                "the key of {called} can be factored (CVE-2017-15361): update the TPM's firmware and have new keys made"
            )));
        }
        let device = Digest::from_sha256(&sha256(spki.raw));
        Ok(Self { key, device, maker: maker(certificate) })
    }

    /// Checks that `public` is the certified key, made from one of TCG's templates.
    pub(crate) fn check_public(&self, public: &Public) -> Result<(), Refusal> {
        let refuse = |rule| Err(Refusal::new(Reason::AttestEkInvalid, "EK", rule));
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

pub(crate) fn without_leading_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Manufacturer and model from the subject alternative name. A vendor's word, shown to people, decides nothing.
fn maker(certificate: &Certificate<'_>) -> String {
    let mut manufacturer = None;
    let mut model = None;
    for name in certificate.other_names() {
        let GeneralName::DirectoryName(directory) = name else { continue };
        for attribute in directory.iter_attributes() {
            let slot = match attribute.attr_type().to_id_string().as_str() {
                OID_MANUFACTURER => &mut manufacturer,
                OID_MODEL => &mut model,
                _ => continue,
            };
            *slot = attribute.as_str().ok().map(plain);
        }
    }
    let manufacturer = manufacturer.map(|id| vendor_text(&id).unwrap_or(id));
    [manufacturer, model].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(64).collect()
}

/// `id:494E5443` is `INTC` (TCG Vendor ID Registry).
fn vendor_text(id: &str) -> Option<String> {
    let bytes = hex::decode(id.strip_prefix("id:")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim_end_matches(['\0', ' ']);
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}
