//! Issued certificates: by our own eyes (x509-parser, field by field) and by openssl's.

use crate::common;

use std::collections::HashSet;

use common::{DAY, Fleet, HOUR, Key, NOW, domain, gateway, leaf, module, openssl_verify};
use edgewarden_ca::{RootCa, certificate_request, chain};
use edgewarden_names::UnixTime;
use rcgen::{CertificateParams, Issuer, KeyPair};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
};
use x509_parser::parse_x509_certificate;

#[test]
fn openssl_accepts_a_modules_chain() {
    let fleet = Fleet::new();
    let svid = fleet.issuing().issue_svid(&module("analytics"), &["analytics".into()], HOUR, NOW).unwrap();
    assert_eq!(svid.chain_der.len(), 3);
    for purpose in ["sslclient", "sslserver"] {
        openssl_verify(fleet.root.certificate_der(), &svid.chain_der, purpose, NOW).unwrap();
    }
    let server = fleet
        .root
        .server_certificate(&["fleet.example".into()], &["127.0.0.1".parse().unwrap()], DAY, NOW)
        .unwrap();
    openssl_verify(fleet.root.certificate_der(), &server.chain_der, "sslserver", NOW).unwrap();
}

#[test]
fn openssl_refuses_what_it_should() {
    let fleet = Fleet::new();
    let svid = fleet.issuing().issue_svid(&module("analytics"), &[], HOUR, NOW).unwrap();
    let root = fleet.root.certificate_der();
    let verify = |root: &[u8], chain: &[Vec<u8>], at| openssl_verify(root, chain, "sslserver", at);

    let other = Fleet::new();
    verify(other.root.certificate_der(), &svid.chain_der, NOW).unwrap_err();
    let expired = verify(root, &svid.chain_der, NOW.plus(HOUR * 2)).unwrap_err();
    assert!(expired.contains("expired"), "{expired}");
    verify(root, &svid.chain_der, NOW.minus(HOUR * 2)).unwrap_err();
    verify(root, &svid.chain_der[..1], NOW).unwrap_err();
    verify(root, &svid.chain_der[..2], NOW).unwrap_err();

    // A module that signs another's certificate with its own key.
    let key = KeyPair::try_from(svid.key_pkcs8.as_slice()).unwrap();
    let parent = Issuer::from_ca_cert_der(&svid.chain_der[0].as_slice().into(), key).unwrap();
    let child = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.use_authority_key_identifier_extension = true;
    let forged = params.signed_by(&child, &parent).unwrap();
    let mut chain = vec![forged.der().to_vec()];
    chain.extend(svid.chain_der.clone());
    let refused = verify(root, &chain, NOW).unwrap_err();
    assert!(refused.contains("CA"), "{refused}");
}

#[test]
fn each_field_of_a_leaf_is_as_the_specification_wants() {
    let fleet = Fleet::new();
    let issuing = fleet.issuing();
    let svid =
        issuing.issue_svid(&module("analytics"), &["analytics".into(), "a.b".into()], HOUR, NOW).unwrap();
    let (rest, certificate) = parse_x509_certificate(&svid.chain_der[0]).unwrap();
    assert!(rest.is_empty());
    assert_eq!(certificate.version().0, 2);
    assert_eq!(certificate.subject().to_string(), "CN=analytics");
    assert_eq!(certificate.issuer().to_string(), "CN=gw-1 issuing");
    assert_eq!(certificate.validity().not_before.timestamp(), 1_800_000_000 - 60);
    assert_eq!(certificate.validity().not_after.timestamp(), 1_800_000_000 + 3600);
    assert_eq!((svid.not_before, svid.not_after), (UnixTime(1_799_999_940), UnixTime(1_800_003_600)));

    let extension = |oid| {
        certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid == oid)
            .expect("the extension is there")
    };
    let constraints = extension(OID_X509_EXT_BASIC_CONSTRAINTS);
    assert!(matches!(constraints.parsed_extension(), ParsedExtension::BasicConstraints(found) if !found.ca));
    let usage = extension(OID_X509_EXT_KEY_USAGE);
    assert!(usage.critical);
    let ParsedExtension::KeyUsage(usage) = usage.parsed_extension() else { panic!() };
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let ParsedExtension::ExtendedKeyUsage(purposes) =
        extension(OID_X509_EXT_EXTENDED_KEY_USAGE).parsed_extension()
    else {
        panic!()
    };
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any && purposes.other.is_empty());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::URI("spiffe://plant.example/gateway/gw-1/module/analytics"),
            GeneralName::DNSName("analytics"),
            GeneralName::DNSName("a.b"),
        ]
    );
}

