//! Checks a store's proof that a resident key is in it, by the parsers that a verifier uses (TPM 2.0 Library Part 3,
//! TPM2_Certify), before it is given to anybody.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attest, AttestKind, Attributes, Public, Signature};

use crate::contract::KeyAttestation;
use crate::error::KeystoreError;

/// The key was made by this TPM, never leaves it, and signs.
const REQUIRED: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::SIGN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA;
const FORBIDDEN: u32 = Attributes::RESTRICTED | Attributes::DECRYPT;

/// `point` is the key's public point, `nonce` what was to be bound.
pub(crate) fn check(proof: &KeyAttestation, point: &[u8], nonce: &[u8]) -> Result<(), KeystoreError> {
    let wrong = KeystoreError::Answer;
    let key = Public::parse(&proof.key_public).map_err(|_| wrong("the certified key is malformed"))?;
    let ak = Public::parse(&proof.ak_public).map_err(|_| wrong("the attestation key is malformed"))?;
    let attest = Attest::parse(&proof.message).map_err(|_| wrong("the certification is malformed"))?;
    let signature = Signature::parse(&proof.signature).ok().and_then(|signature| signature.to_der());
    let signature = signature.ok_or(wrong("the certification's signature is malformed"))?;
    let ak_point = ak.point().ok_or(wrong("the attestation key is no point"))?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, ak_point)
        .map_err(|_| wrong("the attestation key is no point"))?
        .verify_sig(&proof.message, &signature)
        .map_err(|_| wrong("the certification is not signed by the attestation key"))?;
    let AttestKind::Certify { name, .. } = &attest.kind else {
        return Err(wrong("another attestation than a certification"));
    };
    if attest.extra_data != nonce {
        return Err(wrong("the certification is for another nonce"));
    }
    if key.name_alg != HashAlg::Sha256 || key.name() != *name {
        return Err(wrong("another key was certified"));
    }
    if !key.attributes.has(REQUIRED) || key.attributes.0 & FORBIDDEN != 0 {
        return Err(wrong("the certified key has other attributes than it was made with"));
    }
    if key.point().as_deref() != Some(point) {
        return Err(wrong("the certified key has another point"));
    }
    Ok(())
}
