//! One X.509 certificate as path validation sees it (RFC 5280 section 4).
//!
//! Distrusts every byte. What is read is bounded by the certificate; unknown critical extensions and extensions that
//! come twice are refused here, so that no later step can overlook one.

use std::collections::HashSet;

use edgewarden_names::UnixTime;
use x509_parser::extensions::{GeneralName, NameConstraints, PolicyConstraints, PolicyMappings};
use x509_parser::prelude::{ASN1Time, FromDer, ParsedExtension, X509Certificate};
use x509_parser::x509::X509Version;

use super::fault::{Fault, Kind};
use super::name::{Name, printable, shown, shown_key};

/// Extended key usage `tcg-kp-EKCertificate`.
pub(crate) const EKU_EK_CERTIFICATE: &str = "2.23.133.8.1";

/// Critical extensions that change nothing in whether a certificate is good: where more is to be had (revocation lists
/// are not read, see SECURITY.md), other names of the issuer, and what the TPM's maker asserts of it (TCG EK Credential
/// Profile, section 3.1).
const INFORMATIVE: [&str; 6] =
    ["2.5.29.9", "2.5.29.18", "2.5.29.31", "2.5.29.46", "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.1.11"];

/// A length in its shortest form (X.690 section 10.1). `None` from 16 MiB on.
fn der_length(length: usize) -> Option<Vec<u8>> {
    let [_, high, middle, low] = u32::try_from(length).ok()?.to_be_bytes();
    match length {
        0..0x80 => Some(vec![low]),
        0x80..0x100 => Some(vec![0x81, low]),
        0x100..0x1_0000 => Some(vec![0x82, middle, low]),
        0x1_0000..0x100_0000 => Some(vec![0x83, high, middle, low]),
        _ => None,
    }
}

#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    pub(crate) der: &'a [u8],
    pub(crate) parsed: X509Certificate<'a>,
    pub(crate) subject: Name,
    pub(crate) issuer: Name,
}

