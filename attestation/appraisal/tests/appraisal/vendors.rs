//! Enrolment by TPM: certificates of makers and of makers' kinds, paths, and files of authorities.

use crate::common;

use std::fmt::Write as _;
use std::path::PathBuf;

use common::{
    EkCertificate, Forge, NOW, ca, ca_with, content, critical, element, pem, sign_changed, vendor, wrap,
};
use edgewarden_appraisal::{
    BUNDLE_BYTES_MAX, Pending, VendorBundle, VendorBundleError, VendorRoots, challenge,
};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attributes, Curve, Key, Public, Scheme, Symmetric};
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::DeviceKeys;
use edgewarden_testkit::Authority;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
};

const POLICIES: [u64; 4] = [2, 5, 29, 32];
const POLICY_MAPPINGS: [u64; 4] = [2, 5, 29, 33];
const POLICY_CONSTRAINTS: [u64; 4] = [2, 5, 29, 36];
const INHIBIT_ANY: [u64; 4] = [2, 5, 29, 54];

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)).unwrap()
}

/// A file of a public project, when it lies beside the checkout.
fn corpus(name: &str) -> Option<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus/ek-certificates");
    std::fs::read(PathBuf::from(folder).join(name)).ok()
}

/// The certificates of a PEM file.
fn ders(name: &str) -> Vec<Vec<u8>> {
    ders_of(&golden(name))
}

fn ders_of(pem: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let text = std::str::from_utf8(pem).unwrap();
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let body = |block: &str| block.split("-----END").next().unwrap().split_whitespace().collect::<String>();
    blocks.map(|block| base64::engine::general_purpose::STANDARD.decode(body(block)).unwrap()).collect()
}

/// The endorsement key of a certificate, as a TPM would give its public area by TCG's template.
fn endorsement(der: &[u8]) -> Public {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let bits = &certificate.public_key().subject_public_key.data;
    let template = |key| Public {
        name_alg: HashAlg::Sha256,
        attributes: Attributes(common::EK_ATTRIBUTES),
        auth_policy: Vec::new(),
        key,
    };
    if bits[0] == 0x30 {
        let modulus = content(content(bits)).to_vec();
        let modulus = modulus.strip_prefix(&[0]).unwrap_or(&modulus).to_vec();
        template(Key::Rsa { symmetric: Symmetric::Aes128Cfb, scheme: Scheme::Null, exponent: 0, modulus })
    } else {
        let (x, y) = bits[1..].split_at(32);
        let (x, y) = (x.to_vec(), y.to_vec());
        template(Key::Ecc { symmetric: Symmetric::Aes128Cfb, scheme: Scheme::Null, curve: Curve::P256, x, y })
    }
}

fn enrol(chain: &[Vec<u8>], roots: &VendorRoots, now: UnixTime) -> Result<Pending, Refusal> {
    let keys = DeviceKeys::Tpm {
        ek_certificates: chain.iter().cloned().map(Bytes).collect(),
        ek_public: endorsement(&chain[0]).to_bytes().into(),
        ak_public: Forge::new().ak_public.to_bytes().into(),
    };
    challenge(&keys, roots, now).map(|(_, pending)| pending)
}

fn roots(vendors: &[&Authority]) -> VendorRoots {
    let text: String = vendors.iter().map(|vendor| vendor.pem()).collect();
    VendorRoots::from_pem(text.as_bytes()).unwrap()
}

/// An EK certificate by `issuer`, presented to a fleet that knows `known`.
fn judge(leaf: EkCertificate, known: &[&Authority]) -> Result<Pending, Refusal> {
    let der = leaf.make(&Forge::new().ek_point());
    let sent = leaf.issuer.der;
    enrol(&[der, sent], &roots(known), NOW)
}

fn by(issuer: Authority) -> EkCertificate {
    EkCertificate { issuer, ..EkCertificate::default() }
}

fn refused(what: &str, result: Result<Pending, Refusal>, reason: Reason, words: &[&str]) {
    let refusal = result.map(drop).expect_err(what);
    assert_eq!(refusal.reason, reason, "{what}: {refusal}");
    for word in words {
        assert!(refusal.rule.contains(word), "{what}: no `{word}` in: {refusal}");
    }
}

