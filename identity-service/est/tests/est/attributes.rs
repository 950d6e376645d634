//! Wishes of a CA (CSR attributes): met, ignored, or refused before a key signs.

use crate::common;

use std::cell::Cell;

use common::{elsewhere, tlv};
use edgewarden_ca::{CaSigner, SignError};
use edgewarden_est::{ATTRIBUTES_MAX, CsrAttributes, Names, Profile, SignedRequest, Subject};
use edgewarden_names::Reason;
use edgewarden_testkit::Key;
use proptest::prelude::*;

const CHALLENGE_PASSWORD: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const MAC_ADDRESS: &[u8] = &[0x2b, 0x06, 0x01, 0x01, 0x01, 0x01, 0x16];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

fn oid(content: &[u8]) -> Vec<u8> {
    tlv(6, content)
}

fn attribute(kind: &[u8], values: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &[oid(kind), tlv(0x31, &values.concat())].concat())
}

fn list(entries: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &entries.concat())
}

#[test]
fn malformed_wishes_are_refused() {
    for (name, der) in [
        ("not a list", oid(EC_KEY)),
        ("trailing data", [list(&[]), vec![0]].concat()),
        ("a number", list(&[tlv(2, &[1])])),
        ("an empty identifier", list(&[oid(&[])])),
        ("no values", list(&[tlv(0x30, &oid(EC_KEY))])),
        ("three parts", list(&[tlv(0x30, &[oid(EC_KEY), tlv(0x31, &[]), tlv(0x31, &[])].concat())])),
        ("values not in a set", list(&[tlv(0x30, &[oid(EC_KEY), tlv(0x30, &[])].concat())])),
        ("too many", list(&vec![oid(MAC_ADDRESS); ATTRIBUTES_MAX + 1])),
        ("too many values", list(&[attribute(EC_KEY, &vec![oid(P256); ATTRIBUTES_MAX + 1])])),
        ("too long", list(&[tlv(6, &vec![1; 17 * 1024])])),
        ("cut off", vec![0x30, 5, 6]),
    ] {
        assert_eq!(CsrAttributes::parse(&der).expect_err(name).reason, Reason::EstAnswer, "{name}");
    }
}

/// Counts what it signs.
struct Counting<'a>(&'a Key, Cell<u32>);

impl CaSigner for Counting<'_> {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        self.0.public_point()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.1.set(self.1.get() + 1);
        self.0.sign(message)
    }
}

#[test]
fn what_cannot_be_given_is_refused_before_the_key_signs() {
    let key = elsewhere();
    let names = Names { common_name: "gw-1".into(), ..Names::default() };
    let subject = Subject::new(&names, Profile::EndEntity).unwrap();
    for (name, wishes, met) in [
        ("none", vec![], true),
        ("P-256", vec![attribute(EC_KEY, &[oid(P256)])], true),
        ("any curve", vec![oid(EC_KEY)], true),
        ("P-384", vec![attribute(EC_KEY, &[oid(P384)])], false),
        ("P-384 or P-256", vec![attribute(EC_KEY, &[oid(P384), oid(P256)])], true),
        ("RSA", vec![oid(RSA)], false),
        ("RSA of a size", vec![attribute(RSA, &[tlv(2, &[0x10, 0])])], false),
        ("RSA or P-256", vec![oid(RSA), attribute(EC_KEY, &[oid(P256)])], true),
        ("SHA-256", vec![oid(ECDSA_SHA256)], true),
        ("SHA-384", vec![oid(ECDSA_SHA384)], false),
        ("SHA-384 with P-256", vec![attribute(EC_KEY, &[oid(P256)]), oid(ECDSA_SHA384)], false),
        ("linking", vec![oid(CHALLENGE_PASSWORD)], false),
        (
            "linking, among others",
            vec![oid(ECDSA_SHA256), attribute(CHALLENGE_PASSWORD, &[tlv(12, b"x")])],
            false,
        ),
        ("a MAC address", vec![attribute(EXTENSION_REQUEST, &[oid(MAC_ADDRESS)])], true),
    ] {
        let wishes = CsrAttributes::parse(&list(&wishes)).unwrap();
        let counting = Counting(&key, Cell::new(0));
        let request = SignedRequest::enroll(&subject, &wishes, &counting);
        assert_eq!(request.is_ok(), met, "{name}");
        assert_eq!(counting.1.get(), u32::from(met), "{name}");
        if let Err(error) = request {
            assert_eq!(error.reason(), Reason::EstAttributes, "{name}");
        }
    }
}

/// RFC 7030 section 4.5.2 gives this list as its example: it wants linking and P-384, so we refuse it.
#[test]
fn the_example_of_the_rfc_is_read_and_refused() {
    let example = list(&[
        oid(CHALLENGE_PASSWORD),
        attribute(EC_KEY, &[oid(P384)]),
        attribute(EXTENSION_REQUEST, &[oid(MAC_ADDRESS)]),
        oid(ECDSA_SHA384),
    ]);
    let wishes = CsrAttributes::parse(&example).unwrap();
    assert_eq!(wishes.ignored(), ["1.3.6.1.1.1.1.22"]);
    assert_eq!(wishes.check().unwrap_err().reason, Reason::EstAttributes);
}

#[test]
fn what_is_unknown_is_ignored_and_told() {
    let extension = |kind: &[u8]| tlv(0x30, &[oid(kind), tlv(4, &[])].concat());
    let template = tlv(0x30, &[extension(KEY_USAGE), extension(&[0x2a, 3])].concat());
    let wishes = CsrAttributes::parse(&list(&[
        attribute(EXTENSION_REQUEST, &[template]),
        oid(&[0x2a, 4]),
        attribute(&[0x2a, 5], &[tlv(5, &[])]),
    ]))
    .unwrap();
    wishes.check().unwrap();
    assert_eq!(wishes.ignored(), ["1.2.3", "1.2.4", "1.2.5"]);
    assert_eq!(CsrAttributes::parse(&[]).unwrap(), CsrAttributes::default());
}

proptest! {
    #[test]
    fn no_wishes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = CsrAttributes::parse(&tlv(0x30, &bytes)).map(|wishes| wishes.check());
    }
}
