//! Decision whether an enrolment may begin. Pure.
//!
//! A join needs a token for this very name, and is what the token says: with a TPM, unless the token does without, and
//! with the token's labels. A renewal needs the TPM and attestation key that the name is bound to. A peer that has
//! neither a token nor a known attestation key hears the same for every name, taken or free.

use edgewarden_names::{Digest, GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::enrol::{Begin, DeviceKeys};

use crate::selection::{Labels, check_labels};
use crate::store::devices::Binding;
use crate::store::tokens::{TOKEN_FAILURES_MAX, TokenRecord};
use crate::text;

/// Facts from the store about a gateway that asks to begin.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The record of the token that was shown, if there is one.
    pub token: Option<&'a TokenRecord>,
    /// The keys that the name is bound to; absent for a name that has not joined.
    pub binding: Option<&'a Binding>,
    /// The name that the TPM is bound to.
    pub name_of_endorsement: Option<&'a GatewayName>,
}

/// Checks the form of a request to begin, before any key is looked at.
pub fn check_form(begin: &Begin, domain: &TrustDomain) -> Result<(), Refusal> {
    if begin.trust_domain != *domain {
        let rule = format!("this fleet is the trust domain `{domain}`");
        return Err(Refusal::new(Reason::EnrolName, &begin.trust_domain, rule));
    }
    check_labels(&begin.labels).map_err(|rule| Refusal::new(Reason::RequestInvalid, "labels", rule))
}

/// The part of the token and of the attestation key. Returns true when this is a join.
pub fn check_token(begin: &Begin, known: Known<'_>, now: UnixTime) -> Result<bool, Refusal> {
    let refused = |reason, rule: &dyn std::fmt::Display| Err(Refusal::new(reason, &begin.gateway, rule));
    if begin.token.is_none() {
        let offered = attestation_of(&begin.keys);
        return match known.binding {
            Some(bound) if bound.attestation == offered => Ok(false),
            // The same for a name that is free, so that nobody learns names.
            _ => refused(Reason::EnrolToken, &"without a token, only the keys of the last join are let in"),
        };
    }
    let Some(TokenRecord { grant, used, failures }) = known.token else {
        return refused(Reason::EnrolToken, &"the token is not known");
    };
    if grant.gateway != begin.gateway {
        return refused(Reason::EnrolName, &"the token is for another name");
    }
    if used.is_some() {
        return refused(Reason::EnrolToken, &"the token was used");
    }
    if *failures >= TOKEN_FAILURES_MAX {
        return refused(Reason::EnrolToken, &"too many tries with the token have failed");
    }
    if grant.expires <= now {
        return refused(Reason::EnrolToken, &"the token has expired");
    }
    if matches!(begin.keys, DeviceKeys::None { .. }) && !grant.allow_software {
        return refused(Reason::EnrolHardware, &"the token is for a gateway with a TPM");
    }
    if begin.labels != grant.labels {
        let (ours, theirs) = (shown(&grant.labels), shown(&begin.labels));
        let rule = format!("the token gives {ours}, the gateway says {theirs}");
        return refused(Reason::EnrolLabels, &rule);
    }
    Ok(true)
}

