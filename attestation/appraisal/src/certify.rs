//! The gateway CA key: proven by TPM2_Certify to be a key of the same TPM that never leaves it.

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{AttestKind, Attributes, Public, Scheme};
use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::enrol::TpmProof;

use crate::checks::Checks;
use crate::crypto::p256_point;
use crate::quote::signed_by_ak;

/// The key is the TPM's own and stays there; it signs.
const REQUIRED: Attributes = Attributes(
    Attributes::FIXED_TPM | Attributes::FIXED_PARENT | Attributes::SENSITIVE_DATA_ORIGIN | Attributes::SIGN,
);
/// A restricted key could not sign certificates; one that decrypts too would be two things at once.
const FORBIDDEN: u32 = Attributes::RESTRICTED | Attributes::DECRYPT;

/// Checks the certification and gives the key's point.
pub(crate) fn check(
    checks: &mut Checks,
    ak_point: &[u8],
    proof: &TpmProof,
    binding: &[u8],
) -> Result<Vec<u8>, Refusal> {
    const NAME: &str = "gateway CA key";
    const REASON: Reason = Reason::AttestCertify;
    let attest = signed_by_ak(ak_point, proof.certify.as_slice(), proof.certify_signature.as_slice())
        .map_err(|why| checks.failed(NAME, REASON, why))?;
    let AttestKind::Certify { name, .. } = attest.kind else {
        return Err(checks.failed(NAME, REASON, "the attestation certifies no key"));
    };
    if attest.extra_data != binding {
        let detail = "the certification was made for another challenge or another request";
        return Err(checks.failed(NAME, REASON, detail));
    }
    let public = Public::parse(proof.ca_public.as_slice())
        .map_err(|error| checks.failed(NAME, REASON, error.to_string()))?;
    // What is certified is the Name, so the Name must be one that no second public area has.
    if public.name_alg != HashAlg::Sha256 {
        return Err(checks.failed(NAME, REASON, "it is not named by SHA-256"));
    }
    if public.name() != name {
        return Err(checks.failed(NAME, REASON, "the certification is for another key"));
    }
    if !public.attributes.has(REQUIRED.0) || public.attributes.0 & FORBIDDEN != 0 {
        let detail =
            format!("its attributes are {}; it must be {REQUIRED}, not restricted", public.attributes);
        return Err(checks.failed(NAME, REASON, detail));
    }
    // Our resident keys have a policy, and the gateway CA's key has none: a module may have any message signed by a key of
    // its own, and that key certified for any nonce, so such a key must never become the gateway's CA.
    if !public.auth_policy.is_empty() {
        return Err(checks.failed(NAME, REASON, "it has an authorization policy, as keys of modules have"));
    }
    let schemes = [Scheme::Null, Scheme::Ecdsa(HashAlg::Sha256)];
    let Some(point) = p256_point(&public, &schemes) else {
        return Err(checks.failed(NAME, REASON, "it is no P-256 key for ECDSA with SHA-256"));
    };
    checks.passed(NAME, format!("certified by the AK: {}", public.attributes));
    Ok(point)
}
