//! The keys that a gateway signs JWT-SVIDs with, as it vouches for them to others: a DSSE envelope around a
//! [`Statement`], signed by the gateway CA's key.
//!
//! All gateways of a trust domain have keys of their own for it. Who collects them (the fleet, for the trust domain's
//! bundle) checks each statement with the key that the gateway's CA certificate names: a gateway cannot put keys there
//! for another. Trusts that key; distrusts every byte of the envelope.

use std::collections::BTreeSet;

use edgewarden_names::{GatewayName, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::dsse::{self, DsseError, VerifyingKey};

pub const PAYLOAD_TYPE: &str = "application/vnd.edgewarden.jwt-keys+json";
/// Most keys that a gateway has out at a time.
pub const KEYS_MAX: usize = 32;
/// Largest envelope.
pub const SIGNED_BYTES_MAX: usize = 32 * 1024;
const POINT_BYTES: usize = 65;
const KID_BYTES_MAX: usize = 64;

/// The keys that a gateway signs JWT-SVIDs with, as its CA's key states them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    /// Grows with every change. A lower one than was seen before is an old statement.
    pub sequence: u64,
    pub at: UnixTime,
    /// All of them: a key that is not here is withdrawn.
    pub keys: Vec<PublishedKey>,
}

/// A public key of JWT-SVIDs, with its key ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedKey {
    pub kid: String,
    /// P-256, uncompressed point, 65 bytes.
    pub point: Bytes,
    /// The last token that it signs ends no later.
    pub not_after: UnixTime,
}

/// Error of a statement that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error("the statement is larger than {SIGNED_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Signature(#[from] DsseError),
    #[error("the statement cannot be read: {0}")]
    Malformed(String),
    #[error("the statement is another gateway's, or of another trust domain")]
    Foreign,
    #[error("the statement's keys are not what they should be")]
    Keys,
}

/// Reads a statement that `gateway` signed with the key of its CA (an uncompressed point).
pub fn verify(
    envelope: &[u8],
    trust_domain: &TrustDomain,
    gateway: &GatewayName,
    ca_point: &[u8],
) -> Result<Statement, StatementError> {
    if envelope.len() > SIGNED_BYTES_MAX {
        return Err(StatementError::TooLarge);
    }
    let key = VerifyingKey { name: gateway.to_string(), point: ca_point.to_vec() };
    let payload = dsse::verify(envelope, PAYLOAD_TYPE, &[key])?;
    let statement: Statement = serde_json::from_slice(payload.payload())
        .map_err(|error| StatementError::Malformed(error.to_string()))?;
    if statement.gateway != *gateway || statement.trust_domain != *trust_domain {
        return Err(StatementError::Foreign);
    }
    let mut seen = BTreeSet::new();
    let right =
        |key: &PublishedKey| key.point.0.len() == POINT_BYTES && (1..=KID_BYTES_MAX).contains(&key.kid.len());
    let unique = statement.keys.iter().all(|key| right(key) && seen.insert(key.kid.as_str()));
    if !unique || statement.keys.len() > KEYS_MAX {
        return Err(StatementError::Keys);
    }
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;
    use crate::dsse::{Envelope, Signature, pre_authentication_encoding};

    fn sign(pair: &EcdsaKeyPair, payload_type: &str, payload: &[u8]) -> Vec<u8> {
        let signed = pre_authentication_encoding(payload_type, payload);
        let sig = pair.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec().into();
        let signatures = vec![Signature { keyid: String::new(), sig }];
        let envelope = Envelope { payload_type: payload_type.into(), payload: payload.into(), signatures };
        serde_json::to_vec(&envelope).unwrap()
    }

    #[test]
    fn a_statement_counts_only_for_the_gateway_whose_key_signed_it() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let (domain, gateway) =
            (TrustDomain::parse("plant.example").unwrap(), GatewayName::parse("gw-1").unwrap());
        let point = pair.public_key().as_ref();
        let key = |kid: &str| PublishedKey {
            kid: kid.into(),
            point: point.to_vec().into(),
            not_after: UnixTime(7),
        };
        let good = Statement {
            gateway: gateway.clone(),
            trust_domain: domain.clone(),
            sequence: 3,
            at: UnixTime(1),
            keys: vec![key("a"), key("b")],
        };
        let text = |statement: &Statement| serde_json::to_vec(statement).unwrap();
        let judge = |envelope: &[u8]| verify(envelope, &domain, &gateway, point);
        assert_eq!(judge(&sign(&pair, PAYLOAD_TYPE, &text(&good))), Ok(good.clone()));

        let change = |change: fn(&mut Statement)| {
            let mut statement = good.clone();
            change(&mut statement);
            sign(&pair, PAYLOAD_TYPE, &text(&statement))
        };
        let mut many = good.clone();
        many.keys = (0..=KEYS_MAX).map(|n| key(&n.to_string())).collect();
        for (name, envelope) in [
            ("another's signature", sign(&other, PAYLOAD_TYPE, &text(&good))),
            ("another type", sign(&pair, "application/vnd.edgewarden.deployment+json", &text(&good))),
            ("another gateway", change(|statement| statement.gateway = GatewayName::parse("gw-2").unwrap())),
            (
                "another trust domain",
                change(|statement| statement.trust_domain = TrustDomain::parse("x").unwrap()),
            ),
            ("a key twice", change(|statement| statement.keys[1].kid = "a".into())),
            ("a key without a name", change(|statement| statement.keys[1].kid.clear())),
            ("a short key", change(|statement| statement.keys[1].point = vec![4; 64].into())),
            ("too many keys", sign(&pair, PAYLOAD_TYPE, &text(&many))),
            ("too large", change(|statement| statement.keys[0].kid = "k".repeat(SIGNED_BYTES_MAX))),
            ("unknown field", {
                let mut value = serde_json::to_value(&good).unwrap();
                value["more"] = 1.into();
                sign(&pair, PAYLOAD_TYPE, value.to_string().as_bytes())
            }),
            ("no envelope", text(&good)),
        ] {
            assert!(judge(&envelope).is_err(), "{name}");
        }
    }
}