#[test]
fn a_genuine_tpm_with_critical_policies_above_it_enrols() {
    let (Some(leaf), Some(vendor)) = (corpus("st-rsa-leaf.pem"), corpus("st-rsa-intermediate-and-root.pem"))
    else {
        return println!("skipped: the genuine certificates are not beside the checkout");
    };
    let leaf = ders_of(&leaf).remove(0);
    let known = VendorRoots::from_pem(&vendor).unwrap();
    let pending = enrol(std::slice::from_ref(&leaf), &known, NOW).unwrap();
    assert_eq!(pending.hardware(), "tpm STM ST33HTPHAHB4");
    // The intermediate comes from the TPM, and only the makers' roots are known.
    let authorities = ders_of(&vendor);
    let upper: String = authorities[1..].iter().map(|der| pem("CERTIFICATE", der)).collect();
    let upper = VendorRoots::from_pem(upper.as_bytes()).unwrap();
    enrol(&[leaf.clone(), authorities[0].clone()], &upper, NOW).unwrap();
    refused(
        "no intermediate",
        enrol(std::slice::from_ref(&leaf), &upper, NOW),
        Reason::AttestEkUntrusted,
        &["STM TPM EK Intermediate CA 05", "1A:DB:99:4A", "http://secure.globalsign.com/stmtpmekint05.crt"],
    );
    refused(
        "in 2029",
        enrol(std::slice::from_ref(&leaf), &known, UnixTime(1_861_920_000)),
        Reason::AttestEkExpired,
        &["STM TPM EK Intermediate CA 05", "Jul 11", "2028"],
    );
}

#[test]
fn a_path_is_followed_as_far_as_it_is_known() {
    let leaf = ders("makers/stm-ecc-leaf.pem").remove(0);
    let mut vendor = golden("makers/stm-ecc-intermediate-01.pem");
    vendor.extend(b"\n");
    vendor.extend(golden("makers/stm-ecc-root-01.pem"));
    let known = VendorRoots::from_pem(&vendor).unwrap();
    assert!(known.is_empty(), "the makers' upper certificate is not self-signed");
    refused(
        "GlobalSign's root is missing",
        enrol(&[leaf], &known, NOW),
        Reason::AttestEkUntrusted,
        &[
            "GlobalSign Trusted Platform Module ECC Root CA",
            "STM TPM ECC Root CA 01",
            "no TPM vendor is trusted",
        ],
    );
}

/// Hierarchies as makers have them; a link less is a path less.
#[test]
fn hierarchies_as_makers_build_them() {
    let eku = wrap(0x30, &wrap(6, &[0x67, 0x81, 0x05, 0x08, 0x01]));
    let limited = |length| IsCa::Ca(BasicConstraints::Constrained(length));
    let point = Forge::new().ek_point();

    // A root that signs endorsement keys itself, and nothing else.
    let direct = Authority::root(ca_with("direct", |params| {
        params.is_ca = limited(0);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }));
    let leaf = by(direct);
    enrol(&[leaf.make(&point)], &roots(&[&leaf.issuer]), NOW).unwrap();

    // An intermediate whose purpose and policies are critical.
    let root = Authority::root(ca_with("root", |params| params.is_ca = limited(1)));
    let narrow = root.beneath(ca_with("narrow", |params| {
        params.is_ca = limited(0);
        params.custom_extensions.push(critical(&[2, 5, 29, 37], eku.clone()));
        params.custom_extensions.push(critical(&POLICIES, policies(&[Some(7)])));
    }));
    judge(by(narrow), &[&root]).unwrap();

    // Three authorities of the maker, then three that live in the chip and come with its certificate.
    let p384 = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let maker = Authority::root_with_key(ca("maker"), p384());
    let family = maker.beneath_with_key(ca("family"), p384());
    let product = family.beneath_with_key(ca("product"), p384());
    let rom = product.beneath_with_key(ca_with("rom", |params| params.is_ca = limited(2)), p384());
    let kernel = rom.beneath_with_key(ca_with("kernel", |params| params.is_ca = limited(1)), p384());
    let tpm = kernel.beneath_with_key(ca_with("tpm", |params| params.is_ca = limited(0)), p384());
    let (rom, kernel, chip) = (rom.der, kernel.der, tpm.der.clone());
    let leaf = by(tpm).make(&point);
    let known = roots(&[&maker, &family, &product]);
    // In whatever order the chip keeps them.
    enrol(&[leaf.clone(), rom.clone(), chip.clone(), kernel.clone()], &known, NOW).unwrap();
    for (missing, sent, known, called) in [
        ("kernel", vec![leaf.clone(), rom.clone(), chip.clone()], &known, "CN=kernel"),
        ("chip", vec![leaf.clone(), rom.clone(), kernel.clone()], &known, "CN=tpm"),
        ("family", vec![leaf.clone(), rom, chip, kernel], &roots(&[&maker, &product]), "CN=family"),
    ] {
        refused(missing, enrol(&sent, known, NOW), Reason::AttestEkUntrusted, &[called]);
    }
}

