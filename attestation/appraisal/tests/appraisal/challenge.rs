//! The first half: which public keys are challenged at all.

use crate::common;

use common::{EkCertificate, Forge, NOW, ca, ca_with, vendor};
use edgewarden_appraisal::{AK_ATTRIBUTES, BOOT_PCRS, Pending, VendorRoots, challenge};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attributes, Curve, Key, Public, Scheme, Symmetric};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::DeviceKeys;
use edgewarden_testkit::Authority;
use rcgen::IsCa;
use rcgen::KeyUsagePurpose;

fn refused(keys: &DeviceKeys, roots: &VendorRoots, now: UnixTime, reason: Reason, what: &str) {
    let refusal = challenge(keys, roots, now).expect_err(what);
    assert_eq!(refusal.reason, reason, "{what}: {refusal}");
}

#[test]
fn a_tpm_of_a_trusted_vendor_is_challenged() {
    let forge = Forge::new();
    let (parts, pending) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    assert_eq!(parts.nonce.0.len(), 32);
    assert_eq!(parts.pcrs, BOOT_PCRS);
    assert_eq!(pending.hardware(), "tpm EWT forge");
    assert_eq!(pending.issued(), NOW);
    assert_eq!(forge.activate(&parts).unwrap().len(), 32);
    let stored = serde_json::to_string(&pending).unwrap();
    assert_eq!(serde_json::from_str::<Pending>(&stored).unwrap(), pending);
    let secret = forge.activate(&parts).unwrap();
    assert!(!stored.contains(&hex::encode(&secret)), "the secret is not stored");
}

/// A constant nonce or secret would let old evidence pass (CVE-2026-6420 in another project).
#[test]
fn no_two_challenges_are_alike() {
    let forge = Forge::new();
    let (one, first) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    let (two, second) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    assert_ne!(one.nonce, two.nonce);
    assert_ne!(one.credential, two.credential);
    assert_ne!(forge.activate(&one), forge.activate(&two));
    assert_eq!(first.device(), second.device());
    let other = Forge::new();
    let (_, third) = challenge(&other.keys(), &other.roots(), NOW).unwrap();
    assert_ne!(first.device(), third.device());
}

/// The vendor certifies the key only, so other things that the device says must not make it another device.
#[test]
fn the_device_is_the_certified_key() {
    let mut forge = Forge::new();
    let (_, first) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    forge.ek_public.attributes.0 |= Attributes::USER_WITH_AUTH;
    forge.ek_public.auth_policy = vec![1; 32];
    forge.ak = common::SigningKey::generate();
    let (_, second) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    assert_eq!(first.device(), second.device());
}

#[test]
fn certificates_that_are_not_trusted() {
    let forge = Forge::new();
    let point = forge.ek_point();
    let roots =
        |certificate: &EkCertificate| VendorRoots::from_pem(certificate.issuer.pem().as_bytes()).unwrap();
    let with = |der: Vec<u8>| {
        let (ek_public, ak_public) = (forge.ek_public.to_bytes().into(), forge.ak_public.to_bytes().into());
        DeviceKeys::Tpm { ek_certificates: vec![Bytes(der)], ek_public, ak_public }
    };
    let check = |what: &str, reason: Reason, certificate: EkCertificate| {
        let keys = with(certificate.make(&point));
        refused(&keys, &roots(&certificate), NOW, reason, what);
    };
    let invalid = Reason::AttestEkInvalid;
    let good = EkCertificate::default();
    assert!(challenge(&with(good.make(&point)), &roots(&good), NOW).is_ok());
    check("no EKU", invalid, EkCertificate { eku: None, ..EkCertificate::default() });
    check(
        "server EKU",
        invalid,
        EkCertificate { eku: Some(vec![1, 3, 6, 1, 5, 5, 7, 3, 1]), ..EkCertificate::default() },
    );
    check(
        "near EKU",
        invalid,
        EkCertificate { eku: Some(vec![2, 23, 133, 8, 3]), ..EkCertificate::default() },
    );
    check("an authority", invalid, EkCertificate { ca: true, ..EkCertificate::default() });
    let usage = vec![KeyUsagePurpose::DigitalSignature];
    check("key usage", invalid, EkCertificate { usage, ..EkCertificate::default() });
    check(
        "expired",
        Reason::AttestEkExpired,
        EkCertificate { days: (2020, 2021), ..EkCertificate::default() },
    );
    check(
        "not yet valid",
        Reason::AttestEkExpired,
        EkCertificate { days: (2060, 2061), ..EkCertificate::default() },
    );
    let other = EkCertificate { issuer: vendor("vendor"), ..EkCertificate::default() };
    let keys = with(good.make(&point));
    refused(&keys, &roots(&other), NOW, Reason::AttestEkUntrusted, "another vendor of the same name");
    refused(&keys, &VendorRoots::none(), NOW, Reason::AttestEkUntrusted, "no vendor at all");
    let der = good.make(&point);
    for (what, der, reason) in [
        ("nothing", vec![], invalid),
        ("cut", der[..der.len() - 1].to_vec(), invalid),
        ("large", vec![0x30; 20_000], invalid),
        (
            "changed",
            {
                let mut der = der.clone();
                *der.last_mut().unwrap() ^= 1;
                der
            },
            Reason::AttestEkUntrusted,
        ),
    ] {
        refused(&with(der), &roots(&good), NOW, reason, what);
    }
    let keys = DeviceKeys::Tpm {
        ek_certificates: vec![],
        ek_public: forge.ek_public.to_bytes().into(),
        ak_public: forge.ak_public.to_bytes().into(),
    };
    refused(&keys, &roots(&good), NOW, Reason::AttestEkMissing, "no certificate");
}

