//! Verification of an agreement key: that it is the one that secrets for a gateway are sealed to.
//!
//! Trusts the fleet's root as the caller pins it. Distrusts whoever handed the key over, the fleet's server too: a key
//! that were taken on its word would let it read what is sealed.

use edgewarden_ca::{gateway_ca, spki};
use edgewarden_names::{GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::dsse::{self, VerifyingKey};
use edgewarden_protocol::secret::{AgreementKey, KEY_PAYLOAD_TYPE, KeyStatement};

/// The agreement key's point, when the gateway CA's key vouches for it and the root for that key.
pub fn verify(
    key: &AgreementKey,
    root_der: &[u8],
    domain: &TrustDomain,
    gateway: &GatewayName,
    now: UnixTime,
) -> Result<Vec<u8>, Refusal> {
    let refuse = |rule: &dyn std::fmt::Display| {
        Refusal::new(Reason::PeerUnauthorized, format!("agreement key of {gateway}"), rule)
    };
    let point = gateway_ca::point(key.gateway_ca.as_slice(), root_der, domain, gateway, now)
        .map_err(|error| refuse(&format_args!("the gateway CA's certificate does not hold: {error}")))?;
    let pinned = [VerifyingKey { name: "gateway-ca".into(), point }];
    let verified = dsse::verify(key.statement.as_slice(), KEY_PAYLOAD_TYPE, &pinned)
        .map_err(|error| refuse(&format_args!("the statement does not hold: {error}")))?;
    let statement: KeyStatement = serde_json::from_slice(verified.payload())
        .map_err(|error| refuse(&format_args!("the statement cannot be read: {error}")))?;
    if statement.trust_domain != *domain || statement.gateway != *gateway {
        return Err(refuse(&"the statement is about another gateway"));
    }
    spki::check_point(statement.key.as_slice()).map_err(|error| refuse(&error))?;
    Ok(statement.key.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    use edgewarden_ca::RootCa;
    use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
    use serde_json::{Value, json};

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86400);

    struct Gateway {
        ca: EcdsaKeyPair,
        root: RootCa,
        point: Vec<u8>,
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("plant.example").unwrap()
    }

    fn name(name: &str) -> GatewayName {
        GatewayName::parse(name).unwrap()
    }

    impl Gateway {
        fn new() -> Self {
            let agreement = PrivateKey::generate(&ECDH_P256).unwrap();
            Self {
                ca: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(),
                root: RootCa::create(&domain(), 100 * DAY, NOW).unwrap(),
                point: agreement.compute_public_key().unwrap().as_ref().to_vec(),
            }
        }

        fn certificate(&self, gateway: &str) -> Vec<u8> {
            let point = self.ca.public_key().as_ref();
            self.root.certify_gateway_ca(point, &name(gateway), 30 * DAY, NOW).unwrap().chain_der.remove(0)
        }

        fn statement(&self) -> Value {
            json!({"trust_domain": "plant.example", "gateway": "gw-1",
                   "key": edgewarden_protocol::Bytes(self.point.clone()), "at": NOW})
        }

        fn signed(&self, kind: &str, statement: &Value) -> AgreementKey {
            let payload = statement.to_string().into_bytes();
            let signed = pre_authentication_encoding(kind, &payload);
            let sig = self.ca.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec();
            let signatures = vec![Signature { keyid: String::new(), sig: sig.into() }];
            let envelope = Envelope { payload_type: kind.into(), payload: payload.into(), signatures };
            AgreementKey {
                gateway_ca: self.certificate("gw-1").into(),
                statement: serde_json::to_vec(&envelope).unwrap().into(),
            }
        }
    }

    #[test]
    fn only_the_gateways_own_word_under_the_pinned_root_counts() {
        let (gateway, other) = (Gateway::new(), Gateway::new());
        let root = gateway.root.certificate_der();
        let good = gateway.signed(KEY_PAYLOAD_TYPE, &gateway.statement());
        let check = |key: &AgreementKey, root: &[u8], gateway: &str, now| {
            verify(key, root, &domain(), &name(gateway), now)
        };
        assert_eq!(check(&good, root, "gw-1", NOW).unwrap(), gateway.point);
        assert!(check(&good, other.root.certificate_der(), "gw-1", NOW).is_err(), "another root");
        assert!(check(&good, root, "gw-2", NOW).is_err(), "another gateway");
        assert!(check(&good, root, "gw-1", NOW.plus(31 * DAY)).is_err(), "an old certificate");

        let of = |change: fn(&mut Value)| {
            let mut statement = gateway.statement();
            change(&mut statement);
            gateway.signed(KEY_PAYLOAD_TYPE, &statement)
        };
        let foreign = other.signed(KEY_PAYLOAD_TYPE, &other.statement());
        for (what, bad) in [
            ("another gateway's statement", of(|s| s["gateway"] = json!("gw-2"))),
            ("another domain's statement", of(|s| s["trust_domain"] = json!("other.example"))),
            ("no point", of(|s| s["key"] = json!(edgewarden_protocol::Bytes(vec![4; 65])))),
            ("an unknown field", of(|s| s["also"] = json!(1))),
            ("another kind of statement", gateway.signed("a/b", &gateway.statement())),
            ("another CA's whole", foreign.clone()),
            ("another CA's statement", AgreementKey { gateway_ca: good.gateway_ca.clone(), ..foreign }),
            (
                "another name's certificate",
                AgreementKey { gateway_ca: gateway.certificate("gw-2").into(), ..good.clone() },
            ),
            ("nothing", AgreementKey { gateway_ca: Vec::new().into(), statement: Vec::new().into() }),
        ] {
            assert!(check(&bad, root, "gw-1", NOW).is_err(), "{what}");
        }
    }
}