#[test]
fn each_ca_says_which_it_is() {
    let fleet = Fleet::new();
    let svid = fleet.issuing().issue_svid(&leaf("sensor-1"), &[], HOUR, NOW).unwrap();
    let root = fleet.root.certificate_der().to_vec();
    for (der, name, path_length) in [
        (&svid.chain_der[1], "gw-1 issuing", Some(0)),
        (&svid.chain_der[2], "gw-1", Some(1)),
        (&root, "plant.example fleet root", None),
    ] {
        let facts = chain::facts(der).unwrap();
        assert_eq!(facts.common_name.as_deref(), Some(name));
        assert!(facts.is_ca);
        assert_eq!(facts.path_length, path_length, "{name}");
        assert_eq!(facts.uris, ["spiffe://plant.example"]);
        let (_, certificate) = parse_x509_certificate(der).unwrap();
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    }
    assert_eq!(svid.chain_der[2], fleet.gateway_ca);
}

#[test]
fn serials_are_random_and_positive() {
    let fleet = Fleet::new();
    let issuing = fleet.issuing();
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let svid = issuing.issue_svid(&module("analytics"), &[], HOUR, NOW).unwrap();
        let (_, certificate) = parse_x509_certificate(&svid.chain_der[0]).unwrap();
        let raw = certificate.raw_serial();
        assert!(raw.len() <= 20 && raw[0] & 0x80 == 0, "{raw:?}");
        // A 128-bit number that has fewer than 96 bits is a broken generator.
        assert!(raw.len() >= 12, "{raw:?}");
        assert_eq!(svid.serial, chain::facts(&svid.chain_der[0]).unwrap().serial);
        assert!(seen.insert(svid.serial));
    }
}

#[test]
fn a_request_contributes_its_key_and_nothing_else() {
    let fleet = Fleet::new();
    let key = Key::generate();
    // This request asks for a gateway's name and trust domain.
    let csr = certificate_request(&key, &gateway(), &domain()).unwrap();
    let issued = fleet.issuing().issue_for_csr(&leaf("sensor-1"), &csr, DAY, NOW).unwrap();
    openssl_verify(fleet.root.certificate_der(), &issued.chain_der, "sslclient", NOW).unwrap();
    let facts = chain::facts(&issued.chain_der[0]).unwrap();
    assert_eq!(facts.point, key.point());
    assert_eq!(facts.uris, ["spiffe://plant.example/gateway/gw-1/leaf/sensor-1"]);
    assert_eq!(facts.common_name.as_deref(), Some("sensor-1"));
    assert!(!facts.is_ca);
}

#[test]
fn lifetimes_end_with_the_issuers() {
    let root = RootCa::create(&domain(), DAY * 10, NOW).unwrap();
    let key = Key::generate();
    let gateway_ca = root.certify_gateway_ca(&key.point(), &gateway(), DAY * 30, NOW).unwrap();
    assert_eq!(gateway_ca.not_after, root.not_after());
    let later = NOW.plus(DAY * 9);
    let issuing = edgewarden_ca::IssuingCa::create(
        &key,
        &gateway_ca.chain_der[0],
        &domain(),
        &gateway(),
        DAY * 8,
        later,
    )
    .unwrap();
    assert_eq!(issuing.not_after(), root.not_after());
    let svid = issuing.issue_svid(&module("m"), &[], DAY * 7, later).unwrap();
    assert_eq!(svid.not_after, root.not_after());
    // And begin no earlier: the issuing CA was made 60 seconds back from `later`.
    assert_eq!(svid.not_before, later.minus(std::time::Duration::from_secs(60)));
}

#[test]
fn a_root_is_loaded_again() {
    let fleet = Fleet::new();
    let loaded = RootCa::load(&fleet.root.key_pkcs8().unwrap(), fleet.root.certificate_der()).unwrap();
    assert_eq!(loaded.domain(), &domain());
    assert_eq!(loaded.not_after(), fleet.root.not_after());
    let server = loaded.server_certificate(&["fleet.example".into()], &[], DAY, NOW).unwrap();
    openssl_verify(fleet.root.certificate_der(), &server.chain_der, "sslserver", NOW).unwrap();
    assert_eq!(server.id.as_str(), "spiffe://plant.example/fleet");
}