/// NV indices are larger than what they hold, and makers fill them as they like.
#[test]
fn padding_after_a_certificate_is_none_of_it() {
    let forge = Forge::new();
    let good = EkCertificate::default();
    let der = good.make(&forge.ek_point());
    let roots = VendorRoots::from_pem(good.issuer.pem().as_bytes()).unwrap();
    for padding in [vec![0], vec![0; 1024], vec![0xff; 1024], b"anything".to_vec()] {
        let keys = DeviceKeys::Tpm {
            ek_certificates: vec![Bytes([&der[..], &padding].concat())],
            ek_public: forge.ek_public.to_bytes().into(),
            ak_public: forge.ak_public.to_bytes().into(),
        };
        let (_, pending) = challenge(&keys, &roots, NOW).unwrap();
        assert_eq!(pending.hardware(), "tpm EWT forge");
    }
}

#[test]
fn certificate_chains() {
    let forge = Forge::new();
    let root = vendor("root");
    let middle = root.beneath(ca("middle"));
    let stranger = vendor("stranger");
    let leaf = EkCertificate { issuer: root.beneath(ca("issuer")), ..EkCertificate::default() };
    let under_middle = EkCertificate { issuer: middle.beneath(ca("issuer")), ..EkCertificate::default() };
    let keys = |chain: &[&Vec<u8>]| DeviceKeys::Tpm {
        ek_certificates: chain.iter().map(|der| Bytes((*der).clone())).collect(),
        ek_public: forge.ek_public.to_bytes().into(),
        ak_public: forge.ak_public.to_bytes().into(),
    };
    let roots = |bundle: &[&Authority]| {
        let text: String = bundle.iter().map(|vendor| vendor.pem()).collect();
        VendorRoots::from_pem(text.as_bytes()).unwrap()
    };
    // What a vendor certifies but is no authority: its key must not vouch for endorsement keys.
    let no_authority = EkCertificate {
        issuer: root.beneath(ca_with("server", |params| params.is_ca = IsCa::ExplicitNoCa)),
        ..EkCertificate::default()
    };
    let silent = EkCertificate {
        issuer: root.beneath(ca_with("server", |params| params.is_ca = IsCa::NoCa)),
        ..EkCertificate::default()
    };
    let (by_no_authority, by_silent) = (no_authority.make(&forge.ek_point()), silent.make(&forge.ek_point()));
    let der = leaf.make(&forge.ek_point());
    let deep = under_middle.make(&forge.ek_point());
    let sent = &leaf.issuer.der;
    for (what, keys, roots, trusted) in [
        ("intermediate sent", keys(&[&der, sent]), roots(&[&root]), true),
        ("intermediate in the bundle", keys(&[&der]), roots(&[&root, &leaf.issuer]), true),
        ("two intermediates", keys(&[&deep, &under_middle.issuer.der, &middle.der]), roots(&[&root]), true),
        ("no intermediate", keys(&[&der]), roots(&[&root]), false),
        ("the root is sent", keys(&[&der, sent, &root.der]), roots(&[&stranger]), false),
        ("an intermediate is missing", keys(&[&deep, &under_middle.issuer.der]), roots(&[&root]), false),
        ("too many", keys(&[&der, sent, sent, sent, sent, sent, sent, sent, sent]), roots(&[&root]), false),
        ("none", keys(&[]), roots(&[&root]), false),
        ("by no authority", keys(&[&by_no_authority, &no_authority.issuer.der]), roots(&[&root]), false),
        ("by one that does not say so", keys(&[&by_silent, &silent.issuer.der]), roots(&[&root]), false),
    ] {
        let result = challenge(&keys, &roots, NOW);
        assert_eq!(result.is_ok(), trusted, "{what}");
        if let Err(refusal) = result {
            let expected = match what {
                "none" => Reason::AttestEkMissing,
                "too many" | "by no authority" | "by one that does not say so" => Reason::AttestEkInvalid,
                _ => Reason::AttestEkUntrusted,
            };
            assert_eq!(refusal.reason, expected, "{what}: {refusal}");
        }
    }
}

