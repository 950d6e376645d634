//! TPM structures: round trips, every truncation, and each value that is not allowed.

use edgewarden_evidence::tpm::{
    Attest, AttestKind, Attributes, ClockInfo, Curve, Key, PcrSelection, PcrSelections, Public, Scheme,
    Signature, Symmetric,
};
use edgewarden_evidence::{HashAlg, ParseError};
use proptest::prelude::*;

fn quote() -> Attest {
    Attest {
        qualified_signer: vec![0, 11, 7],
        extra_data: vec![5; 32],
        clock: ClockInfo { clock: 1, reset_count: 2, restart_count: 3, safe: true },
        firmware_version: 4,
        kind: AttestKind::Quote {
            selections: PcrSelections(vec![PcrSelection::of(HashAlg::Sha256, &[0, 4, 23])]),
            digest: vec![6; 32],
        },
    }
}

fn certify() -> Attest {
    Attest { kind: AttestKind::Certify { name: vec![0, 11, 1], qualified_name: vec![2] }, ..quote() }
}

fn ak() -> Public {
    Public {
        name_alg: HashAlg::Sha256,
        attributes: Attributes(0x0005_0472),
        auth_policy: Vec::new(),
        key: Key::Ecc {
            symmetric: Symmetric::Null,
            scheme: Scheme::Ecdsa(HashAlg::Sha256),
            curve: Curve::P256,
            x: vec![1; 32],
            y: vec![2; 31],
        },
    }
}

fn ek(symmetric: Symmetric, scheme: Scheme) -> Public {
    let key = Key::Rsa { symmetric, scheme, exponent: 0, modulus: vec![0xc0; 256] };
    Public { name_alg: HashAlg::Sha256, attributes: Attributes(0x0003_00b2), auth_policy: vec![8; 32], key }
}

/// Whole structures come back as they were, cut and lengthened ones are refused.
fn exact<T: std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, ParseError>,
    back: impl Fn(&T) -> Vec<u8>,
) {
    assert_eq!(back(&parse(bytes).unwrap()), bytes);
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "cut to {length}");
    }
    assert!(matches!(parse(&[bytes, &[0]].concat()), Err(ParseError::Trailing(_))));
}

#[test]
fn structures_are_read_exactly() {
    exact(&quote().to_bytes(), Attest::parse, Attest::to_bytes);
    exact(&certify().to_bytes(), Attest::parse, Attest::to_bytes);
    exact(&ak().to_bytes(), Public::parse, Public::to_bytes);
    for symmetric in [Symmetric::Null, Symmetric::Aes128Cfb, Symmetric::Aes256Cfb] {
        for scheme in [Scheme::Null, Scheme::RsaSsa(HashAlg::Sha256), Scheme::RsaPss(HashAlg::Sha384)] {
            exact(&ek(symmetric, scheme).to_bytes(), Public::parse, Public::to_bytes);
        }
    }
    for signature in [
        Signature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 32], s: vec![2; 32] },
        Signature::RsaSsa { hash: HashAlg::Sha256, signature: vec![3; 256] },
        Signature::RsaPss { hash: HashAlg::Sha512, signature: vec![3; 256] },
    ] {
        exact(&signature.to_bytes(), Signature::parse, Signature::to_bytes);
    }
    let selections =
        PcrSelections(vec![PcrSelection::of(HashAlg::Sha1, &[]), PcrSelection::of(HashAlg::Sha256, &[7])]);
    exact(&selections.to_bytes(), PcrSelections::parse, PcrSelections::to_bytes);
}

#[test]
fn values_that_are_not_allowed() {
    let changed = |bytes: Vec<u8>, at: usize, byte: u8| {
        let mut bytes = bytes;
        bytes[at] = byte;
        bytes
    };
    let (quote, ak, rsa) =
        (quote().to_bytes(), ak().to_bytes(), ek(Symmetric::Aes128Cfb, Scheme::Null).to_bytes());
    // Offsets: Part 2, sections 10.12.12 and 12.2.4.
    let safe_at = 4 + 2 + 5 + 34 + 16;
    for (what, bytes) in [
        ("magic", changed(quote.clone(), 0, 0)),
        ("type: session audit", changed(quote.clone(), 5, 0x16)),
        ("safe is 2", changed(quote.clone(), safe_at, 2)),
        ("bank SM3", changed(quote.clone(), safe_at + 1 + 8 + 4 + 1, 0x12)),
        ("17 banks", changed(quote.clone(), safe_at + 1 + 8 + 3, 17)),
        ("select of 5 bytes", changed(quote.clone(), safe_at + 1 + 8 + 4 + 2, 5)),
    ] {
        assert!(Attest::parse(&bytes).is_err(), "{what}");
    }
    for (what, bytes) in [
        ("key type keyed hash", changed(ak.clone(), 1, 0x08)),
        ("name algorithm", changed(ak.clone(), 3, 0x10)),
        ("attribute bit 0", changed(ak.clone(), 7, 0x73)),
        ("attribute bit 31", changed(ak.clone(), 4, 0x80)),
        ("ECC with RSASSA", changed(ak.clone(), 13, 0x14)),
        ("curve P-521", changed(ak.clone(), 17, 5)),
        ("a key derivation", changed(ak.clone(), 19, 0x20)),
        ("x of 33 bytes", changed(ak.clone(), 21, 33)),
        ("AES-192", changed(rsa.clone(), 10 + 32 + 3, 192)),
        ("AES in CBC", changed(rsa.clone(), 10 + 32 + 5, 0x42)),
        ("RSA with ECDSA", changed(rsa.clone(), 10 + 32 + 7, 0x18)),
        ("RSA-1024", changed(rsa.clone(), 10 + 32 + 8, 4)),
        ("policy of 31 bytes", Public { auth_policy: vec![1; 31], ..Public::parse(&ak).unwrap() }.to_bytes()),
    ] {
        assert!(Public::parse(&bytes).is_err(), "{what}");
    }
    let signature = Signature::Ecdsa { hash: HashAlg::Sha256, r: vec![1; 67], s: vec![2; 32] };
    assert!(Signature::parse(&signature.to_bytes()).is_err());
    assert!(Signature::parse(&[0, 5, 0, 11]).is_err(), "an HMAC is no signature");
}

