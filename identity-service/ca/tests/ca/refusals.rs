//! Refusals to issue, load or read.

use crate::common;

use std::time::Duration;

use common::{DAY, Fleet, HOUR, Key, NOW, domain, gateway, leaf, module};
use edgewarden_ca::{
    CaError, CaSigner, IssuingCa, RootCa, SignError, certificate_request, chain, public_point, spki,
};
use edgewarden_names::{CSR_BYTES_MAX, GatewayName, Reason, SpiffeId, TrustDomain, UnixTime, pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PublicKeyData,
    SanType, SignatureAlgorithm,
};

#[test]
fn only_modules_and_leaves_of_this_gateway_get_a_certificate() {
    let issuing = Fleet::new().issuing();
    for id in [
        "spiffe://plant.example",
        "spiffe://plant.example/fleet",
        "spiffe://plant.example/gateway/gw-1",
        "spiffe://plant.example/gateway/gw-2/module/analytics",
        "spiffe://plant.example/gateway/gw-10/module/analytics",
        "spiffe://plant.example/gateway/gw-1/module/a/b",
        "spiffe://plant.example/gateway/gw-1/module/A",
        "spiffe://other.example/gateway/gw-1/module/analytics",
    ] {
        let id = SpiffeId::parse(id).unwrap();
        let error = issuing.issue_svid(&id, &[], HOUR, NOW).unwrap_err();
        assert!(matches!(error, CaError::ForeignId(_)), "{id}: {error}");
        assert_eq!(error.refusal(id.as_str()).reason, Reason::RequestInvalid);
    }
    issuing.issue_svid(&module("analytics"), &[], HOUR, NOW).unwrap();
}

#[test]
fn names_that_no_certificate_carries() {
    let issuing = Fleet::new().issuing();
    let issue = |dns: &[&str]| {
        let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        issuing.issue_svid(&module("m"), &dns, HOUR, NOW).map(drop)
    };
    for name in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*.example",
        "A",
        "a b",
        "a/b",
        "-a",
        "a-",
        "münchen",
        "127.0.0.1",
        "::1",
        "a\0b",
        &"a".repeat(64),
        &vec!["abc"; 64].join("."),
    ] {
        assert!(matches!(issue(&[name]), Err(CaError::DnsName(_))), "{name}");
    }
    assert!(matches!(issue(&["a"; 17]), Err(CaError::Request(_))));
    issue(&["a"; 16]).unwrap();
}

#[test]
fn an_issuer_that_is_not_valid_issues_nothing() {
    let fleet = Fleet::new();
    let issuing = fleet.issuing();
    let csr = certificate_request(&Key::generate(), &gateway(), &domain()).unwrap();
    for (now, expired) in [
        (NOW.plus(DAY * 8), true),
        (NOW.plus(DAY * 900), true),
        (NOW.minus(HOUR), false),
        (UnixTime(0), false),
    ] {
        for error in [
            issuing.issue_svid(&module("m"), &[], HOUR, now).unwrap_err(),
            issuing.issue_for_csr(&leaf("l"), &csr, HOUR, now).unwrap_err(),
        ] {
            assert_eq!(matches!(error, CaError::IssuerExpired { .. }), expired, "{error}");
            assert_eq!(matches!(error, CaError::IssuerNotYetValid { .. }), !expired, "{error}");
            assert_eq!(error.refusal("m").reason, Reason::IdentityUnavailable);
        }
    }
    assert!(matches!(issuing.issue_svid(&module("m"), &[], Duration::ZERO, NOW), Err(CaError::Lifetime)));
    let create = |now| {
        IssuingCa::create(&fleet.key, &fleet.gateway_ca, &domain(), &gateway(), DAY, now)
            .map(drop)
            .unwrap_err()
    };
    assert!(matches!(create(NOW.plus(DAY * 30)), CaError::IssuerExpired { .. }));
    assert!(matches!(create(NOW.minus(DAY)), CaError::IssuerNotYetValid { .. }));
    let certify = |now| fleet.root.certify_gateway_ca(&fleet.key.point(), &gateway(), DAY, now).map(drop);
    assert!(matches!(certify(NOW.plus(DAY * 365)), Err(CaError::IssuerExpired { .. })));
}

