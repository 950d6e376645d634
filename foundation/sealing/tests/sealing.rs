//! A sealed value opens with the one key and the one context, and with nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use edgewarden_sealing::{
    CONTEXT_BYTES_MAX, OpenError, PLAINTEXT_BYTES_MAX, SealError, Sealed, TAG_BYTES, open, seal,
};
use zeroize::Zeroizing;

struct Recipient(PrivateKey);

#[derive(Debug, PartialEq, Eq)]
struct NotAgreed;

impl Recipient {
    fn new() -> Self {
        Self(PrivateKey::generate(&ECDH_P256).unwrap())
    }

    fn point(&self) -> Vec<u8> {
        self.0.compute_public_key().unwrap().as_ref().to_vec()
    }

    fn open(&self, sealed: &Sealed, info: &[u8], aad: &[u8]) -> Result<Vec<u8>, OpenError<NotAgreed>> {
        let ecdh = |peer: &[u8]| {
            let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
            agree(&self.0, peer, NotAgreed, |x| Ok(Zeroizing::new(x.to_vec())))
        };
        open(sealed, &self.point(), info, aad, ecdh).map(|plain| plain.to_vec())
    }
}

#[test]
fn what_is_sealed_opens_again() {
    let recipient = Recipient::new();
    for plaintext in [&b""[..], b"x", &vec![7; PLAINTEXT_BYTES_MAX]] {
        let sealed = seal(&recipient.point(), b"info", b"aad", plaintext).unwrap();
        assert_eq!(sealed.ciphertext.len(), plaintext.len() + TAG_BYTES);
        assert_eq!(recipient.open(&sealed, b"info", b"aad").unwrap(), plaintext);
    }
    let (once, twice) = (
        seal(&recipient.point(), b"", b"", b"same").unwrap(),
        seal(&recipient.point(), b"", b"", b"same").unwrap(),
    );
    assert_ne!(once.encapsulated, twice.encapsulated);
    assert_ne!(once.ciphertext, twice.ciphertext);
}

#[test]
fn nothing_else_opens() {
    let recipient = Recipient::new();
    let good = seal(&recipient.point(), b"info", b"aad", b"password").unwrap();
    let other = seal(&recipient.point(), b"info", b"aad", b"password").unwrap();
    assert_eq!(recipient.open(&good, b"inf", b"oaad"), Err(OpenError::Opaque), "another context");
    assert_eq!(recipient.open(&good, b"info", b""), Err(OpenError::Opaque), "without associated data");
    assert_eq!(Recipient::new().open(&good, b"info", b"aad"), Err(OpenError::Opaque), "another key");
    let mixed = Sealed { encapsulated: other.encapsulated, ciphertext: good.ciphertext.clone() };
    assert_eq!(recipient.open(&mixed, b"info", b"aad"), Err(OpenError::Opaque), "another ephemeral key");
    for at in 0..good.ciphertext.len() {
        let mut bad = good.clone();
        bad.ciphertext[at] ^= 1;
        assert_eq!(recipient.open(&bad, b"info", b"aad"), Err(OpenError::Opaque), "byte {at}");
    }
    for at in 1..good.encapsulated.len() {
        let mut bad = good.clone();
        bad.encapsulated[at] ^= 1;
        // The point is not on the curve, or it is another one.
        let opened = recipient.open(&bad, b"info", b"aad");
        assert!(matches!(opened, Err(OpenError::Agree(NotAgreed) | OpenError::Opaque)), "{opened:?}");
    }
}

#[test]
fn forms_and_limits() {
    let recipient = Recipient::new();
    let point = recipient.point();
    let compressed = [&[2][..], &point[1..33]].concat();
    let off_the_curve = [&[4][..], &[1; 64]].concat();
    for bad in [&b""[..], &point[..64], &[point.clone(), vec![0]].concat(), &compressed, &off_the_curve] {
        assert_eq!(seal(bad, b"", b"", b""), Err(SealError::Recipient), "{} bytes", bad.len());
    }
    let long = vec![0; CONTEXT_BYTES_MAX + 1];
    assert_eq!(seal(&point, &long, b"", b""), Err(SealError::Context));
    assert_eq!(seal(&point, b"", &long, b""), Err(SealError::Context));
    assert_eq!(seal(&point, b"", b"", &vec![0; PLAINTEXT_BYTES_MAX + 1]), Err(SealError::Plaintext));

    let good = seal(&point, b"", b"", b"x").unwrap();
    let forms = [
        Sealed { encapsulated: Vec::new(), ..good.clone() },
        Sealed { encapsulated: compressed, ..good.clone() },
        Sealed { ciphertext: vec![0; TAG_BYTES - 1], ..good.clone() },
        Sealed { ciphertext: vec![0; PLAINTEXT_BYTES_MAX + TAG_BYTES + 1], ..good.clone() },
    ];
    for bad in forms {
        assert_eq!(recipient.open(&bad, b"", b""), Err(OpenError::Malformed));
    }
    let short = open(&good, &point, b"", b"", |_| Ok::<_, NotAgreed>(Zeroizing::new(vec![0; 31])));
    assert_eq!(short.unwrap_err(), OpenError::Malformed, "an agreement of another length");
    let failed = open(&good, &point, b"", b"", |_| Err(NotAgreed));
    assert_eq!(failed.unwrap_err(), OpenError::Agree(NotAgreed));
}