/// Makers disagree about how an endorsement key is called.
#[test]
fn rsa_keys_for_oaep_only_enrol() {
    let usage = vec![KeyUsagePurpose::KeyEncipherment];
    let certificate = EkCertificate { usage, ..EkCertificate::default() };
    let mut modulus = [0xc1; 256];
    modulus[255] = 0x47;
    let plain = certificate.make_rsa(&[&[0], &modulus[..]].concat());
    let oid = |last: u8| wrap(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last]);
    let identifier = |last: u8| wrap(0x30, &[&oid(last)[..], &[5, 0]].concat());
    let changed = |to: Vec<u8>| {
        sign_changed(&certificate.issuer, &plain, |tbs| {
            let from = identifier(1);
            let at = tbs.windows(from.len()).position(|window| window == from).unwrap();
            assert_eq!(from.len(), to.len());
            [&tbs[..at], &to, &tbs[at + from.len()..]].concat()
        })
    };
    let known = roots(&[&certificate.issuer]);
    enrol(std::slice::from_ref(&plain), &known, NOW).unwrap();
    enrol(&[changed(identifier(7))], &known, NOW).unwrap();
    refused(
        "RSASSA-PSS",
        enrol(&[changed(identifier(10))], &known, NOW),
        Reason::AttestEkUnsupported,
        &["1.2.840.113549.1.1.10"],
    );
    // The roca check and the key's comparison hold for such keys too.
    let other = [&[0], &[0xc5; 256][..]].concat();
    let keys = DeviceKeys::Tpm {
        ek_certificates: vec![changed(identifier(7)).into()],
        ek_public: endorsement(&certificate.make_rsa(&other)).to_bytes().into(),
        ak_public: Forge::new().ak_public.to_bytes().into(),
    };
    refused(
        "another key",
        challenge(&keys, &known, NOW).map(|(_, p)| p),
        Reason::AttestEkInvalid,
        &["not the key"],
    );
}

#[test]
fn algorithms() {
    let root = VendorRoots::from_pem(&golden("openssl/root-sha1.pem")).unwrap();
    for name in ["sha1", "sha384", "sha512", "pss-sha256", "pss-sha384", "pss-sha512"] {
        let leaf = ders(&format!("openssl/leaf-{name}.pem"));
        enrol(&leaf, &root, NOW).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    }
    let unsupported = Reason::AttestEkUnsupported;
    let leaf = |name: &str| ders(&format!("openssl/leaf-{name}.pem"));
    refused("md5", enrol(&leaf("md5"), &root, NOW), unsupported, &["1.2.840.113549.1.1.4"]);
    refused("pss with a short salt", enrol(&leaf("pss-salt-8"), &root, NOW), unsupported, &["RSASSA-PSS"]);
    let short = VendorRoots::from_pem(&golden("openssl/root-1024.pem")).unwrap();
    refused("1024 bits", enrol(&leaf("1024"), &short, NOW), unsupported, &["1024 bits", "2048"]);
    for algorithm in [
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA256,
        &rcgen::PKCS_ECDSA_P521_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ] {
        let root = Authority::root_with_key(ca("root"), KeyPair::generate_for(algorithm).unwrap());
        let der = by(root).make(&Forge::new().ek_point());
        let leaf = by(Authority::root_with_key(ca("root"), KeyPair::generate_for(algorithm).unwrap()));
        assert!(enrol(&[der], &roots(&[&leaf.issuer]), NOW).is_err(), "another key of that name");
        let der = leaf.make(&Forge::new().ek_point());
        enrol(&[der], &roots(&[&leaf.issuer]), NOW)
            .unwrap_or_else(|refusal| panic!("{algorithm:?}: {refusal}"));
    }
}

/// Content of certificatePolicies: arcs after 1.3.6.1.4.1; none stands for anyPolicy.
fn policies(list: &[Option<u8>]) -> Vec<u8> {
    let all: Vec<Vec<u8>> = list.iter().map(|arc| wrap(0x30, &policy(*arc))).collect();
    wrap(0x30, &all.concat())
}

fn policy(arc: Option<u8>) -> Vec<u8> {
    match arc {
        None => wrap(6, &[0x55, 0x1d, 0x20, 0]),
        Some(arc) => wrap(6, &[0x2b, 6, 1, 4, 1, arc]),
    }
}