#[test]
fn selections_are_compared_exactly() {
    let of = |pcrs: &[u8]| PcrSelection::of(HashAlg::Sha256, pcrs);
    for (selections, exact) in [
        (vec![of(&[0, 4, 7])], true),
        (vec![PcrSelection { bank: HashAlg::Sha256, bits: vec![0x91, 0, 0, 0] }], true),
        (vec![of(&[0, 4])], false),
        (vec![of(&[0, 4, 7, 8])], false),
        (vec![of(&[])], false),
        (vec![], false),
        (vec![PcrSelection::of(HashAlg::Sha1, &[0, 4, 7])], false),
        (vec![of(&[0, 4, 7]), PcrSelection::of(HashAlg::Sha1, &[])], false),
        (vec![of(&[0, 4]), of(&[7])], false),
    ] {
        assert_eq!(
            PcrSelections(selections.clone()).is_exactly(HashAlg::Sha256, &[0, 4, 7]),
            exact,
            "{selections:?}"
        );
    }
}

#[test]
fn names_and_points() {
    let ak = ak();
    assert_eq!(ak.name()[..2], [0, 11]);
    assert_eq!(ak.name()[2..], HashAlg::Sha256.digest(&[&ak.to_bytes()]));
    let point = ak.point().unwrap();
    assert_eq!(
        (point.len(), point[0], point[33], point[34]),
        (65, 4, 0, 2),
        "y is padded to the curve's size"
    );
    assert_eq!(ek(Symmetric::Aes128Cfb, Scheme::Null).point(), None);
}

#[test]
fn der_signatures() {
    let der =
        |r: &[u8], s: &[u8]| Signature::Ecdsa { hash: HashAlg::Sha256, r: r.into(), s: s.into() }.to_der();
    assert_eq!(der(&[0, 0, 1], &[0x80]).unwrap(), [0x30, 7, 2, 1, 1, 2, 2, 0, 0x80]);
    assert_eq!(der(&[0, 0], &[1]), None);
    assert_eq!(der(&[], &[1]), None);
    assert_eq!(der(&[0xff; 66], &[0xff; 66]).unwrap()[..3], [0x30, 0x81, 138]);
    assert_eq!(Signature::RsaSsa { hash: HashAlg::Sha256, signature: vec![1] }.to_der(), None);
}

proptest! {
    #[test]
    fn what_parses_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(parsed) = Attest::parse(&bytes) { prop_assert_eq!(parsed.to_bytes(), &bytes[..]); }
        if let Ok(parsed) = Public::parse(&bytes) { prop_assert_eq!(parsed.to_bytes(), &bytes[..]); }
        if let Ok(parsed) = Signature::parse(&bytes) { prop_assert_eq!(parsed.to_bytes(), &bytes[..]); }
    }

    #[test]
    fn changed_bytes_are_refused_or_come_back(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (bytes, parse) in [
            (quote().to_bytes(), (|b| Attest::parse(b).map(|v| v.to_bytes())) as fn(&[u8]) -> Result<Vec<u8>, ParseError>),
            (certify().to_bytes(), |b| Attest::parse(b).map(|v| v.to_bytes())),
            (ak().to_bytes(), |b| Public::parse(b).map(|v| v.to_bytes())),
            (ek(Symmetric::Aes256Cfb, Scheme::Null).to_bytes(), |b| Public::parse(b).map(|v| v.to_bytes())),
        ] {
            let mut bytes = bytes;
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(back) = parse(&bytes) { prop_assert_eq!(back, bytes); }
        }
    }
}