fn shown(labels: &Labels) -> String {
    if labels.is_empty() { "no label".into() } else { format!("`{}`", text::labels(labels)) }
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
    Digest::of(key.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::LABELS_MAX;
    use crate::store::tokens::Grant;
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
            labels: Labels::new(),
            keys: DeviceKeys::None { device_public: b"\x01"[..].into() },
        }
    }

    fn binding(endorsement: u8, attestation: u8) -> Binding {
        Binding { endorsement: Digest::of(&[endorsement]), attestation: Digest::of(&[attestation]) }
    }

    #[test]
    fn tokens() {
        let grant = Grant {
            gateway: name("gw-1"),
            expires: UnixTime(1001),
            allow_software: true,
            labels: Labels::new(),
        };
        let unused = |grant: Grant| TokenRecord { grant, used: None, failures: TOKEN_FAILURES_MAX - 1 };
        let good = unused(grant.clone());
        let other = unused(Grant { gateway: name("gw-2"), ..grant.clone() });
        let used = TokenRecord { used: Some(UnixTime(1)), ..good.clone() };
        let worn = TokenRecord { failures: TOKEN_FAILURES_MAX, ..good.clone() };
        let expired = unused(Grant { expires: NOW, ..grant });
        let (bound, other_key) = (binding(1, 1), binding(1, 2));
        for (case, shown, record, bound, expected) in [
            ("good", Some("t"), Some(&good), None, Ok(true)),
            ("good, known device", Some("t"), Some(&good), Some(&bound), Ok(true)),
            ("renewal", None, None, Some(&bound), Ok(false)),
            ("no token", None, None, None, Err(Reason::EnrolToken)),
            ("no token, another key", None, None, Some(&other_key), Err(Reason::EnrolToken)),
            ("unknown token", Some("t"), None, None, Err(Reason::EnrolToken)),
            ("unknown token, known device", Some("t"), None, Some(&bound), Err(Reason::EnrolToken)),
            ("used", Some("t"), Some(&used), None, Err(Reason::EnrolToken)),
            ("tried too often", Some("t"), Some(&worn), None, Err(Reason::EnrolToken)),
            ("expired", Some("t"), Some(&expired), None, Err(Reason::EnrolToken)),
            ("for another name", Some("t"), Some(&other), None, Err(Reason::EnrolName)),
        ] {
            let known = Known { token: record, binding: bound, name_of_endorsement: None };
            let decided = check_token(&begin(shown), known, NOW).map_err(|refusal| refusal.reason);
            assert_eq!(decided, expected, "{case}");
        }
    }

    #[test]
    fn who_has_no_token_and_no_key_hears_the_same_for_every_name() {
        let other_key = binding(1, 2);
        let refused = |bound| {
            let known = Known { token: None, binding: bound, name_of_endorsement: None };
            check_token(&begin(None), known, NOW).unwrap_err()
        };
        assert_eq!(refused(None), refused(Some(&other_key)));
    }

    #[test]
    fn a_join_is_what_the_token_says() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let clinic = [("site", "clinic")];
        let none = DeviceKeys::None { device_public: b"\x01"[..].into() };
        let tpm = DeviceKeys::Tpm {
            ek_certificates: Vec::new(),
            ek_public: Bytes::default(),
            ak_public: Bytes::default(),
        };
        let north = [("site", "clinic"), ("ward", "north")];
        for (case, allow_software, keys, granted, claimed, expected) in [
            ("a TPM", false, &tpm, &clinic[..], &clinic[..], Ok(true)),
            ("a TPM, with a token that does without", true, &tpm, &[], &[], Ok(true)),
            ("no TPM, allowed", true, &none, &[], &[], Ok(true)),
            ("no TPM", false, &none, &clinic, &clinic, Err(Reason::EnrolHardware)),
            ("a label that nobody gave", false, &tpm, &[], &clinic, Err(Reason::EnrolLabels)),
            ("one label more", false, &tpm, &clinic, &north, Err(Reason::EnrolLabels)),
            ("one label less", false, &tpm, &north, &clinic, Err(Reason::EnrolLabels)),
            ("no label", false, &tpm, &clinic, &[], Err(Reason::EnrolLabels)),
            ("another value", false, &tpm, &clinic, &[("site", "plant")], Err(Reason::EnrolLabels)),
        ] {
            let grant = Grant {
                gateway: name("gw-1"),
                expires: UnixTime(1001),
                allow_software,
                labels: labels(granted),
            };
            let token = TokenRecord { grant, used: None, failures: 0 };
            let known = Known { token: Some(&token), binding: None, name_of_endorsement: None };
            let asked = Begin { labels: labels(claimed), keys: keys.clone(), ..begin(Some("t")) };
            let decided = check_token(&asked, known, NOW).map_err(|refusal| refusal.reason);
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
        let many: Labels = (0..=LABELS_MAX).map(|n| (n.to_string(), "x".into())).collect();
        let one = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        for labels in [many, one("", "x"), one("x", ""), one("x", "a\nb"), one(&"x".repeat(129), "x")] {
            let bad = Begin { labels, ..begin(None) };
            assert_eq!(check_form(&bad, &domain).unwrap_err().reason, Reason::RequestInvalid);
        }
    }
}