#[test]
fn policies_are_processed() {
    let leaf_with = |issuer: Authority, list: &[Option<u8>]| {
        let extensions = match list {
            [] => Vec::new(),
            list => vec![CustomExtension::from_oid_content(&POLICIES, policies(list))],
        };
        EkCertificate { issuer, extensions, ..EkCertificate::default() }
    };
    let root = vendor("root");
    let middle = |extensions: &[(&[u64], Vec<u8>)]| {
        let extensions: Vec<_> =
            extensions.iter().map(|(oid, content)| critical(oid, content.clone())).collect();
        root.beneath(ca_with("middle", |params| params.custom_extensions = extensions))
    };
    let named = |list: &[Option<u8>]| (&POLICIES[..], policies(list));
    // requireExplicitPolicy is 0, and inhibitPolicyMapping too.
    let demand = || (&POLICY_CONSTRAINTS[..], wrap(0x30, &wrap(0x80, &[0])));
    let no_mapping = || (&POLICY_CONSTRAINTS[..], wrap(0x30, &[wrap(0x80, &[0]), wrap(0x81, &[0])].concat()));
    let no_any = || (&INHIBIT_ANY[..], wrap(2, &[0]));
    let mapping = |from: Option<u8>, to: Option<u8>| {
        (&POLICY_MAPPINGS[..], wrap(0x30, &wrap(0x30, &[policy(from), policy(to)].concat())))
    };
    for (what, extensions, leaf, good) in [
        ("critical policies, none below", vec![named(&[Some(1)])], vec![], true),
        ("critical any policy, others below", vec![named(&[None])], vec![Some(1)], true),
        ("different policies, none demanded", vec![named(&[Some(1)])], vec![Some(2)], true),
        ("demanded and there", vec![named(&[Some(1)]), demand()], vec![Some(1)], true),
        ("demanded and any below", vec![named(&[Some(1)]), demand()], vec![None], true),
        ("demanded and any above", vec![named(&[None]), demand()], vec![Some(7)], true),
        ("demanded and none below", vec![named(&[Some(1)]), demand()], vec![], false),
        ("demanded and none above", vec![demand()], vec![Some(1)], false),
        ("demanded and another below", vec![named(&[Some(1)]), demand()], vec![Some(2)], false),
        ("demanded, any inhibited", vec![named(&[Some(1)]), demand(), no_any()], vec![None], false),
        ("any inhibited, none demanded", vec![named(&[Some(1)]), no_any()], vec![None], true),
        ("mapped", vec![named(&[Some(1)]), demand(), mapping(Some(1), Some(2))], vec![Some(2)], true),
        ("mapped away", vec![named(&[Some(1)]), demand(), mapping(Some(1), Some(2))], vec![Some(1)], false),
        ("any above, mapped", vec![named(&[None]), demand(), mapping(Some(1), Some(2))], vec![Some(2)], true),
        ("any mapped", vec![named(&[None]), mapping(None, Some(2))], vec![Some(2)], false),
        (
            "mapping inhibited here counts below only",
            vec![named(&[Some(1)]), no_mapping(), mapping(Some(1), Some(2))],
            vec![Some(2)],
            true,
        ),
    ] {
        let result = judge(leaf_with(middle(&extensions), &leaf), &[&root]);
        if good {
            result.unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        } else {
            refused(what, result, Reason::AttestEkInvalid, &["policy"]);
        }
    }
    // A mapping that an authority further up forbids leaves nothing.
    let upper = root.beneath(ca_with("upper", |params| {
        params.custom_extensions =
            vec![critical(&POLICIES, policies(&[Some(1)])), critical(&POLICY_CONSTRAINTS, no_mapping().1)];
    }));
    let lower = upper.beneath(ca_with("lower", |params| {
        params.custom_extensions = vec![
            critical(&POLICIES, policies(&[Some(1)])),
            critical(&POLICY_MAPPINGS, mapping(Some(1), Some(2)).1),
        ];
    }));
    refused(
        "mapping inhibited above",
        judge(leaf_with(lower, &[Some(2)]), &[&root, &upper]),
        Reason::AttestEkInvalid,
        &["policy"],
    );
}

#[test]
fn names_are_constrained() {
    let name = |organization: &str| {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, organization);
        name
    };
    let root = vendor("root");
    let constrained = |permitted: &[GeneralSubtree], excluded: &[GeneralSubtree], organization: &str| {
        let (permitted_subtrees, excluded_subtrees) = (permitted.to_vec(), excluded.to_vec());
        let upper = root.beneath(ca_with("upper", |params| {
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
        }));
        let lower = upper.beneath(ca_with("lower", |params| {
            params.distinguished_name = name(organization);
            params.distinguished_name.push(DnType::CommonName, "lower");
        }));
        let leaf = by(lower);
        judge(leaf, &[&root, &upper])
    };
    let directory = |organization: &str| GeneralSubtree::DirectoryName(name(organization));
    let dns = GeneralSubtree::DnsName("example.com".to_owned());
    // The EK certificate's own directory name has no organization, so that a permitted one refuses it.
    constrained(&[], &[], "Example").map_or_else(|refusal| panic!("{refusal}"), drop);
    constrained(&[], &[directory("Other")], "Example").unwrap();
    constrained(std::slice::from_ref(&dns), std::slice::from_ref(&dns), "Example").unwrap();
    for (what, result) in [
        ("excluded", constrained(&[], &[directory("Example")], "Example")),
        ("excluded in other letters", constrained(&[], &[directory("  EXAMPLE ")], "Example")),
        ("not permitted", constrained(&[directory("Other")], &[], "Example")),
        ("not permitted at the leaf", constrained(&[directory("Example")], &[], "Example")),
    ] {
        refused(what, result, Reason::AttestEkInvalid, &["nameConstraints"]);
    }
}

