//! The public keys that one trust domain's JWT-SVIDs are checked with.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
};
use edgewarden_names::SpiffeId;

use super::base64url::encode;

/// RSA keys of other trust domains, in bytes of the modulus.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A public key that JWT-SVIDs may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Uncompressed points (SEC 1 section 2.3.3).
    P256([u8; 65]),
    P384([u8; 97]),
    P521([u8; 133]),
    /// Big-endian, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl PublicKey {
    /// Refuses what is not a point of the curve.
    pub fn p256(point: Vec<u8>) -> Option<Self> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).ok()?;
        point.try_into().ok().map(Self::P256)
    }

    pub(super) fn p384(point: Vec<u8>) -> Option<Self> {
        ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).ok()?;
        point.try_into().ok().map(Self::P384)
    }

    pub(super) fn p521(point: Vec<u8>) -> Option<Self> {
        ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, &point).ok()?;
        point.try_into().ok().map(Self::P521)
    }

    pub(super) fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Self> {
        let whole =
            n.first().is_some_and(|first| *first >= 0x80) && e.first().is_some_and(|first| *first > 0);
        // An even exponent or 1 is no RSA key; a long one only makes checking slow.
        let odd = e.last().is_some_and(|last| last & 1 == 1) && e.as_slice() != [1];
        (whole && odd && RSA_BYTES.contains(&n.len()) && e.len() <= 4).then_some(Self::Rsa { n, e })
    }
}

/// A key with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    pub kid: String,
    pub public: PublicKey,
    /// The key is good for identities that lie beneath this one only: a gateway cannot speak for another gateway's
    /// modules, though all of them share a trust domain. `None`: for all of the trust domain.
    pub beneath: Option<SpiffeId>,
}

impl JwtKey {
    /// `true` when `id` lies beneath the one that the key is bound to, or the key is bound to none.
    pub fn speaks_for(&self, id: &SpiffeId) -> bool {
        self.beneath.as_ref().is_none_or(|above| {
            id.as_str().strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

/// One trust domain's keys. No `kid` is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtKeys {
    pub keys: Vec<Arc<JwtKey>>,
    /// Grows with every change (SPIFFE Trust Domain and Bundle, section 4.1.1).
    pub sequence: u64,
    pub refresh_hint_seconds: Option<u32>,
}

impl JwtKeys {
    /// The key with this ID.
    pub fn get(&self, kid: &str) -> Option<&Arc<JwtKey>> {
        self.keys.iter().find(|key| key.kid == kid)
    }
}

/// A name for a P-256 key that says which key it is (RFC 7638): the same key never has two names, and two keys never one.
pub fn thumbprint(point: &[u8]) -> Option<String> {
    let (x, y) = coordinates(point, 32)?;
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y));
    Some(encode(digest(&SHA256, members.as_bytes()).as_ref()))
}

/// The two halves of an uncompressed point.
fn coordinates(point: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(length)?;
    (y.len() == length).then_some((x, y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::SigningKey;

    #[test]
    fn a_gateways_key_speaks_for_what_is_beneath_it() {
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let public = PublicKey::P256([4; 65]);
        let above = Some(id("spiffe://plant.example/gateway/gw-1"));
        let key = JwtKey { kid: "k".into(), public: public.clone(), beneath: above };
        let free = JwtKey { kid: "k".into(), public, beneath: None };
        for (subject, expected) in [
            ("spiffe://plant.example/gateway/gw-1/module/a", true),
            ("spiffe://plant.example/gateway/gw-1", false),
            ("spiffe://plant.example/gateway/gw-10/module/a", false),
            ("spiffe://plant.example/gateway/gw-2/module/a", false),
            ("spiffe://plant.example/fleet", false),
            ("spiffe://plant.example.evil/gateway/gw-1/module/a", false),
        ] {
            assert_eq!(key.speaks_for(&id(subject)), expected, "{subject}");
            assert!(free.speaks_for(&id(subject)));
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let point = SigningKey::generate().unwrap().point().to_vec();
        assert!(PublicKey::p256(point.clone()).is_some() && thumbprint(&point).unwrap().len() == 43);
        let mut off_curve = point.clone();
        off_curve[64] ^= 1;
        assert_eq!(PublicKey::p256(off_curve), None);
        assert_eq!(PublicKey::p256(point[..64].to_vec()), None);
        assert_eq!(PublicKey::p256(vec![0]), None);
        assert_eq!(PublicKey::p384(point), None);
        let modulus = vec![0xff; 256];
        assert!(PublicKey::rsa(modulus.clone(), vec![1, 0, 1]).is_some());
        for (n, e) in [
            (vec![0xff; 255], vec![1, 0, 1]),
            (vec![0xff; 1025], vec![1, 0, 1]),
            ([&[0], modulus.as_slice()].concat(), vec![1, 0, 1]),
            (modulus.clone(), vec![1]),
            (modulus.clone(), vec![2]),
            (modulus.clone(), vec![]),
            (modulus.clone(), vec![1, 0, 0, 0, 1]),
            (modulus.clone(), vec![0, 1, 0, 1]),
        ] {
            assert_eq!(PublicKey::rsa(n, e), None);
        }
    }
}
