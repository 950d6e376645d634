//! The gateway CA's certificate of one gateway, and everything that is not it.

use crate::common;

use std::time::Duration;

use common::{DAY, HOUR, Key, NOW, domain, gateway, module};
use edgewarden_ca::{IssuingCa, RootCa, gateway_ca};
use edgewarden_names::{GatewayName, TrustDomain};

#[test]
fn only_the_gateways_own_certificate_gives_its_key() {
    let key = Key::generate();
    let root = RootCa::create(&domain(), 10 * DAY, NOW).unwrap();
    let certificate =
        root.certify_gateway_ca(&key.point(), &gateway(), 2 * DAY, NOW).unwrap().chain_der.remove(0);
    let root_der = root.certificate_der();
    let other_root = RootCa::create(&domain(), 10 * DAY, NOW).unwrap();
    let other_gateway = GatewayName::parse("gw-2").unwrap();
    let other_domain = TrustDomain::parse("other.example").unwrap();
    let check = |der: &[u8], root: &[u8], domain: &TrustDomain, gateway: &GatewayName, now| {
        gateway_ca::point(der, root, domain, gateway, now)
    };
    assert_eq!(check(&certificate, root_der, &domain(), &gateway(), NOW).unwrap(), key.point());

    let later = NOW.plus(3 * DAY);
    let earlier = NOW.minus(DAY);
    let mut changed = certificate.clone();
    *changed.last_mut().unwrap() ^= 1;
    let issuing = IssuingCa::create(&key, &certificate, &domain(), &gateway(), HOUR, NOW).unwrap();
    let svid = issuing.issue_svid(&module("analytics"), &[], Duration::from_secs(600), NOW).unwrap();
    let [leaf, above, ..] = svid.chain_der.as_slice() else { unreachable!() };
    for (name, der, root, domain, gateway, now) in [
        ("another root", &certificate, other_root.certificate_der(), domain(), gateway(), NOW),
        ("another gateway", &certificate, root_der, domain(), other_gateway, NOW),
        ("another domain", &certificate, root_der, other_domain, gateway(), NOW),
        ("expired", &certificate, root_der, domain(), gateway(), later),
        ("not yet valid", &certificate, root_der, domain(), gateway(), earlier),
        ("changed", &changed, root_der, domain(), gateway(), NOW),
        ("the issuing CA", above, root_der, domain(), gateway(), NOW),
        ("a leaf", leaf, root_der, domain(), gateway(), NOW),
        ("the root itself", &root_der.to_vec(), root_der, domain(), gateway(), NOW),
        ("nothing", &Vec::new(), root_der, domain(), gateway(), NOW),
    ] {
        assert!(check(der, root, &domain, &gateway, now).is_err(), "{name}");
    }
}