/// A trusted root's own limits hold too (RFC 5937), and a limit that cannot be read refuses.
#[test]
fn a_roots_own_limits_hold() {
    const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];
    let limited = |content: Vec<u8>| {
        Authority::root(ca_with("root", |params| {
            params.custom_extensions = vec![critical(&NAME_CONSTRAINTS, content)];
        }))
    };
    // Permitted or excluded: the subtree of O=Example, or what is no name.
    let oid = wrap(6, &[0x55, 4, 10]);
    let attribute = wrap(0x30, &[oid, wrap(0x0c, b"Example")].concat());
    let name = wrap(0xa4, &wrap(0x30, &wrap(0x31, &attribute)));
    let subtree = |list: u8, base: &[u8]| wrap(0x30, &wrap(list, &wrap(0x30, base)));
    for (what, content, good) in [
        ("excludes others", subtree(0xa1, &name), true),
        ("permits others only", subtree(0xa0, &name), false),
        ("permits what is no name", subtree(0xa0, &wrap(0xa4, b"x")), false),
    ] {
        let leaf = by(limited(content));
        let der = leaf.make(&Forge::new().ek_point());
        let result = VendorRoots::from_pem(leaf.issuer.pem().as_bytes())
            .map_err(|error| Refusal::new(Reason::AttestEkInvalid, "file", error))
            .and_then(|known| enrol(&[der], &known, NOW));
        assert_eq!(result.is_ok(), good, "{what}: {:?}", result.err());
    }
}

/// Thousands of extensions or names cost what their bytes cost, and are refused like others.
#[test]
fn certificates_stuffed_with_extensions_are_refused() {
    let root = vendor("root");
    let stuffed = (0..1500)
        .map(|number| CustomExtension::from_oid_content(&[1, 2, 3, number], vec![5, 0]))
        .chain([critical(&[1, 2, 4], vec![5, 0])])
        .collect();
    let leaf = EkCertificate { issuer: root, extensions: stuffed, ..EkCertificate::default() };
    let known = roots(&[&leaf.issuer]);
    let result = enrol(&[leaf.make(&Forge::new().ek_point())], &known, NOW);
    let refusal = result.map(drop).unwrap_err();
    assert!(matches!(refusal.reason, Reason::AttestEkUnsupported | Reason::AttestEkInvalid), "{refusal}");
}

#[test]
fn authorities_have_limits() {
    let root = vendor("root");
    let limited = |depth| IsCa::Ca(BasicConstraints::Constrained(depth));
    let short = Authority::root(ca_with("root", |params| params.is_ca = limited(0)));
    let one = root.beneath(ca_with("one", |params| params.is_ca = limited(0)));
    let two = one.beneath(ca("two"));
    let invalid = Reason::AttestEkInvalid;
    judge(by(root.beneath(ca_with("one", |params| params.is_ca = limited(0)))), &[&root]).unwrap();
    refused("one too many", judge(by(two), &[&root, &one]), invalid, &["pathLenConstraint"]);
    refused("the root's", judge(by(short.beneath(ca("one"))), &[&short]), invalid, &["pathLenConstraint"]);
    let usage =
        |usages: Vec<KeyUsagePurpose>| root.beneath(ca_with("one", |params| params.key_usages = usages));
    judge(by(usage(vec![])), &[&root]).unwrap();
    refused("key usage", judge(by(usage(vec![KeyUsagePurpose::CrlSign])), &[&root]), invalid, &["keyUsage"]);
    let purposes = |list: Vec<ExtendedKeyUsagePurpose>| {
        root.beneath(ca_with("one", |params| params.extended_key_usages = list))
    };
    judge(by(purposes(vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])])), &[&root]).unwrap();
    judge(by(purposes(vec![ExtendedKeyUsagePurpose::Any])), &[&root]).unwrap();
    let server = by(purposes(vec![ExtendedKeyUsagePurpose::ServerAuth]));
    refused("of servers", judge(server, &[&root]), invalid, &["extendedKeyUsage", "CN=one"]);
    let over = by(root.beneath(ca_with("one", |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1))));
    refused("over", judge(over, &[&root]), Reason::AttestEkExpired, &["CN=one", "2021"]);
    let for_ever = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    judge(EkCertificate { days: (2020, 9999), ..by(root.beneath(ca_with("one", for_ever))) }, &[&root])
        .unwrap();
    let unknown = |oid: &[u64], is_critical| {
        let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
        extension.set_criticality(is_critical);
        root.beneath(ca_with("one", |params| params.custom_extensions = vec![extension]))
    };
    judge(by(unknown(&[1, 2, 3, 4], false)), &[&root]).unwrap();
    refused(
        "unknown",
        judge(by(unknown(&[1, 2, 3, 4], true)), &[&root]),
        Reason::AttestEkUnsupported,
        &["1.2.3.4", "CN=one"],
    );
    refused("unreadable", judge(by(unknown(&[2, 5, 29, 36], false)), &[&root]), invalid, &["2.5.29.36"]);
    let twice = CustomExtension::from_oid_content(&POLICIES, policies(&[None]));
    let twice = root.beneath(ca_with("one", |params| params.custom_extensions = vec![twice.clone(), twice]));
    refused("twice", judge(by(twice), &[&root]), invalid, &["2.5.29.32", "twice"]);
}

