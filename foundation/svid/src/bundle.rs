//! The bundle of a trust domain as trust domains give it to each other: a JWK Set with X.509 authorities and JWT keys
//! (SPIFFE Trust Domain and Bundle, section 4).
//!
//! No I/O and no clock. Distrusts every byte: who serves a bundle may be anybody's mistake. What is for a use or of a
//! key type that is not known is passed over, as section 4.2 wants; an authority that is not right refuses the whole, so
//! that a bundle is never believed in part. Whether a certificate is valid by now is for who builds a path to it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::TrustDomain;
use serde_json::json;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::jwt::json::{Json, Object};
use crate::jwt::jwk::document;
use crate::jwt::{JWKS_BYTES_MAX, JwksError, JwtKeys};

/// Largest bundle that is read.
pub const BUNDLE_BYTES_MAX: usize = JWKS_BYTES_MAX;
/// Most X.509 authorities of one trust domain.
pub const AUTHORITIES_MAX: usize = 32;
/// Largest certificate of an authority.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
const USE: &str = "x509-svid";
/// The OID of an elliptic curve key (RFC 5480 section 2.1.1) and of an RSA key (RFC 8017 appendix A.1).
const KEY_TYPES: [(&str, &str); 2] = [("EC", "1.2.840.10045.2.1"), ("RSA", "1.2.840.113549.1.1.1")];

/// One trust domain's authorities. Only the parser makes one from foreign bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TrustBundle {
    /// DER, in the order given, each once.
    pub x509: Vec<Vec<u8>>,
    /// JWT keys, and with them the bundle's sequence and refresh hint.
    pub jwt: JwtKeys,
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = (self.x509.len(), self.jwt.keys.len());
        f.debug_tuple("TrustBundle").field(&self.jwt.sequence).field(&counts).finish()
    }
}

/// Error of a document that is no SPIFFE bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(transparent)]
    Keys(#[from] JwksError),
    #[error("a bundle has at most {AUTHORITIES_MAX} X.509 authorities of {CERTIFICATE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("an X.509 authority is no certificate in `x5c`")]
    Certificate,
    #[error("the X.509 authority `{0}` is of another key type than its `kty`")]
    KeyType(String),
    #[error("the X.509 authority `{0}` is not a CA's certificate")]
    NotCa(String),
    #[error("the X.509 authority `{0}` names another trust domain than `{1}`")]
    Foreign(String, TrustDomain),
}

impl TrustBundle {
    /// The bundle of `domain`.
    pub fn parse(bytes: &[u8], domain: &TrustDomain) -> Result<Self, BundleError> {
        let document = document(bytes)?;
        let jwt = JwtKeys::of(&document)?;
        let mut bundle = Self { x509: Vec::new(), jwt };
        let Some(Json::Array(all)) = document.get("keys") else { return Err(JwksError::Keys.into()) };
        for key in all {
            let Json::Object(key) = key else { return Err(JwksError::Keys.into()) };
            let Some(der) = certificate(key, domain)? else { continue };
            if bundle.x509.contains(&der) {
                continue;
            }
            if bundle.x509.len() == AUTHORITIES_MAX {
                return Err(BundleError::TooLarge);
            }
            bundle.x509.push(der);
        }
        Ok(bundle)
    }

    /// As text. An authority that cannot be read is left out.
    pub fn to_json(&self) -> Vec<u8> {
        let authorities = self.x509.iter().filter_map(|der| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            let mut jwk = public_key(&parsed)?;
            if let Some(jwk) = jwk.as_object_mut() {
                jwk.insert("use".into(), USE.into());
                jwk.insert("x5c".into(), json!([STANDARD.encode(der)]));
            }
            Some(jwk)
        });
        self.jwt.to_jwks_after(authorities.collect())
    }

    /// `true` when both hold the same keys, whatever their sequence and hint.
    pub fn same_keys(&self, other: &Self) -> bool {
        self.x509 == other.x509 && self.jwt.keys == other.jwt.keys
    }
}