#[test]
fn an_issuing_ca_needs_the_right_gateway_ca() {
    let fleet = Fleet::new();
    let svid = fleet.issuing().issue_svid(&module("m"), &[], HOUR, NOW).unwrap();
    let create = |key: &Key, der: &[u8], domain: &TrustDomain, gateway: &GatewayName| {
        IssuingCa::create(key, der, domain, gateway, DAY, NOW).map(drop)
    };
    let other_key = Key::generate();
    let other_gateway = GatewayName::parse("gw-2").unwrap();
    let other_domain = TrustDomain::parse("other.example").unwrap();
    for (key, der, domain, gateway) in [
        (&other_key, fleet.gateway_ca.as_slice(), domain(), gateway()),
        (&fleet.key, &fleet.gateway_ca, other_domain, gateway()),
        (&fleet.key, &fleet.gateway_ca, domain(), other_gateway),
        (&fleet.key, &svid.chain_der[0], domain(), gateway()),
        (&fleet.key, &svid.chain_der[1], domain(), gateway()),
        (&fleet.key, fleet.root.certificate_der(), domain(), gateway()),
        (&fleet.key, b"", domain(), gateway()),
        (&fleet.key, &fleet.gateway_ca[..100], domain(), gateway()),
        (&fleet.key, &[fleet.gateway_ca.as_slice(), &[0]].concat(), domain(), gateway()),
    ] {
        let error = create(key, der, &domain, &gateway).unwrap_err();
        assert!(matches!(error, CaError::Certificate(_)), "{error}");
    }
}

/// A certificate for the gateway CA's key as no fleet of ours makes it.
fn odd_gateway_ca(key: &Key, names: &[&str], uris: &[&str], is_ca: IsCa) -> Vec<u8> {
    struct Point(Vec<u8>);
    impl PublicKeyData for Point {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2090, 1, 1));
    params.distinguished_name = DistinguishedName::new();
    for (at, name) in names.iter().enumerate() {
        // rcgen keeps one value of a kind; the second common name is spelled by its number.
        let kind = if at == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
        params.distinguished_name.push(kind, *name);
    }
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = is_ca;
    let issuer = KeyPair::generate().unwrap();
    let issuer = Issuer::new(CertificateParams::default(), issuer);
    params.signed_by(&Point(key.point()), &issuer).unwrap().der().to_vec()
}

#[test]
fn a_gateway_ca_that_means_two_things_is_refused() {
    let fleet = Fleet::new();
    let one = || IsCa::Ca(BasicConstraints::Constrained(1));
    let domain_id = "spiffe://plant.example";
    let create = |der: &[u8]| IssuingCa::create(&fleet.key, der, &domain(), &gateway(), DAY, NOW);
    create(&odd_gateway_ca(&fleet.key, &["gw-1"], &[domain_id], one())).unwrap();
    let two = odd_gateway_ca(&fleet.key, &["gw-1", "gw-2"], &[domain_id], one());
    assert_eq!(chain::facts(&two).unwrap().common_name, None);
    for (case, names, uris, is_ca) in [
        ("two names", &["gw-1", "gw-2"][..], &[domain_id][..], one()),
        ("the same name twice", &["gw-1", "gw-1"], &[domain_id], one()),
        ("two trust domains", &["gw-1"], &[domain_id, "spiffe://other.example"], one()),
        ("a path in its ID", &["gw-1"], &["spiffe://plant.example/gateway/gw-1"], one()),
        ("the trust domain in capitals", &["gw-1"], &["spiffe://PLANT.example"], one()),
        ("a longer path", &["gw-1"], &[domain_id], IsCa::Ca(BasicConstraints::Constrained(2))),
        ("no end to the path", &["gw-1"], &[domain_id], IsCa::Ca(BasicConstraints::Unconstrained)),
        ("no CA", &["gw-1"], &[domain_id], IsCa::ExplicitNoCa),
    ] {
        let error = create(&odd_gateway_ca(&fleet.key, names, uris, is_ca)).expect_err(case);
        assert!(matches!(error, CaError::Certificate(_)), "{case}: {error}");
    }
}