impl<'a> Certificate<'a> {
    /// The certificate at the beginning of `bytes`, read and checked for what needs no other certificate.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let certificate = Self::read(bytes)?;
        certificate.check()?;
        Ok(certificate)
    }

    /// Reads the certificate at the beginning of `bytes`. NV indices are larger than what they hold, so the
    /// certificate's own length says where it ends. Whoever relies on it calls [`Certificate::check`].
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let unreadable = || Fault::invalid("it is no X.509 certificate, or a damaged one");
        let (rest, parsed) = X509Certificate::from_der(bytes).map_err(|_| unreadable())?;
        let der = bytes.strip_suffix(rest).ok_or_else(unreadable)?;
        let (subject, issuer) = (Name::of(parsed.subject()), Name::of(parsed.issuer()));
        Ok(Self { der, parsed, subject, issuer })
    }

    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.issuer.is_empty() {
            return Err(Fault::invalid(format!("{} names no issuer", self.called())));
        }
        if self.parsed.signature_algorithm != self.parsed.tbs_certificate.signature {
            return Err(Fault::invalid(format!(
                "{} names one signature algorithm inside its signature and another outside",
                self.called()
            )));
        }
        if !self.has_plain_envelope() {
            return Err(Fault::invalid(format!("{} is not in DER around what is signed", self.called())));
        }
        self.check_extensions()
    }

    /// The bytes around the signed part, which no signature covers, are as DER writes them (RFC 5280 section 4.1): the
    /// parser reads other tags and unused bits too, and one certificate must not have several spellings.
    fn has_plain_envelope(&self) -> bool {
        let signed = self.parsed.tbs_certificate.as_ref();
        let signature: &[u8] = &self.parsed.signature_value.data;
        let Some(body) = der_length(1 + signature.len()) else { return false };
        let last = [&[0x03], body.as_slice(), &[0x00], signature].concat();
        let Some(before) = self.der.strip_suffix(last.as_slice()) else { return false };
        let Some(at) = before.windows(signed.len().max(1)).position(|window| window == signed) else {
            return false;
        };
        let (header, rest) = before.split_at(at);
        // The algorithm stands once more inside, byte for byte.
        let Some(algorithm) = rest.strip_prefix(signed) else { return false };
        let Some(length) = der_length(self.der.len().saturating_sub(header.len())) else { return false };
        header == [&[0x30], length.as_slice()].concat()
            && !algorithm.is_empty()
            && signed.windows(algorithm.len()).any(|window| window == algorithm)
    }

    fn check_extensions(&self) -> Result<(), Fault> {
        let mut seen = HashSet::new();
        for extension in self.parsed.extensions() {
            let oid = extension.oid.to_id_string();
            if !seen.insert(extension.oid.as_bytes()) {
                return Err(Fault::invalid(format!("{} has the extension {oid} twice", self.called())));
            }
            match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } if extension.critical || is_ruling(&oid) => {
                    let text = format!("the extension {oid} of {} cannot be read", self.called());
                    return Err(Fault::invalid(text));
                }
                _ if extension.critical && !is_ruling(&oid) && !INFORMATIVE.contains(&oid.as_str()) => {
                    return Err(Fault::new(
                        Kind::Unsupported,
                        format!(
                            "{} has the critical extension {}, which is not known here",
                            self.called(),
                            printable(&oid)
                        ),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Name of the certificate in a refusal.
    pub(crate) fn called(&self) -> String {
        if self.subject.is_empty() {
            format!(
                "the certificate number {} of `{}`",
                self.parsed.raw_serial_as_string(),
                shown(self.parsed.issuer())
            )
        } else {
            format!("the certificate `{}`", shown(self.parsed.subject()))
        }
    }

    /// Its issuer's name, with the key that the certificate names and the URL where it says the issuer's certificate is
    /// to be had.
    pub(crate) fn issuer_called(&self) -> String {
        let key =
            self.authority_key().map(|key| format!(" with the key {}", shown_key(key))).unwrap_or_default();
        let place = self.issuer_url().map(|url| format!(", to be had at {url}")).unwrap_or_default();
        format!("`{}`{key}{place}", shown(self.parsed.issuer()))
    }

    fn issuer_url(&self) -> Option<String> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::AuthorityInfoAccess(access) => {
                access.accessdescs.iter().find_map(|description| match &description.access_location {
                    GeneralName::URI(url)
                        if description.access_method.to_id_string() == "1.3.6.1.5.5.7.48.2" =>
                    {
                        Some(printable(url))
                    }
                    _ => None,
                })
            }
            _ => None,
        })
    }

    pub(crate) fn extensions(&self) -> impl Iterator<Item = &ParsedExtension<'a>> {
        self.parsed.extensions().iter().map(x509_parser::extensions::X509Extension::parsed_extension)
    }

    /// Subject and issuer are one name: such a certificate does not count as a step of its path (section 6.1).
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    pub(crate) fn subject_key(&self) -> Option<&'a [u8]> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
            _ => None,
        })
    }

    pub(crate) fn authority_key(&self) -> Option<&'a [u8]> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                authority.key_identifier.as_ref().map(|key| key.0)
            }
            _ => None,
        })
    }

    pub(crate) fn is_version_1(&self) -> bool {
        self.parsed.version() == X509Version::V1
    }

    /// The extension's `cA`, and the number of CAs that may follow beneath it (RFC 5280 section 4.2.1.9).
    pub(crate) fn basic_constraints(&self) -> (bool, Option<u32>) {
        self.extensions()
            .find_map(|extension| match extension {
                ParsedExtension::BasicConstraints(basic) => Some((basic.ca, basic.path_len_constraint)),
                _ => None,
            })
            .unwrap_or((false, None))
    }

    /// Section 6.1.4, steps k and n: an authority that signs certificates.
    pub(crate) fn check_authority(&self) -> Result<(), Fault> {
        if !self.basic_constraints().0 {
            return Err(Fault::invalid(format!(
                "{} is not that of an authority (basicConstraints)",
                self.called()
            )));
        }
        let signs = self.extensions().all(|extension| match extension {
            ParsedExtension::KeyUsage(usage) => usage.key_cert_sign(),
            _ => true,
        });
        if signs {
            Ok(())
        } else {
            Err(Fault::invalid(format!("the key of {} may not sign certificates (keyUsage)", self.called())))
        }
    }

    /// The extended key usages of an authority limit what it may vouch for. Vendors' authorities mostly have none.
    pub(crate) fn check_authority_usage(&self) -> Result<(), Fault> {
        let fits = self.extensions().all(|extension| match extension {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                usage.any || usage.other.iter().any(|oid| oid.to_id_string() == EKU_EK_CERTIFICATE)
            }
            _ => true,
        });
        if fits {
            Ok(())
        } else {
            let text =
                format!("{} is for other purposes than endorsement keys (extendedKeyUsage)", self.called());
            Err(Fault::invalid(text))
        }
    }

    pub(crate) fn check_time(&self, now: UnixTime) -> Result<(), Fault> {
        let validity = self.parsed.validity();
        // Before 1970 is before any time that is asked for; 9999 is for ever (section 4.1.2.5).
        let second = |time: &ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let state = if now.0 < second(&validity.not_before) {
            format!("is not valid before {}", validity.not_before)
        } else if now.0 > second(&validity.not_after) {
            format!("was valid until {}", validity.not_after)
        } else {
            return Ok(());
        };
        let here = i64::try_from(now.0).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
        let here = here.map(|here| format!("; by the fleet's clock it is {here}")).unwrap_or_default();
        Err(Fault::new(Kind::Expired, format!("{} {state}{here}", self.called())))
    }

    pub(crate) fn policies(&self) -> Option<Vec<Vec<u8>>> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::CertificatePolicies(policies) => {
                Some(policies.iter().map(|policy| policy.policy_id.as_bytes().to_vec()).collect())
            }
            _ => None,
        })
    }

    pub(crate) fn policy_mappings(&self) -> Option<&PolicyMappings<'a>> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::PolicyMappings(mappings) => Some(mappings),
            _ => None,
        })
    }

    pub(crate) fn policy_constraints(&self) -> Option<&PolicyConstraints> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::PolicyConstraints(constraints) => Some(constraints),
            _ => None,
        })
    }

    pub(crate) fn inhibit_any_policy(&self) -> Option<u32> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::InhibitAnyPolicy(inhibit) => Some(inhibit.skip_certs),
            _ => None,
        })
    }

    pub(crate) fn name_constraints(&self) -> Option<&NameConstraints<'a>> {
        self.extensions().find_map(|extension| match extension {
            ParsedExtension::NameConstraints(constraints) => Some(constraints),
            _ => None,
        })
    }

    /// The names of the subjectAltName.
    pub(crate) fn other_names(&self) -> impl Iterator<Item = &GeneralName<'a>> {
        self.extensions()
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
    }
}

/// Extensions that path validation obeys, critical or not.
fn is_ruling(oid: &str) -> bool {
    // subjectAltName, keyUsage, basicConstraints, nameConstraints, certificatePolicies, policyMappings,
    // policyConstraints, extendedKeyUsage, inhibitAnyPolicy; key identifiers choose among paths.
    matches!(
        oid,
        "2.5.29.14"
            | "2.5.29.15"
            | "2.5.29.17"
            | "2.5.29.19"
            | "2.5.29.30"
            | "2.5.29.32"
            | "2.5.29.33"
            | "2.5.29.35"
            | "2.5.29.36"
            | "2.5.29.37"
            | "2.5.29.54"
    )
}