#[test]
fn endorsement_keys_that_are_not_what_they_should_be() {
    type Change = Box<dyn Fn(&mut Public)>;
    let attributes = |change: u32| move |ek: &mut Public| ek.attributes.0 ^= change;
    let key = |change: fn(&mut Key)| move |ek: &mut Public| change(&mut ek.key);
    let cases: Vec<(&str, Change)> = vec![
        (
            "another key",
            Box::new(key(|key| {
                if let Key::Ecc { x, .. } = key {
                    x[31] ^= 1;
                }
            })),
        ),
        ("not fixedTPM", Box::new(attributes(Attributes::FIXED_TPM))),
        ("not fixedParent", Box::new(attributes(Attributes::FIXED_PARENT))),
        ("not of the TPM's own making", Box::new(attributes(Attributes::SENSITIVE_DATA_ORIGIN))),
        ("not adminWithPolicy", Box::new(attributes(Attributes::ADMIN_WITH_POLICY))),
        ("not restricted", Box::new(attributes(Attributes::RESTRICTED))),
        ("not decrypt", Box::new(attributes(Attributes::DECRYPT))),
        ("signs", Box::new(attributes(Attributes::SIGN))),
        (
            "AES-256",
            Box::new(key(|key| {
                if let Key::Ecc { symmetric, .. } = key {
                    *symmetric = Symmetric::Aes256Cfb;
                }
            })),
        ),
        (
            "no cipher",
            Box::new(key(|key| {
                if let Key::Ecc { symmetric, .. } = key {
                    *symmetric = Symmetric::Null;
                }
            })),
        ),
        (
            "a scheme",
            Box::new(key(|key| {
                if let Key::Ecc { scheme, .. } = key {
                    *scheme = Scheme::Ecdsa(HashAlg::Sha256);
                }
            })),
        ),
        ("a name by SHA-384", Box::new(|ek| ek.name_alg = HashAlg::Sha384)),
        (
            "an RSA key",
            Box::new(|ek| {
                let modulus = vec![0xc1; 256];
                ek.key =
                    Key::Rsa { symmetric: Symmetric::Aes128Cfb, scheme: Scheme::Null, exponent: 0, modulus };
            }),
        ),
    ];
    for (what, change) in cases {
        let mut forge = Forge::new();
        change(&mut forge.ek_public);
        refused(&forge.keys(), &forge.roots(), NOW, Reason::AttestEkInvalid, what);
    }
    let forge = Forge::new();
    let DeviceKeys::Tpm { ek_certificates, ak_public, .. } = forge.keys() else { unreachable!() };
    let keys = DeviceKeys::Tpm { ek_certificates, ek_public: Bytes(vec![0, 1]), ak_public };
    refused(&keys, &forge.roots(), NOW, Reason::AttestEkInvalid, "no public area");
}