/// The certificate of an X.509 authority; `None` when the key is for something else.
fn certificate(key: &Object, domain: &TrustDomain) -> Result<Option<Vec<u8>>, BundleError> {
    let text = |name: &str| key.get(name).and_then(Json::as_str);
    let known = KEY_TYPES.iter().find(|(name, _)| text("kty") == Some(name));
    let (Some((_, key_type)), Some(USE)) = (known, text("use")) else { return Ok(None) };
    // Without `x5c` it must be passed over, and so must a second value (section 4.2.2).
    let Some(chain) = key.get("x5c") else { return Ok(None) };
    let Json::Array(chain) = chain else { return Err(BundleError::Certificate) };
    let first = chain.first().and_then(Json::as_str).ok_or(BundleError::Certificate)?;
    if first.len() > CERTIFICATE_BYTES_MAX.saturating_mul(2) {
        return Err(BundleError::TooLarge);
    }
    let der = STANDARD.decode(first).map_err(|_| BundleError::Certificate)?;
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    check_authority(&der, key_type, domain)?;
    Ok(Some(der))
}

/// SPIFFE X.509-SVID, section 2 and 4.1, for a signing certificate.
fn check_authority(der: &[u8], key_type: &str, domain: &TrustDomain) -> Result<(), BundleError> {
    let Ok(([], parsed)) = X509Certificate::from_der(der) else { return Err(BundleError::Certificate) };
    let name: String = parsed.subject().to_string().chars().take(128).collect();
    if parsed.public_key().algorithm.algorithm.to_id_string() != key_type {
        return Err(BundleError::KeyType(name));
    }
    let constraints = parsed.basic_constraints().map_err(|_| BundleError::Certificate)?;
    let usage = parsed.key_usage().map_err(|_| BundleError::Certificate)?;
    let is_ca = constraints.is_some_and(|constraints| constraints.value.ca)
        && usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !is_ca {
        return Err(BundleError::NotCa(name));
    }
    let names = parsed.subject_alternative_name().map_err(|_| BundleError::Certificate)?;
    let own = domain.id();
    for uri in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = uri
            && *uri != own.as_str()
        {
            return Err(BundleError::Foreign(name, domain.clone()));
        }
    }
    Ok(())
}