/// Authorities renew their keys, certify each other, and several have one name.
#[test]
fn the_right_one_of_several_authorities_is_found() {
    let (old, new) = (vendor("old root"), vendor("new root"));
    let issuer_key = || KeyPair::generate().unwrap();
    let over = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let stranger = vendor("new root");
    let key = issuer_key();
    let (pkcs8, again) = (key.serialize_der(), issuer_key());
    let same_key = || KeyPair::try_from(pkcs8.as_slice()).unwrap();
    drop(again);
    let by_new = new.beneath_with_key(ca("issuer"), key);
    let by_old = old.beneath_with_key(ca_with("issuer", over), same_key());
    let other = new.beneath_with_key(ca("issuer"), issuer_key());
    let leaf = by(new.beneath_with_key(ca("issuer"), same_key()));
    let der = leaf.make(&Forge::new().ek_point());
    for known in [
        vec![&old, &new, &by_old, &other, &by_new],
        vec![&by_new, &other, &by_old, &new, &old, &stranger],
        vec![&stranger, &other, &new, &by_new],
    ] {
        enrol(std::slice::from_ref(&der), &roots(&known), NOW).unwrap();
    }
    refused(
        "the only path is over",
        enrol(std::slice::from_ref(&der), &roots(&[&old, &new, &by_old, &other]), NOW),
        Reason::AttestEkExpired,
        &["CN=issuer", "2021"],
    );
    // Two authorities that certify each other, and nobody else.
    let (a, b) = (vendor("a"), vendor("b"));
    let (a_by_b, b_by_a) = (b.beneath(ca("a")), a.beneath(ca("b")));
    let leaf = by(a_by_b.beneath(ca("issuer")));
    let der = leaf.make(&Forge::new().ek_point());
    let sent = [der, leaf.issuer.der.clone(), a_by_b.der.clone(), b_by_a.der.clone()];
    refused("a circle", enrol(&sent, &roots(&[&old]), NOW), Reason::AttestEkUntrusted, &[]);
}

/// Issuer and subject are compared as names, not as bytes.
#[test]
fn names_that_are_written_differently_are_one() {
    let written = |value: DnValue| {
        move |params: &mut CertificateParams| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, value);
        }
    };
    let key = KeyPair::generate().unwrap();
    let pkcs8 = key.serialize_der();
    let again = KeyPair::try_from(pkcs8.as_slice()).unwrap();
    let root = Authority::root_with_key(
        ca_with("x", written(DnValue::Utf8String("Example  TPM root".to_owned()))),
        key,
    );
    let printable = DnValue::PrintableString("Example TPM ROOT".try_into().unwrap());
    let leaf = by(Authority::root_with_key(ca_with("x", written(printable)), again));
    enrol(&[leaf.make(&Forge::new().ek_point())], &roots(&[&root]), NOW).unwrap();
}

/// However many authorities a file has, a search ends.
#[test]
fn a_search_is_bounded() {
    let root = vendor("root");
    let mut text = root.pem();
    let mut last = None;
    let key = KeyPair::generate().unwrap().serialize_der();
    for _ in 0..300 {
        // One key under one name, each time certified anew: every one of them is a step upward.
        let key = KeyPair::try_from(key.as_slice()).unwrap();
        let cross = Authority::root_with_key(ca("cross"), key).beneath(ca("cross"));
        text.push_str(&cross.pem());
        last = Some(cross);
    }
    let known = VendorRoots::from_pem(text.as_bytes()).unwrap();
    let leaf = by(last.unwrap());
    let der = leaf.make(&Forge::new().ek_point());
    refused(
        "300 of a name",
        enrol(&[der], &known, NOW),
        Reason::AttestEkUntrusted,
        &["100 signatures were tried"],
    );
}

