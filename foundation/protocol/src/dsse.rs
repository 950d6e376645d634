//! The signature around a deployment: DSSE, <https://github.com/secure-systems-lab/dsse>, protocol version 1.
//!
//! Distrusts the whole envelope; trusts only the public keys that the caller gives. Exactly one signature is
//! accepted, so that "signed" never depends on which of several signatures a reader happens to look at.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Largest envelope that is parsed.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

/// `payload` and `sig` are base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    pub payload: Bytes,
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope (DSSE, "JSON Envelope").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// A hint, never trusted.
    pub keyid: String,
    pub sig: Bytes,
}

/// A P-256 public key as an uncompressed point (65 bytes, SEC 1 section 2.3.3) with the name that the operator gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    pub name: String,
    pub point: Vec<u8>,
}

/// Error of an envelope that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsseError {
    #[error("the envelope is not valid: {0}")]
    Malformed(String),
    #[error("the envelope holds `{0}`")]
    PayloadType(String),
    #[error("the envelope has {0} signatures, not one")]
    Signatures(usize),
    #[error("no pinned key made the signature")]
    NotSigned,
}

/// The bytes that are signed: the pre-authentication encoding.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut encoded = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

/// A payload whose signature was checked. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPayload {
    payload: Vec<u8>,
    key_name: String,
}

impl VerifiedPayload {
    /// The payload, whose signature was checked.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
    /// The name of the key that signed.
    pub fn key_name(&self) -> &str {
        &self.key_name
    }
}

/// Checks an envelope against the pinned keys and a payload type. The payload is not looked at before.
pub fn verify(
    envelope: &[u8],
    payload_type: &str,
    keys: &[VerifyingKey],
) -> Result<VerifiedPayload, DsseError> {
    if envelope.len() > ENVELOPE_BYTES_MAX {
        return Err(DsseError::Malformed(format!("it is larger than {ENVELOPE_BYTES_MAX} bytes")));
    }
    let envelope: Envelope =
        serde_json::from_slice(envelope).map_err(|error| DsseError::Malformed(error.to_string()))?;
    if envelope.payload_type != payload_type {
        return Err(DsseError::PayloadType(envelope.payload_type.chars().take(100).collect()));
    }
    let [signature] = envelope.signatures.as_slice() else {
        return Err(DsseError::Signatures(envelope.signatures.len()));
    };
    let signed = pre_authentication_encoding(payload_type, envelope.payload.as_slice());
    for key in keys {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.point);
        if public.verify(&signed, signature.sig.as_slice()).is_ok() {
            return Ok(VerifiedPayload { payload: envelope.payload.0, key_name: key.name.clone() });
        }
    }
    Err(DsseError::NotSigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    fn key() -> (EcdsaKeyPair, VerifyingKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        (pair, VerifyingKey { name: "operator".into(), point })
    }

    fn envelope(pair: &EcdsaKeyPair, payload: &[u8]) -> Envelope {
        let signed = pre_authentication_encoding("t", payload);
        let sig = pair.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec();
        Envelope {
            payload_type: "t".into(),
            payload: payload.into(),
            signatures: vec![Signature { keyid: String::new(), sig: sig.into() }],
        }
    }

    #[test]
    fn only_what_a_pinned_key_signed_passes() {
        let (pair, pinned) = key();
        let (_, other) = key();
        let good = envelope(&pair, b"payload");
        let json = |e: &Envelope| serde_json::to_vec(e).unwrap();
        let verified = verify(&json(&good), "t", &[other.clone(), pinned.clone()]).unwrap();
        assert_eq!((verified.payload(), verified.key_name()), (&b"payload"[..], "operator"));

        let keys = [pinned];
        assert_eq!(verify(&json(&good), "t", &[other]), Err(DsseError::NotSigned));
        assert_eq!(verify(&json(&good), "t", &[]), Err(DsseError::NotSigned));
        assert_eq!(verify(&json(&good), "u", &keys), Err(DsseError::PayloadType("t".into())));
        let mut bad = good.clone();
        bad.payload = b"payloae".as_slice().into();
        assert_eq!(verify(&json(&bad), "t", &keys), Err(DsseError::NotSigned));
        let mut bad = good.clone();
        bad.signatures.push(good.signatures[0].clone());
        assert_eq!(verify(&json(&bad), "t", &keys), Err(DsseError::Signatures(2)));
        bad.signatures.clear();
        assert_eq!(verify(&json(&bad), "t", &keys), Err(DsseError::Signatures(0)));
        assert!(matches!(verify(b"{}", "t", &keys), Err(DsseError::Malformed(_))));
        assert!(matches!(
            verify(&vec![b' '; ENVELOPE_BYTES_MAX + 1], "t", &keys),
            Err(DsseError::Malformed(_))
        ));
    }
}