/// The key parameters that a JWK must have (RFC 7518 sections 6.2 and 6.3); readers go by the certificate.
fn public_key(parsed: &X509Certificate<'_>) -> Option<serde_json::Value> {
    use x509_parser::public_key::PublicKey;
    let url = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (x, y) = point.data().strip_prefix(&[4])?.split_at_checked(point.data().len() / 2)?;
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                66 => "P-521",
                _ => return None,
            };
            Some(json!({"kty": "EC", "crv": curve, "x": url(x), "y": url(y)}))
        }
        PublicKey::RSA(key) => {
            let whole = |mut bytes: &[u8]| {
                while let [0, rest @ ..] = bytes {
                    bytes = rest;
                }
                url(bytes)
            };
            Some(json!({"kty": "RSA", "n": whole(key.modulus), "e": whole(key.exponent)}))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::string::Ia5String;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
    use serde_json::Value;

    use super::*;
    use crate::jwt::SigningKey;

    fn domain() -> TrustDomain {
        TrustDomain::parse("other.example").unwrap()
    }

    fn der(uris: &[&str], ca: bool, usages: &[KeyUsagePurpose]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.key_usages = usages.to_vec();
        let uri = |uri: &&str| SanType::URI(Ia5String::try_from(uri.to_string()).unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn root() -> Vec<u8> {
        der(&["spiffe://other.example"], true, &[KeyUsagePurpose::KeyCertSign])
    }

    fn good() -> TrustBundle {
        let keys = vec![Arc::new(SigningKey::generate().unwrap().public(None))];
        let jwt = JwtKeys { keys, sequence: 7, refresh_hint_seconds: Some(300) };
        TrustBundle { x509: vec![root(), der(&[], true, &[])], jwt }
    }

    fn jwk(der: &[u8]) -> Value {
        json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)]})
    }

    fn parse(keys: &[Value]) -> Result<TrustBundle, BundleError> {
        TrustBundle::parse(json!({ "keys": keys }).to_string().as_bytes(), &domain())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let good = good();
        assert_eq!(TrustBundle::parse(&good.to_json(), &domain()).unwrap(), good);
        let text: Value = serde_json::from_slice(&good.to_json()).unwrap();
        assert_eq!((&text["keys"][0]["use"], &text["keys"][0]["kid"]), (&json!("x509-svid"), &Value::Null));
        assert_eq!((&text["keys"][0]["crv"], &text["spiffe_sequence"]), (&json!("P-256"), &json!(7)));
        // All were revoked, which is not the same as no bundle.
        assert_eq!(parse(&[]).unwrap(), TrustBundle::default());
    }

    #[test]
    fn what_is_for_something_else_is_passed_over() {
        let with = |name: &str, value: Value| {
            let mut key = jwk(&root());
            key[name] = value;
            key
        };
        let mut bare = jwk(&root());
        bare.as_object_mut().unwrap().remove("x5c");
        for passed in [
            bare,
            with("use", json!("wit-svid")),
            with("use", Value::Null),
            with("kty", json!("OKP")),
            with("kty", json!("oct")),
        ] {
            assert_eq!(parse(std::slice::from_ref(&passed)).unwrap().x509.len(), 0, "{passed}");
        }
        let one = STANDARD.encode(root());
        let two = with("x5c", json!([one, "not read"]));
        assert_eq!(
            parse(&[two.clone(), two]).unwrap().x509.len(),
            1,
            "the second value, and the same key again"
        );
        assert_eq!(parse(&[jwk(&root()), jwk(&der(&[], true, &[]))]).unwrap().x509.len(), 2);
    }

    #[test]
    fn an_authority_that_is_not_right_refuses_the_whole() {
        let x5c = |value: Value| json!({"kty": "EC", "use": "x509-svid", "x5c": value});
        let rsa = json!({"kty": "RSA", "use": "x509-svid", "x5c": [STANDARD.encode(root())]});
        let trailing = [root(), vec![0]].concat();
        let sign = [KeyUsagePurpose::KeyCertSign];
        for (name, bad) in [
            ("no list", x5c(json!("MII="))),
            ("nothing in it", x5c(json!([]))),
            ("a number", x5c(json!([7]))),
            ("no base64", x5c(json!(["%"]))),
            ("no certificate", x5c(json!(["AAAA"]))),
            ("bytes behind it", jwk(&trailing)),
            ("too long", x5c(json!(["A".repeat(4 * CERTIFICATE_BYTES_MAX)]))),
            ("another key type", rsa),
            ("no CA", jwk(&der(&["spiffe://other.example"], false, &[]))),
            ("a CA that signs no certificates", jwk(&der(&[], true, &[KeyUsagePurpose::CrlSign]))),
            ("another trust domain", jwk(&der(&["spiffe://plant.example"], true, &sign))),
            ("a longer name", jwk(&der(&["spiffe://other.example.evil"], true, &sign))),
            ("a path", jwk(&der(&["spiffe://other.example/ca"], true, &sign))),
            ("a second name", jwk(&der(&["spiffe://other.example", "spiffe://plant.example"], true, &sign))),
            ("no object", json!("key")),
        ] {
            assert!(parse(&[jwk(&root()), bad]).is_err(), "{name}");
        }
        let many: Vec<_> = (0..=AUTHORITIES_MAX).map(|_| jwk(&der(&[], true, &[]))).collect();
        assert!(matches!(parse(&many), Err(BundleError::TooLarge)));
        for bad in [
            "",
            "[]",
            "{}",
            "{\"keys\":7}",
            "{\"keys\":[],\"keys\":[]}",
            "{\"keys\":[],\"spiffe_sequence\":1.5}",
        ] {
            assert!(TrustBundle::parse(bad.as_bytes(), &domain()).is_err(), "{bad}");
        }
        assert!(TrustBundle::parse(&vec![b' '; BUNDLE_BYTES_MAX + 1], &domain()).is_err());
        let cut = good().to_json();
        for end in 0..cut.len() {
            assert!(TrustBundle::parse(&cut[..end], &domain()).is_err(), "{end}");
        }
    }
}