#[test]
fn files_as_makers_publish_them() {
    let root = vendor("root");
    let middle = root.beneath(ca("middle"));
    let count = |bytes: &[u8]| {
        let bundle = VendorBundle::read(bytes).unwrap();
        assert_eq!((bundle.refused.len(), bundle.refused_more), (0, 0), "{:?}", bundle.refused);
        (bundle.certificates.iter().filter(|one| one.is_root).count(), bundle.certificates.len())
    };
    let both = root.pem() + &middle.pem();
    let with_text = format!(
        "# Example Inc.\n\nSubject: CN=root\n{}\n\nAnd: the issuing one\n{}\n\nend\n",
        root.pem(),
        middle.pem()
    );
    let der = [root.der.clone(), middle.der.clone()].concat();
    for (what, bytes) in [
        ("PEM", both.clone().into_bytes()),
        ("text between", with_text.into_bytes()),
        ("CRLF", both.replace('\n', "\r\n").into_bytes()),
        ("CR", both.replace('\n', "\r").into_bytes()),
        ("a byte order mark", [b"\xef\xbb\xbf", both.as_bytes()].concat()),
        ("indented", both.replace('\n', "\n   ").into_bytes()),
        ("no end of the last line", both.trim_end().as_bytes().to_vec()),
        ("other labels", both.replace("CERTIFICATE", "X509 CERTIFICATE").into_bytes()),
        ("twice", both.repeat(2).into_bytes()),
        ("DER", der.clone()),
        ("DER with zeros after it", [&der[..], &[0; 100]].concat()),
        ("DER with ones after it", [&der[..], &[0xff; 100]].concat()),
    ] {
        assert_eq!(count(&bytes), (1, 2), "{what}");
    }
    assert_eq!(count(&golden("openssl/roots.p7b")), (2, 2));
    assert_eq!(count(&golden("openssl/roots-p7b.pem")), (2, 2));
    assert_eq!(count(&golden("makers/nuvoton-root-2111.pem")), (1, 1));
    // Intermediates alone: their root may be there already.
    assert_eq!(count(middle.pem().as_bytes()), (0, 1));
    let mut hundreds = String::new();
    for number in 0..300 {
        let _ =
            writeln!(hundreds, "Number {number}\n{}", root.beneath(ca(&format!("issuer {number}"))).pem());
    }
    assert_eq!(count((hundreds + &root.pem()).as_bytes()), (1, 301));
}

