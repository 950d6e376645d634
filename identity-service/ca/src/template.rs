//! The four kinds of certificate, as `rcgen` parameters. Everything in a certificate is decided in this file.

use std::net::IpAddr;
use std::time::Duration;

use edgewarden_names::{SpiffeId, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    string::Ia5String,
};
use time::OffsetDateTime;

use crate::{CaError, DNS_NAMES_MAX, chain};

/// Time that a certificate reaches back, for peers whose clock is behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(60);
/// The same for certificates that another machine made: clocks of gateway and fleet may differ by more.
pub(crate) const BACKDATE_REMOTE: Duration = Duration::from_secs(3600);
/// ub-common-name (RFC 5280 appendix A.1).
const COMMON_NAME_CHARS_MAX: usize = 64;

/// A lifetime that lies within its issuer's.
#[derive(Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Validity {
    /// From `now` less `backdate`, for `lifetime`, clipped to `issuer`. Refused when the issuer is not valid now.
    pub(crate) fn within(
        issuer: Self,
        now: UnixTime,
        backdate: Duration,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        if now >= issuer.not_after {
            return Err(CaError::IssuerExpired { not_after: issuer.not_after, now });
        }
        if now < issuer.not_before {
            return Err(CaError::IssuerNotYetValid { not_before: issuer.not_before, now });
        }
        if lifetime.as_secs() == 0 {
            return Err(CaError::Lifetime);
        }
        Ok(Self {
            not_before: now.minus(backdate).max(issuer.not_before),
            not_after: now.plus(lifetime).min(issuer.not_after),
        })
    }

    /// Of a self-signed certificate.
    pub(crate) fn own(now: UnixTime, lifetime: Duration) -> Result<Self, CaError> {
        if lifetime.as_secs() == 0 {
            return Err(CaError::Lifetime);
        }
        Ok(Self { not_before: now.minus(BACKDATE_REMOTE), not_after: now.plus(lifetime) })
    }
}

fn date(at: UnixTime) -> Result<OffsetDateTime, CaError> {
    i64::try_from(at.0)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(CaError::Certificate("a time outside of what a certificate can hold"))
}

/// 128 random bits (CA/Browser Forum's 64 are the floor). A serial is positive and at most 20 bytes.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ia5String::try_from(text).map(SanType::URI).map_err(CaError::Build)
}

fn named(common_name: &str, validity: Validity) -> Result<CertificateParams, CaError> {
    let mut subject = DistinguishedName::new();
    let shown: String = common_name.chars().take(COMMON_NAME_CHARS_MAX).collect();
    subject.push(DnType::CommonName, shown);
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.serial_number = Some(serial()?);
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A CA. Its only URI is the trust domain without a path, as the X.509-SVID specification wants of signing certificates.
pub(crate) fn ca(
    common_name: &str,
    domain: &SpiffeId,
    path_length: Option<u8>,
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    let mut params = named(common_name, validity)?;
    params.subject_alt_names = vec![uri(domain.as_str())?];
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A leaf: an X.509-SVID. The common name is for people; peers read the URI.
pub(crate) fn leaf(
    id: &SpiffeId,
    dns: &[String],
    addresses: &[IpAddr],
    validity: Validity,
) -> Result<CertificateParams, CaError> {
    if dns.len() > DNS_NAMES_MAX || addresses.len() > DNS_NAMES_MAX {
        return Err(CaError::Request("too many names"));
    }
    let last = id.path().rsplit_once('/').map_or(id.path(), |(_, last)| last);
    let mut params = named(last, validity)?;
    params.subject_alt_names.push(uri(id.as_str())?);
    for name in dns {
        params.subject_alt_names.push(SanType::DnsName(dns_name(name)?));
    }
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// A host name without a wildcard (RFC 1123 section 2.1), in lower case.
fn dns_name(name: &str) -> Result<Ia5String, CaError> {
    let label = |label: &str| {
        matches!(label.len(), 1..=63)
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
    };
    let refused = || CaError::DnsName(name.chars().take(100).collect());
    // A name of digits and dots would be taken for an address by some peers.
    let address_like = name.parse::<IpAddr>().is_ok();
    if name.len() > 253 || address_like || !name.split('.').all(label) {
        return Err(refused());
    }
    Ia5String::try_from(name).map_err(|_| refused())
}

/// The serial that the template drew, in hexadecimal.
pub(crate) fn serial_text(params: &CertificateParams) -> Result<String, CaError> {
    let serial = params.serial_number.as_ref().ok_or(CaError::Random)?;
    Ok(chain::serial_text(&serial.to_bytes()))
}

/// A certificate's subject that is only a checked P-256 point.
pub(crate) struct Subject<'a>(pub(crate) &'a [u8]);

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
