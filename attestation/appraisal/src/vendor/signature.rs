//! Signatures of certificates, by aws-lc-rs: RSA of 2048 to 8192 bits with SHA-1 (PKCS #1 1.5 only) to SHA-512,
//! ECDSA on P-256, P-384 and P-521 with SHA-256 to SHA-512, Ed25519.
//!
//! SHA-1 is accepted because makers' older TPMs are certified with it and will be for their life. It would help whoever
//! makes a vendor sign a chosen certificate; vendors sign keys of TPMs that they made.

use aws_lc_rs::signature as aws;
use aws_lc_rs::signature::{UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::certificate::Certificate;
use super::name::printable;

const RSA_BITS_MIN: usize = 2048;
/// More cost more than any vendor's certificate is worth.
const RSA_BITS_MAX: usize = 8192;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SignatureFault {
    /// Another key, or altered bytes.
    Wrong,
    Unsupported(String),
}

/// Checks that the key signed the certificate.
pub(super) fn check(
    certificate: &Certificate<'_>,
    key: &SubjectPublicKeyInfo<'_>,
) -> Result<(), SignatureFault> {
    let algorithm = algorithm(certificate, key).map_err(SignatureFault::Unsupported)?;
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data)
        .verify(certificate.parsed.tbs_certificate.as_ref(), &certificate.parsed.signature_value.data)
        .map_err(|_| SignatureFault::Wrong)
}

fn algorithm(
    certificate: &Certificate<'_>,
    key: &SubjectPublicKeyInfo<'_>,
) -> Result<&'static dyn VerificationAlgorithm, String> {
    let identifier = &certificate.parsed.signature_algorithm;
    let signature = identifier.algorithm.to_id_string();
    let kind = key.algorithm.algorithm.to_id_string();
    let curve =
        key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok()).map(|oid| oid.to_id_string());
    let rsa = matches!(kind.as_str(), "1.2.840.113549.1.1.1");
    Ok(match (signature.as_str(), curve.as_deref()) {
        ("1.2.840.113549.1.1.5" | "1.3.14.3.2.29", _) if rsa => {
            rsa_sized(key, &aws::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY)?
        }
        ("1.2.840.113549.1.1.11", _) if rsa => rsa_sized(key, &aws::RSA_PKCS1_2048_8192_SHA256)?,
        ("1.2.840.113549.1.1.12", _) if rsa => rsa_sized(key, &aws::RSA_PKCS1_2048_8192_SHA384)?,
        ("1.2.840.113549.1.1.13", _) if rsa => rsa_sized(key, &aws::RSA_PKCS1_2048_8192_SHA512)?,
        ("1.2.840.113549.1.1.10", _) if rsa || kind == "1.2.840.113549.1.1.10" => {
            let parameters =
                identifier.parameters.as_ref().and_then(|any| RsaSsaPssParams::try_from(any).ok());
            pss(parameters.as_ref()).ok_or_else(|| {
                "RSASSA-PSS with other parameters than SHA-256, SHA-384 or SHA-512 throughout".to_owned()
            })?
        }
        ("1.2.840.10045.4.3.2", Some("1.2.840.10045.3.1.7")) => &aws::ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some("1.2.840.10045.3.1.7")) => &aws::ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some("1.2.840.10045.3.1.7")) => &aws::ECDSA_P256_SHA512_ASN1,
        ("1.2.840.10045.4.3.2", Some("1.3.132.0.34")) => &aws::ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some("1.3.132.0.34")) => &aws::ECDSA_P384_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some("1.3.132.0.34")) => &aws::ECDSA_P384_SHA512_ASN1,
        ("1.2.840.10045.4.3.2", Some("1.3.132.0.35")) => &aws::ECDSA_P521_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some("1.3.132.0.35")) => &aws::ECDSA_P521_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some("1.3.132.0.35")) => &aws::ECDSA_P521_SHA512_ASN1,
        ("1.3.101.112", _) if kind == "1.3.101.112" => &aws::ED25519,
        _ => {
            let curve = curve.map(|curve| format!(" on {}", printable(&curve))).unwrap_or_default();
            return Err(format!(
                "signature algorithm {} by a key of kind {}{curve}",
                printable(&signature),
                printable(&kind)
            ));
        }
    })
}

fn rsa_sized(
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &'static dyn VerificationAlgorithm,
) -> Result<&'static dyn VerificationAlgorithm, String> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&rsa.key_size()) => Ok(algorithm),
        Ok(PublicKey::RSA(rsa)) => {
            Err(format!("RSA with {} bits: {RSA_BITS_MIN} to {RSA_BITS_MAX} are accepted", rsa.key_size()))
        }
        _ => Err("an RSA key that cannot be read".to_owned()),
    }
}

/// RFC 4055 section 3.1; the salt is as long as the digest, as everyone makes it.
fn pss(parameters: Option<&RsaSsaPssParams<'_>>) -> Option<&'static dyn VerificationAlgorithm> {
    let parameters = parameters?;
    let hash = parameters.hash_algorithm_oid().to_id_string();
    let mask = parameters.mask_gen_algorithm().ok()?;
    let (algorithm, salt): (&'static dyn VerificationAlgorithm, u32) = match hash.as_str() {
        "2.16.840.1.101.3.4.2.1" => (&aws::RSA_PSS_2048_8192_SHA256, 32),
        "2.16.840.1.101.3.4.2.2" => (&aws::RSA_PSS_2048_8192_SHA384, 48),
        "2.16.840.1.101.3.4.2.3" => (&aws::RSA_PSS_2048_8192_SHA512, 64),
        _ => return None,
    };
    let is_plain = mask.mgf.to_id_string() == "1.2.840.113549.1.1.8"
        && mask.hash.to_id_string() == hash
        && parameters.salt_length() == salt
        && parameters.trailer_field() == 1;
    is_plain.then_some(algorithm)
}
