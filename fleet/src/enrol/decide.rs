//! Who may begin an enrolment. Pure.
//!
//! A join needs a token for this very name; a renewal needs the TPM and attestation key that the name is bound to.
//! The token is looked at before the device, so that who has none learns no more than whether a name is taken.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::enrol::{Begin, DeviceKeys};

use crate::store::devices::Binding;
use crate::store::tokens::TokenRecord;

pub const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 128;

/// What the fleet knows when a gateway asks to begin.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The record of the token that was shown, if there is one.
    pub token: Option<&'a TokenRecord>,
    /// What the name is bound to.
    pub binding: Option<&'a Binding>,
    /// The name that the TPM is bound to.
    pub name_of_endorsement: Option<&'a GatewayName>,
}

/// Checks what can be checked before any key is looked at.
pub fn check_form(begin: &Begin, domain: &TrustDomain) -> Result<(), Refusal> {
    if begin.trust_domain != *domain {
        let rule = format!("this fleet is the trust domain `{domain}`");
        return Err(Refusal::new(Reason::EnrolName, &begin.trust_domain, rule));
    }
    check_labels(&begin.labels).map_err(|rule| Refusal::new(Reason::RequestInvalid, "labels", rule))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("a gateway has at most {LABELS_MAX} labels"));
    }
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("a label is text of 1 to {LABEL_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

/// The token's part. Returns true when this is a join.
pub fn check_token(begin: &Begin, known: Known<'_>, now: UnixTime) -> Result<bool, Refusal> {
    let refused = |rule: &str| Err(Refusal::new(Reason::EnrolToken, &begin.gateway, rule));
    let Some(_) = begin.token else {
        return if known.binding.is_some() { Ok(false) } else { refused("a gateway joins with a token") };
    };
    let Some(token) = known.token else { return refused("the token is not known") };
    if token.gateway != begin.gateway {
        return Err(Refusal::new(Reason::EnrolName, &begin.gateway, "the token is for another name"));
    }
    if token.used.is_some() {
        return refused("the token was used");
    }
    if token.expires <= now {
        return refused("the token has expired");
    }
    Ok(true)
}

/// The binding's part, once it is known which TPM is asking.
pub fn check_binding(
    gateway: &GatewayName,
    offered: &Binding,
    known: Known<'_>,
    is_join: bool,
) -> Result<(), Refusal> {
    let mismatch = |rule: &str| Err(Refusal::new(Reason::AttestEkMismatch, gateway, rule));
    if let Some(bound) = known.binding {
        if bound.endorsement != offered.endorsement {
            return mismatch("the name is bound to another device key");
        }
        if !is_join && bound.attestation != offered.attestation {
            return mismatch("the attestation key is another one than at the join");
        }
    }
    if known.name_of_endorsement.is_some_and(|name| name != gateway) {
        return mismatch("the device key is bound to another name");
    }
    Ok(())
}

/// The hash of the attestation key, of the device key where there is no TPM.
pub fn attestation_of(keys: &DeviceKeys) -> Digest {
    let key = match keys {
        DeviceKeys::Tpm { ak_public, .. } => ak_public,
        DeviceKeys::None { device_public } => device_public,
    };
    sha256(key.as_slice())
}

pub fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_sha256(&hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_protocol::Bytes;

    const NOW: UnixTime = UnixTime(1000);

    fn name(text: &str) -> GatewayName {
        GatewayName::parse(text).unwrap()
    }

    fn begin(token: Option<&str>) -> Begin {
        Begin {
            gateway: name("gw-1"),
            trust_domain: TrustDomain::parse("plant.example").unwrap(),
            token: token.map(Into::into),
            labels: BTreeMap::new(),
            keys: DeviceKeys::None { device_public: Bytes::default() },
        }
    }

    fn binding(endorsement: u8, attestation: u8) -> Binding {
        Binding { endorsement: sha256(&[endorsement]), attestation: sha256(&[attestation]) }
    }

    #[test]
    fn tokens() {
        let good = TokenRecord { gateway: name("gw-1"), expires: UnixTime(1001), used: None };
        let other = TokenRecord { gateway: name("gw-2"), ..good.clone() };
        let used = TokenRecord { used: Some(UnixTime(1)), ..good.clone() };
        let expired = TokenRecord { expires: NOW, ..good.clone() };
        let bound = binding(1, 1);
        for (case, shown, record, bound, expected) in [
            ("good", Some("t"), Some(&good), None, Ok(true)),
            ("good, known device", Some("t"), Some(&good), Some(&bound), Ok(true)),
            ("renewal", None, None, Some(&bound), Ok(false)),
            ("no token", None, None, None, Err(Reason::EnrolToken)),
            ("unknown token", Some("t"), None, None, Err(Reason::EnrolToken)),
            ("unknown token, known device", Some("t"), None, Some(&bound), Err(Reason::EnrolToken)),
            ("used", Some("t"), Some(&used), None, Err(Reason::EnrolToken)),
            ("expired", Some("t"), Some(&expired), None, Err(Reason::EnrolToken)),
            ("for another name", Some("t"), Some(&other), None, Err(Reason::EnrolName)),
        ] {
            let known = Known { token: record, binding: bound, name_of_endorsement: None };
            let decided = check_token(&begin(shown), known, NOW).map_err(|refusal| refusal.reason);
            assert_eq!(decided, expected, "{case}");
        }
    }

    #[test]
    fn bindings() {
        let (gw_1, gw_2) = (name("gw-1"), name("gw-2"));
        let bound = binding(1, 1);
        for (case, offered, bound_to, name_of, is_join, allowed) in [
            ("first join", binding(1, 1), None, None, true, true),
            ("renewal", binding(1, 1), Some(&bound), Some(&gw_1), false, true),
            ("join again", binding(1, 1), Some(&bound), Some(&gw_1), true, true),
            ("join again with a new attestation key", binding(1, 2), Some(&bound), Some(&gw_1), true, true),
            ("renewal with a new attestation key", binding(1, 2), Some(&bound), Some(&gw_1), false, false),
            ("join with another TPM", binding(2, 1), Some(&bound), None, true, false),
            ("renewal with another TPM", binding(2, 1), Some(&bound), None, false, false),
            ("a second name for a TPM", binding(1, 1), None, Some(&gw_2), true, false),
            ("a swapped TPM", binding(2, 2), Some(&bound), Some(&gw_2), true, false),
        ] {
            let known = Known { token: None, binding: bound_to, name_of_endorsement: name_of };
            let decided = check_binding(&gw_1, &offered, known, is_join);
            assert_eq!(decided.is_ok(), allowed, "{case}");
            if let Err(refusal) = decided {
                assert_eq!(refusal.reason, Reason::AttestEkMismatch, "{case}");
            }
        }
    }

    #[test]
    fn forms() {
        let domain = TrustDomain::parse("plant.example").unwrap();
        assert!(check_form(&begin(None), &domain).is_ok());
        let other = TrustDomain::parse("other.example").unwrap();
        assert_eq!(check_form(&begin(None), &other).unwrap_err().reason, Reason::EnrolName);
        let many: BTreeMap<_, _> = (0..=LABELS_MAX).map(|n| (n.to_string(), "x".into())).collect();
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for labels in [many, one("", "x"), one("x", ""), one("x", "a\nb"), one(&"x".repeat(129), "x")] {
            let bad = Begin { labels, ..begin(None) };
            assert_eq!(check_form(&bad, &domain).unwrap_err().reason, Reason::RequestInvalid);
        }
    }
}