/// The vendor's certificate is genuine; but whoever factors the key is this TPM.
#[test]
fn endorsement_keys_that_can_be_factored() {
    let forge = Forge::new();
    let usage = vec![KeyUsagePurpose::KeyEncipherment];
    let certificate = EkCertificate { usage, ..EkCertificate::default() };
    let roots = VendorRoots::from_pem(certificate.issuer.pem().as_bytes()).unwrap();
    // The square of 65537 has the mark of weak keys; another number has not.
    for (modulus, weak) in [([1, 0, 2, 0, 1], true), ([1, 0, 1, 0xff, 0xff], false)] {
        let keys = DeviceKeys::Tpm {
            ek_certificates: vec![certificate.make_rsa(&modulus).into()],
            ek_public: forge.ek_public.to_bytes().into(),
            ak_public: forge.ak_public.to_bytes().into(),
        };
        let refusal = challenge(&keys, &roots, NOW).unwrap_err();
        assert_eq!(refusal.reason, Reason::AttestEkInvalid);
        assert_eq!(refusal.rule.contains("CVE-2017-15361"), weak, "{refusal}");
        assert_eq!(refusal.rule.contains("not the key in its certificate"), !weak, "{refusal}");
    }
}

/// Each attribute bit that is wrong makes an AK that could sign what its TPM did not make, or could be locked.
#[test]
fn attestation_keys_are_exact() {
    let known = [1, 2, 4, 5, 6, 7, 10, 11, 16, 17, 18, 19];
    for bit in known {
        let mut forge = Forge::new();
        forge.ak_public.attributes.0 ^= 1 << bit;
        refused(&forge.keys(), &forge.roots(), NOW, Reason::AttestAkAttributes, &format!("bit {bit}"));
    }
    assert_eq!(AK_ATTRIBUTES.0, 0x0005_0472);
    let forge = Forge::new();
    let p384 = aws_lc_rs::agreement::PrivateKey::generate(&aws_lc_rs::agreement::ECDH_P384).unwrap();
    let p384 = p384.compute_public_key().unwrap();
    let scheme = Scheme::Ecdsa(HashAlg::Sha256);
    let ak = |change: fn(&mut Public)| {
        let mut ak = forge.ak_public.clone();
        change(&mut ak);
        ak.to_bytes()
    };
    for (what, ak_public) in [
        (
            "P-384",
            common::ecc_public(
                p384.as_ref(),
                Curve::P384,
                HashAlg::Sha256,
                AK_ATTRIBUTES.0,
                Symmetric::Null,
                scheme,
            )
            .to_bytes(),
        ),
        (
            "no scheme",
            ak(|ak| {
                if let Key::Ecc { scheme, .. } = &mut ak.key {
                    *scheme = Scheme::Null;
                }
            }),
        ),
        (
            "SHA-384",
            ak(|ak| {
                if let Key::Ecc { scheme, .. } = &mut ak.key {
                    *scheme = Scheme::Ecdsa(HashAlg::Sha384);
                }
            }),
        ),
        ("a name by SHA-512", ak(|ak| ak.name_alg = HashAlg::Sha512)),
        ("a policy", ak(|ak| ak.auth_policy = vec![7; 32])),
        (
            "a cipher",
            ak(|ak| {
                if let Key::Ecc { symmetric, .. } = &mut ak.key {
                    *symmetric = Symmetric::Aes128Cfb;
                }
            }),
        ),
        (
            "off the curve",
            ak(|ak| {
                if let Key::Ecc { y, .. } = &mut ak.key {
                    y[31] ^= 1;
                }
            }),
        ),
        ("nothing", vec![]),
        ("trailing bytes", [ak(|_| ()), vec![0]].concat()),
    ] {
        let DeviceKeys::Tpm { ek_certificates, ek_public, .. } = forge.keys() else { unreachable!() };
        let keys = DeviceKeys::Tpm { ek_certificates, ek_public, ak_public: Bytes(ak_public) };
        refused(&keys, &forge.roots(), NOW, Reason::AttestAkAttributes, what);
    }
}

#[test]
fn software_devices() {
    let point = common::SigningKey::generate().point();
    let keys = |point: Vec<u8>| DeviceKeys::None { device_public: Bytes(point) };
    let (parts, pending) = challenge(&keys(point.clone()), &VendorRoots::none(), NOW).unwrap();
    assert_eq!((parts.pcrs, parts.credential), (vec![], None));
    assert_eq!(pending.hardware(), "none");
    let mut off = point.clone();
    off[64] ^= 1;
    for bad in [vec![], off, point[..64].to_vec(), [&[2], &point[1..33]].concat(), vec![0; 65]] {
        refused(&keys(bad), &VendorRoots::none(), NOW, Reason::RequestInvalid, "no point");
    }
}
