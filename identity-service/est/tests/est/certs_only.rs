//! The parser of certs-only messages: what it refuses, what it takes, and that openssl's messages are among the latter.

use crate::common;

use common::{ID_DATA, Message, Template, site_root, tlv};
use edgewarden_est::certs_only::{self, CERTIFICATES_MAX, MESSAGE_BYTES_MAX};
use edgewarden_testkit::authority::Point;
use edgewarden_testkit::est;
use proptest::prelude::*;

fn small(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|at| tlv(0x30, &[u8::try_from(at).unwrap()])).collect()
}

#[test]
fn what_is_not_certs_only_is_refused() {
    let good = Message::of(&small(2));
    assert_eq!(certs_only::parse(&good.der()).unwrap(), small(2));
    let spoilt = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message.der()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "it is cut off"),
        ("a bare certificate", tlv(0x30, &tlv(0x30, &[])), "not a ContentInfo"),
        ("an HTML page", b"<html><body>Not found</body></html>".to_vec(), "it is cut off"),
        ("data", spoilt(|m| m.content_type = tlv(6, ID_DATA)), "not a SignedData"),
        ("no content", tlv(0x30, &tlv(6, common::ID_SIGNED_DATA)), "it is cut off"),
        ("version 0", spoilt(|m| m.version = tlv(2, &[0])), "a version of SignedData that there is not"),
        ("no version", spoilt(|m| m.version = vec![]), "the SignedData has no version"),
        ("no digests", spoilt(|m| m.digests = vec![]), "the SignedData has no digestAlgorithms"),
        ("no content type", spoilt(|m| m.content = tlv(0x30, &[])), "it is cut off"),
        (
            "another content",
            spoilt(|m| m.content = tlv(0x30, &tlv(6, &[42, 3]))),
            "the encapsulated content is not of type data",
        ),
        (
            "an enclosed content",
            spoilt(|m| m.content = tlv(0x30, &[tlv(6, ID_DATA), tlv(0xa0, &tlv(4, b"hello"))].concat())),
            "it encloses a content, so it is not degenerate",
        ),
        ("no certificates at all", spoilt(|m| m.certificates = None), "no certificates"),
        ("an empty set of certificates", spoilt(|m| m.certificates = Some(vec![])), "no certificates"),
        (
            "an attribute certificate",
            spoilt(|m| m.certificates = Some(tlv(0xa1, &[]))),
            "a certificate that is not an X.509 certificate",
        ),
        (
            "a signature",
            spoilt(|m| m.signers = tlv(0x31, &tlv(0x30, &[]))),
            "it is signed, so it is not degenerate",
        ),
        ("no signers", spoilt(|m| m.signers = vec![]), "it is cut off"),
        ("a fourth part", spoilt(|m| m.after = tlv(0x31, &[])), "something follows the signerInfos"),
        ("trailing data", [good.der(), vec![0]].concat(), "bytes after its end"),
        ("cut off", good.der()[..good.der().len() - 1].to_vec(), "it is cut off"),
        ("too many", Message::of(&small(CERTIFICATES_MAX + 1)).der(), "too many certificates"),
        ("a giant", Message::of(&[tlv(0x30, &[0; 16 * 1024])]).der(), "a certificate is too long"),
        ("too long", vec![0x30; MESSAGE_BYTES_MAX + 1], "too long"),
        (
            "BER",
            [&[0x30, 0x80][..], &good.der()[4..], &[0, 0]].concat(),
            "an indefinite length: it is BER, not DER",
        ),
    ];
    for (name, der, rule) in cases {
        let error = certs_only::parse(&der).expect_err(name).to_string();
        assert_eq!(error, format!("not a certs-only CMS message: {rule}"), "{name}");
    }
}

#[test]
fn revocation_lists_and_digests_are_skipped() {
    let mut message = Message::of(&small(1));
    message.lists = tlv(0xa1, &tlv(0x30, &[1, 2, 3]));
    message.digests = tlv(0x31, &tlv(0x30, &tlv(6, &[42])));
    assert_eq!(certs_only::parse(&message.der()).unwrap(), small(1));
}

#[test]
fn what_openssl_makes_is_read_with_nothing_added_or_lost() {
    let roots: Vec<_> = (0..3).map(|at| site_root(&format!("root {at}"))).collect();
    let mut certificates: Vec<Vec<u8>> = roots.iter().map(|root| root.der.clone()).collect();
    certificates.push(roots[0].certify(Template::leaf("leaf"), &Point(&common::elsewhere().point())));
    let message = est::certs_only(&certificates);
    let mut read: Vec<Vec<u8>> =
        certs_only::parse(&message).unwrap().into_iter().map(<[u8]>::to_vec).collect();
    read.sort();
    certificates.sort();
    assert_eq!(read, certificates);
}

proptest! {
    #[test]
    fn each_set_of_certificates_comes_back(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..=CERTIFICATES_MAX)) {
        let certificates: Vec<Vec<u8>> = contents.iter().map(|content| tlv(0x30, content)).collect();
        let der = Message::of(&certificates).der();
        prop_assert_eq!(certs_only::parse(&der).unwrap(), certificates);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = certs_only::parse(&bytes);
    }

    /// A changed byte either changes a certificate, or what is skipped, or is refused; it never makes another structure.
    #[test]
    fn a_changed_byte_never_adds_a_certificate(at in 0_usize..200, with in any::<u8>()) {
        let certificates = small(4);
        let mut der = Message::of(&certificates).der();
        let at = at % der.len();
        der[at] = with;
        if let Ok(read) = certs_only::parse(&der) {
            prop_assert!(read.len() <= certificates.len());
            prop_assert_eq!(read.concat().len(), certificates.concat().len());
        }
    }

    #[test]
    fn no_message_that_is_cut_is_read(keep in 0.0..1.0_f64) {
        let der = Message::of(&small(3)).der();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short message")]
        let keep = (der.len() as f64 * keep) as usize;
        prop_assert!(certs_only::parse(&der[..keep]).is_err());
    }
}