#[test]
fn a_key_that_does_not_sign_is_named() {
    struct Broken(Vec<u8>);
    impl CaSigner for Broken {
        fn public_point(&self) -> Result<Vec<u8>, SignError> {
            Ok(self.0.clone())
        }
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
            Err(SignError::new(std::io::Error::other("the TPM is away")))
        }
    }
    let fleet = Fleet::new();
    let broken = Broken(fleet.key.point());
    for error in [
        certificate_request(&broken, &gateway(), &domain()).unwrap_err(),
        IssuingCa::create(&broken, &fleet.gateway_ca, &domain(), &gateway(), DAY, NOW).unwrap_err(),
    ] {
        let CaError::Signer(source) = &error else { panic!("{error}") };
        assert_eq!(std::error::Error::source(source).unwrap().to_string(), "the TPM is away");
    }
    for point in [vec![], vec![4; 64], vec![4; 65], vec![0; 65]] {
        assert!(matches!(certificate_request(&Broken(point), &gateway(), &domain()), Err(CaError::Key(_))));
    }
}

#[test]
fn requests_are_read_strictly() {
    let good = certificate_request(&Key::generate(), &gateway(), &domain()).unwrap();
    public_point(&good).unwrap();
    for length in 0..good.len() {
        assert!(public_point(&good[..length]).is_err(), "{length}");
    }
    assert!(public_point(&[good.as_slice(), &[0]].concat()).is_err());
    assert!(public_point(&vec![0x30; CSR_BYTES_MAX + 1]).is_err());
    // Whatever byte is changed, the request is refused: the signature covers all but itself.
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(public_point(&bad).is_err(), "{at}");
    }
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let error = public_point(request.der()).unwrap_err();
        assert!(matches!(error, CaError::Request("its key is not a P-256 key")), "{error}");
    }
}

#[test]
fn a_root_is_loaded_only_whole() {
    let (one, other) = (Fleet::new(), Fleet::new());
    let key = one.root.key_pkcs8().unwrap();
    let server = one.root.server_certificate(&[], &[], DAY, NOW).unwrap();
    for (key, certificate) in [
        (&other.root.key_pkcs8().unwrap()[..], one.root.certificate_der()),
        (&key, other.root.certificate_der()),
        (&key, &one.gateway_ca),
        (&server.key_pkcs8, &server.chain_der[0]),
        (&key, b""),
        (b"", one.root.certificate_der()),
        (&key[..key.len() - 1], one.root.certificate_der()),
    ] {
        assert!(RootCa::load(key, certificate).is_err());
    }
    for point in [&[][..], &[4; 65], &one.key.point()[..64]] {
        assert!(matches!(one.root.certify_gateway_ca(point, &gateway(), DAY, NOW), Err(CaError::Key(_))));
    }
}

#[test]
fn pem_is_read_strictly() {
    let point = Key::generate().point();
    let good = spki::to_pem(&point).unwrap();
    assert_eq!(spki::point_of_pem(&good).unwrap(), point);
    assert_eq!(spki::point_of_pem(&good.replace('\n', "\r\n")).unwrap(), point);
    for bad in [
        String::new(),
        "-----BEGIN PUBLIC KEY-----".into(),
        good.replace("PUBLIC KEY", "CERTIFICATE"),
        good.replace("END", "FIN"),
        format!("words\n{good}"),
        format!("{good}words"),
        format!("{good}{good}"),
        good.replace("MFkw", "MFk"),
        good.replace("MFkw", "MFk*"),
        good.repeat(10_000),
    ] {
        assert!(spki::point_of_pem(&bad).is_err(), "{}", bad.chars().take(200).collect::<String>());
    }
    assert_eq!(pem::all(&good.repeat(3), pem::PUBLIC_KEY).unwrap().len(), 3);
    assert!(pem::all(&good.repeat(33), pem::PUBLIC_KEY).is_err());
    // A key on another curve, and one with its point compressed.
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    assert!(matches!(spki::point_of_pem(&other), Err(CaError::Key(_))));
}

#[test]
fn certificates_are_read_strictly() {
    let fleet = Fleet::new();
    let good = fleet.root.certificate_der();
    chain::facts(good).unwrap();
    for length in 0..good.len() {
        assert!(chain::facts(&good[..length]).is_err(), "{length}");
    }
    assert!(chain::facts(&[good, &[0]].concat()).is_err());
    assert!(chain::facts(&vec![0x30; 17 * 1024]).is_err());
}

#[test]
fn secrets_are_silent() {
    let fleet = Fleet::new();
    let svid = fleet.issuing().issue_svid(&module("m"), &[], HOUR, NOW).unwrap();
    let shown = format!("{svid:?} {:?} {:?}", fleet.root, fleet.issuing());
    assert!(shown.contains("spiffe://plant.example/gateway/gw-1/module/m"));
    assert!(!shown.contains("key"), "{shown}");
}