#[test]
fn one_bad_part_is_named_and_the_rest_is_taken() {
    let root = vendor("root");
    let leaf = EkCertificate::default().make(&Forge::new().ek_point());
    let mut damaged = root.der.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let good = root.pem();
    let server = root.beneath(ca_with("server", |params| params.is_ca = IsCa::ExplicitNoCa));
    for (what, bytes, place, why) in [
        (
            "an EK certificate",
            pem("CERTIFICATE", &leaf) + &good,
            "block 1 (line 1)",
            "not that of an authority",
        ),
        ("a server's", server.pem() + &good, "block 1 (line 1)", "CN=server"),
        ("no certificate", good.clone() + &pem("CERTIFICATE", &[1, 2]), "block 2", "no X.509 certificate"),
        (
            "no base64",
            good.clone() + &pem("CERTIFICATE", &[7; 60]).replace("Bwc", "B*c"),
            "block 2",
            "base64",
        ),
        ("a key", good.clone() + &pem("PRIVATE KEY", &[1, 2]), "block 2", "`PRIVATE KEY`"),
        ("a list", good.clone() + &pem("X509 CRL", &[1, 2]), "block 2", "`X509 CRL`"),
        ("a damaged root", pem("CERTIFICATE", &damaged) + &good, "block 1", "self-signature"),
        ("no end", good.clone() + &good.replace("-----END", "-----AND"), "block 2", "does not end"),
        ("no end, another begins", good.replace("-----END", "-----AND") + &good, "block 1", "does not end"),
        ("no PKCS #7", good.clone() + &pem("PKCS7", &[0x30, 0]), "block 2", "PKCS #7"),
    ] {
        let bundle = VendorBundle::read(bytes.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(bundle.certificates.len(), 1, "{what}");
        let [part] = bundle.refused.as_slice() else { panic!("{what}: {:?}", bundle.refused) };
        assert!(part.place.starts_with(place) && part.why.contains(why), "{what}: {part:?}");
    }
    let cut = [&root.der[..], &root.der[..100]].concat();
    let bundle = VendorBundle::read(&cut).unwrap();
    assert_eq!(bundle.certificates.len(), 1);
    assert!(bundle.refused[0].place.starts_with("certificate 2 (byte "), "{:?}", bundle.refused);
    let many = format!("{good}{}", pem("CERTIFICATE", &[1, 2]).repeat(100));
    let bundle = VendorBundle::read(many.as_bytes()).unwrap();
    assert_eq!(bundle.refused.len() + bundle.refused_more, 100);
}

#[test]
fn files_of_nothing() {
    let leaf = EkCertificate::default().make(&Forge::new().ek_point());
    let leaf = pem("CERTIFICATE", &leaf);
    assert_eq!(VendorBundle::read(b""), Err(VendorBundleError::Empty));
    assert_eq!(VendorBundle::read(b" \n\n"), Err(VendorBundleError::Empty));
    assert_eq!(VendorBundle::read(b"words"), Err(VendorBundleError::Format));
    assert_eq!(VendorBundle::read(&vec![b' '; BUNDLE_BYTES_MAX + 1]), Err(VendorBundleError::Bytes));
    let nothing = VendorBundle::read(leaf.as_bytes()).unwrap_err();
    assert!(nothing.to_string().contains("block 1 (line 1)"), "{nothing}");
    assert!(VendorBundle::read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert!(VendorBundle::read(&[0x30, 0x80, 0, 0]).is_err());
}

/// Says which intermediate has no root yet.
#[test]
fn an_authority_without_its_root_is_told() {
    let root = vendor("root");
    let middle = root.beneath(ca("middle"));
    assert_eq!(roots(&[&root, &middle]).why_useless(&middle.der, NOW), None);
    let why = roots(&[&middle, &vendor("other")]).why_useless(&middle.der, NOW).unwrap();
    assert!(why.contains("CN=middle") && why.contains("CN=root"), "{why}");
}

/// Parts that no signature covers have one spelling too.
#[test]
fn no_byte_of_an_authority_can_be_another() {
    let upper = vendor("root");
    let root = roots(&[&upper]);
    let leaf = by(upper.beneath(ca("middle")));
    let own = leaf.make(&Forge::new().ek_point());
    let public = endorsement(&own).to_bytes();
    let keys = |authority: Vec<u8>| DeviceKeys::Tpm {
        ek_certificates: vec![Bytes(own.clone()), Bytes(authority)],
        ek_public: public.clone().into(),
        ak_public: Forge::new().ak_public.to_bytes().into(),
    };
    challenge(&keys(leaf.issuer.der.clone()), &root, NOW).unwrap();
    for at in 0..leaf.issuer.der.len() {
        for change in [0x01, 0x07, 0x20, 0x53, 0x80] {
            let mut altered = leaf.issuer.der.clone();
            altered[at] ^= change;
            let enrolled = challenge(&keys(altered), &root, NOW);
            assert!(enrolled.is_err(), "byte {at}, changed by {change:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// No altered certificate of a chain enrols, and none brings the reader down.
    #[test]
    fn altered_certificates_do_not_enrol(at in any::<prop::sample::Index>(), byte in 1..=255_u8, which in 0..2_usize) {
        let upper = vendor("root");
        let middle = upper.beneath(ca("middle"));
        let root = roots(&[&upper]);
        let leaf = by(middle);
        let mut chain = vec![leaf.make(&Forge::new().ek_point()), leaf.issuer.der.clone()];
        let public = endorsement(&chain[0]).to_bytes();
        let at = at.index(chain[which].len());
        chain[which][at] ^= byte;
        let keys = DeviceKeys::Tpm {
            ek_certificates: chain.into_iter().map(Bytes).collect(),
            ek_public: public.into(),
            ak_public: Forge::new().ak_public.to_bytes().into(),
        };
        let refusal = challenge(&keys, &root, NOW).map(drop).expect_err("altered");
        prop_assert!(refusal.reason.code().starts_with("attest.ek_"), "{}", refusal);
    }

    #[test]
    fn no_file_brings_the_reader_down(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        end in any::<prop::sample::Index>(),
        which in 0..4_usize,
    ) {
        let file = ["makers/stm-ecc-root-01.pem", "openssl/roots.p7b", "openssl/roots-p7b.pem", "makers/stm-ecc-root-01.pem"][which];
        let mut bytes = golden(file);
        if which == 3 {
            bytes = ders(file).concat();
        }
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        if let Ok(bundle) = VendorBundle::read(&bytes) {
            let known = VendorRoots::of(&bundle.certificates);
            for certificate in &bundle.certificates {
                prop_assert_eq!(element(&certificate.der), certificate.der.as_slice());
                let _ = known.why_useless(&certificate.der, NOW);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = VendorBundle::read(&bytes);
        let _ = VendorBundle::read(&[b"-----BEGIN CERTIFICATE-----\n", &bytes[..], b"\n-----END CERTIFICATE-----\n"].concat());
    }
}
