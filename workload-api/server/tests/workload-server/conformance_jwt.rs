//! The rules of the JWT profile (SPIFFE JWT-SVID; Workload API section 6), each with a test of its name
//! (docs/workload-api.md), against a real socket.

use crate::common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{ID, Served, bundles_with, request};
use edgewarden_names::{SpiffeId, TrustDomain, UnixTime};
use edgewarden_svid::Bundles;
use edgewarden_svid::jwt::{Audience, JwtKeys, SigningKey};
use edgewarden_workload_wire::workloadapi::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use prost_types::value::Kind;
use serde_json::{Value, json};
use tonic::{Code, Status};

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

async fn validate(served: &Served, audience: &str, token: &str) -> Result<ValidateJwtsvidResponse, Status> {
    let message = ValidateJwtsvidRequest { audience: audience.into(), svid: token.into() };
    served.client().await.validate_jwtsvid(request(message)).await.map(tonic::Response::into_inner)
}

/// The same refusal for every token: InvalidArgument with the reason.
async fn refused(served: &Served, name: &str, token: &str) {
    let status = validate(served, "db", token).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{name}");
    assert!(status.message().starts_with("jwt.invalid: "), "{name}: {status}");
}

/// A key whose tokens say what a test wants.
struct Forge {
    pair: EcdsaKeyPair,
    curve: &'static str,
}

impl Forge {
    fn new(algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        Self { pair: EcdsaKeyPair::generate(algorithm).unwrap(), curve }
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"kty": "EC", "use": "jwt-svid", "kid": kid, "crv": self.curve, "x": encode(x), "y": encode(y)})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

/// A socket that federates with `partner.example`, whose only key is ours to use.
fn federated() -> (Served, Forge) {
    let forge = Forge::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256");
    let served = Served::new();
    federate(&served, &[forge.jwk("p1")]);
    (served, forge)
}

fn federate(served: &Served, keys: &[Value]) {
    let keys = JwtKeys::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap();
    let mut jwt = (*served.source.bundles.borrow().jwt).clone();
    jwt.insert(TrustDomain::parse("partner.example").unwrap(), Arc::new(keys));
    served.source.bundles.send_replace(Arc::new(Bundles { jwt: Arc::new(jwt), ..Bundles::default() }));
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "p1", "typ": "JWT"})
}

fn claims(served: &Served) -> Value {
    json!({"sub": "spiffe://partner.example/web", "aud": ["db"], "exp": served.source.time().0 + 60})
}

fn with(value: &Value, name: &str, to: Value) -> Value {
    let mut value = value.clone();
    value[name] = to;
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

/// JWT-SVID sections 2 and 3.
#[tokio::test]
async fn must_issue_tokens_with_the_prescribed_header_and_claims() {
    let served = Served::new();
    let token = served.token(&["db", "spiffe://plant.example/queue"]).await;
    let keys = served.source.bundles.borrow().jwt.values().next().unwrap().keys[0].kid.clone();
    assert_eq!(part(&token, 0), json!({"alg": "ES256", "kid": keys, "typ": "JWT"}));
    let now = served.source.time().0;
    let expected =
        json!({"sub": ID, "aud": ["db", "spiffe://plant.example/queue"], "iat": now, "exp": now + 300});
    assert_eq!(part(&token, 1), expected);
    assert_eq!(token.split('.').count(), 3);
}

/// Workload API section 6.1.
#[tokio::test]
async fn must_reject_a_request_without_an_audience() {
    let served = Served::new();
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    for audience in
        [vec![], vec![String::new()], vec!["db".into(), String::new()], many, vec!["a".repeat(513)]]
    {
        let message = JwtsvidRequest { audience, ..Default::default() };
        let status = served.client().await.fetch_jwtsvid(request(message)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("jwt.audience: "), "{status}");
    }
}

/// Workload API section 6.1: the identity that is asked for, or all.
#[tokio::test]
async fn must_give_only_the_identity_that_is_asked_for() {
    let served = Served::new();
    for (id, code) in [
        ("", None),
        (ID, None),
        ("spiffe://plant.example/gateway/gw-1/module/other", Some(Code::PermissionDenied)),
        ("spiffe://partner.example/web", Some(Code::PermissionDenied)),
        ("spiffe://plant.example", Some(Code::PermissionDenied)),
        ("no id", Some(Code::InvalidArgument)),
        ("spiffe://plant.example/../a", Some(Code::InvalidArgument)),
    ] {
        let message = JwtsvidRequest { audience: vec!["db".into()], spiffe_id: id.into() };
        let answer = served.client().await.fetch_jwtsvid(request(message)).await;
        if let Some(code) = code {
            assert_eq!(answer.unwrap_err().code(), code, "{id}");
            continue;
        }
        let svids = answer.unwrap().into_inner().svids;
        assert_eq!((svids.len(), svids[0].spiffe_id.as_str()), (1, ID));
        assert_eq!(part(&svids[0].svid, 1)["sub"], ID);
    }
}

/// Workload API section 6.1: hints are unique in a response and have at most 1024 bytes.
#[tokio::test]
async fn must_not_repeat_a_hint() {
    let served = Served::new();
    let message = JwtsvidRequest { audience: vec!["db".into()], ..Default::default() };
    let svids = served.client().await.fetch_jwtsvid(request(message)).await.unwrap().into_inner().svids;
    let hints: Vec<_> = svids.iter().map(|svid| &svid.hint).filter(|hint| !hint.is_empty()).collect();
    let unique: std::collections::BTreeSet<_> = hints.iter().collect();
    assert!(unique.len() == hints.len() && hints.iter().all(|hint| hint.len() <= 1024));
}

/// Workload API section 6.2: at least our own trust domain, JWT keys only, by SPIFFE IDs.
#[tokio::test]
async fn must_give_jwt_bundles_with_jwt_keys_only() {
    let (served, _) = federated();
    let mut stream =
        served.client().await.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap().into_inner();
    let bundles: BTreeMap<_, _> = stream.message().await.unwrap().unwrap().bundles.into_iter().collect();
    assert_eq!(bundles.keys().collect::<Vec<_>>(), ["spiffe://partner.example", "spiffe://plant.example"]);
    for bundle in bundles.values() {
        let bundle: Value = serde_json::from_slice(bundle).unwrap();
        let keys = bundle["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1);
        for key in keys {
            assert!(key["use"] == "jwt-svid" && key["kid"].is_string() && key.get("x5c").is_none());
            assert!(key.get("d").is_none(), "a private key");
        }
    }
}

/// SPIFFE Trust Domain and Bundle, section 4.1.1.
#[tokio::test]
async fn should_change_the_sequence_of_a_bundle_with_every_change() {
    let served = Served::new();
    let mut stream =
        served.client().await.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap().into_inner();
    let mut sequence = 0;
    for next in 2..5 {
        let message = stream.message().await.unwrap().unwrap();
        let bundle: Value = serde_json::from_slice(&message.bundles["spiffe://plant.example"]).unwrap();
        let found = bundle["spiffe_sequence"].as_u64().unwrap();
        assert!(found > sequence && bundle["spiffe_refresh_hint"].as_u64().is_some());
        sequence = found;
        let other = SigningKey::generate().unwrap();
        served.source.bundles.send_replace(Arc::new(bundles_with(&[&served.source.jwt, &other], next)));
    }
}

/// Our own trust domain's bundle is there even when it has no key (Workload API section 6.2).
#[tokio::test]
async fn must_give_a_bundle_of_its_own_trust_domain() {
    let served = Served::new();
    served.source.bundles.send_replace(Arc::default());
    let mut stream =
        served.client().await.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    let bundle: Value = serde_json::from_slice(&message.bundles["spiffe://plant.example"]).unwrap();
    assert_eq!(bundle["keys"], json!([]));
}

/// JWT-SVID section 4.
#[tokio::test]
async fn must_validate_what_was_issued() {
    let served = Served::new();
    let token = served.token(&["db", "queue"]).await;
    for audience in ["db", "queue"] {
        let answer = validate(&served, audience, &token).await.unwrap();
        assert_eq!(answer.spiffe_id, ID);
        let claims = answer.claims.unwrap().fields;
        assert_eq!(claims["sub"].kind, Some(Kind::StringValue(ID.into())));
        assert!(matches!(claims["exp"].kind, Some(Kind::NumberValue(_))));
        let Some(Kind::ListValue(all)) = &claims["aud"].kind else { panic!("{claims:?}") };
        assert_eq!(all.values.len(), 2);
    }
}

#[tokio::test]
async fn must_return_every_claim_of_a_valid_token() {
    let (served, forge) = federated();
    let claims = with(&claims(&served), "aud", json!("db"));
    let claims = with(&claims, "nested", json!({"a": [1, null, true, "x"]}));
    let answer = validate(&served, "db", &forge.sign(&header(), &claims)).await.unwrap();
    assert_eq!(answer.spiffe_id, "spiffe://partner.example/web");
    let fields = answer.claims.unwrap().fields;
    assert!(matches!(fields["aud"].kind, Some(Kind::ListValue(_))), "always a list");
    assert!(matches!(fields["nested"].kind, Some(Kind::StructValue(_))));
}

/// Workload API section 6.3; SPIFFE Workload Endpoint section 6.
#[tokio::test]
async fn must_reject_a_validation_without_audience_or_token() {
    let served = Served::new();
    let token = served.token(&["db"]).await;
    for (audience, token) in [("", token.as_str()), ("db", ""), ("", "")] {
        assert_eq!(validate(&served, audience, token).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// JWT-SVID section 2.1.
#[tokio::test]
async fn must_reject_algorithms_that_are_not_allowed() {
    let (served, forge) = federated();
    let good = forge.sign(&header(), &claims(&served));
    assert!(validate(&served, "db", &good).await.is_ok());
    let [_, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    for algorithm in
        ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "RSA1_5", "es256"]
    {
        let header = with(&header(), "alg", json!(algorithm));
        refused(&served, algorithm, &forge.sign(&header, &claims(&served))).await;
        let header = encode(header.to_string().as_bytes());
        refused(&served, algorithm, &format!("{header}.{body}.")).await;
        refused(&served, algorithm, &format!("{header}.{body}.{signature}")).await;
    }
    refused(&served, "no algorithm", &forge.sign(&without(&header(), "alg"), &claims(&served))).await;
}

/// JWT-SVID section 2.1: each of the allowed kinds, and none with another kind's key.
#[tokio::test]
async fn must_check_a_signature_with_the_kind_of_key_that_it_needs() {
    let served = Served::new();
    let p256 = Forge::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256");
    let p384 = Forge::new(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384");
    let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let public = rsa.public_key();
    let (n, e) = (
        public.modulus().big_endian_without_leading_zero(),
        public.exponent().big_endian_without_leading_zero(),
    );
    let jwk = json!({"kty": "RSA", "use": "jwt-svid", "kid": "rsa", "n": encode(n), "e": encode(e)});
    federate(&served, &[p256.jwk("p256"), p384.jwk("p384"), jwk]);
    let by_rsa = |algorithm: &str, encoding: &'static dyn RsaEncoding, kid: &str| {
        let header = json!({"alg": algorithm, "kid": kid}).to_string();
        let signed =
            format!("{}.{}", encode(header.as_bytes()), encode(claims(&served).to_string().as_bytes()));
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", encode(&signature))
    };
    let by = |forge: &Forge, algorithm: &str, kid: &str| {
        forge.sign(&json!({"alg": algorithm, "kid": kid}), &claims(&served))
    };
    for (name, token) in [
        ("ES256", by(&p256, "ES256", "p256")),
        ("ES384", by(&p384, "ES384", "p384")),
        ("RS256", by_rsa("RS256", &RSA_PKCS1_SHA256, "rsa")),
        ("PS512", by_rsa("PS512", &RSA_PSS_SHA512, "rsa")),
    ] {
        assert!(validate(&served, "db", &token).await.is_ok(), "{name}");
    }
    for (name, token) in [
        ("ES256 with the P-384 key", by(&p384, "ES256", "p384")),
        ("ES384 with the P-256 key", by(&p256, "ES384", "p256")),
        ("another key's name", by(&p256, "ES256", "p384")),
        ("an RSA key as ES256", by(&p256, "ES256", "rsa")),
        ("RS256 as PS256", by_rsa("PS256", &RSA_PKCS1_SHA256, "rsa")),
        ("RS256 as RS512", by_rsa("RS512", &RSA_PKCS1_SHA256, "rsa")),
        ("RSA with an EC key's name", by_rsa("RS256", &RSA_PKCS1_SHA256, "p256")),
        ("RS256 with the P-256 key", by(&p256, "RS256", "rsa")),
    ] {
        refused(&served, name, &token).await;
    }
}

/// JWT-SVID sections 2.2 and 2.3: which headers there may be, and which key a token was signed with.
#[tokio::test]
async fn must_reject_a_wrong_type_a_missing_key_and_other_headers() {
    let (served, forge) = federated();
    let token = |header: &Value| forge.sign(header, &claims(&served));
    for good in [header(), without(&header(), "typ"), with(&header(), "typ", json!("JOSE"))] {
        assert!(validate(&served, "db", &token(&good)).await.is_ok(), "{good}");
    }
    for bad in [
        with(&header(), "typ", json!("jwt")),
        with(&header(), "typ", json!("wit+jwt")),
        with(&header(), "typ", json!("")),
        with(&header(), "typ", json!(["JWT"])),
        without(&header(), "kid"),
        with(&header(), "kid", json!("")),
        with(&header(), "kid", json!("p2")),
        with(&header(), "kid", json!("P1")),
        with(&header(), "crit", json!(["exp"])),
        with(&header(), "jku", json!("https://partner.example/keys")),
        with(&header(), "x5c", json!([])),
        with(&header(), "cty", json!("JWT")),
    ] {
        refused(&served, &bad.to_string(), &token(&bad)).await;
    }
}

/// JWT-SVID section 3.1: the subject is a SPIFFE ID.
#[tokio::test]
async fn must_reject_a_subject_that_is_no_spiffe_id_of_a_trust_domain_that_is_held() {
    let (served, forge) = federated();
    for bad in [
        json!("web"),
        json!(""),
        json!(7),
        json!(null),
        json!("https://partner.example/web"),
        json!("spiffe://partner.example/a/../web"),
        json!("spiffe://partner.example/web?x"),
        json!("SPIFFE://partner.example/web"),
        json!("spiffe://PARTNER.example/web"),
        // No keys of it are held, or its keys are not these.
        json!("spiffe://unknown.example/web"),
        json!("spiffe://plant.example/gateway/gw-1/module/analytics"),
        json!("spiffe://partner.example.evil/web"),
    ] {
        refused(&served, &bad.to_string(), &forge.sign(&header(), &with(&claims(&served), "sub", bad))).await;
    }
    refused(&served, "no subject", &forge.sign(&header(), &without(&claims(&served), "sub"))).await;
}

/// A gateway's key says nothing about what is beneath another gateway.
#[tokio::test]
async fn must_not_let_a_gateway_speak_for_another() {
    let served = Served::new();
    let audience = Audience::parse(&["db".into()]).unwrap();
    let now = served.source.time();
    for (id, allowed) in [
        (ID, true),
        ("spiffe://plant.example/gateway/gw-2/module/analytics", false),
        ("spiffe://plant.example/gateway/gw-10/module/analytics", false),
        ("spiffe://plant.example/fleet", false),
        ("spiffe://plant.example", false),
    ] {
        let id = SpiffeId::parse(id).unwrap();
        let token = served.source.jwt.issue(&id, &audience, now, UnixTime(now.0 + 60)).unwrap();
        assert_eq!(validate(&served, "db", &token).await.is_ok(), allowed, "{id}");
    }
}

/// JWT-SVID section 3.2: the audience is there, and the validator's own is in it.
#[tokio::test]
async fn must_reject_a_token_for_another_audience() {
    let (served, forge) = federated();
    for bad in [
        json!([]),
        json!(""),
        json!([""]),
        json!(null),
        json!(7),
        json!({"db": true}),
        json!(["queue"]),
        json!("queue"),
        json!("db "),
        json!("DB"),
        json!(["db", 7]),
        json!([["db"]]),
    ] {
        refused(&served, &bad.to_string(), &forge.sign(&header(), &with(&claims(&served), "aud", bad))).await;
    }
    refused(&served, "no audience", &forge.sign(&header(), &without(&claims(&served), "aud"))).await;
}

/// JWT-SVID section 3.3.
#[tokio::test]
async fn must_reject_a_token_that_has_expired_or_never_expires() {
    let (served, forge) = federated();
    let now = served.source.time().0;
    for bad in [
        json!(now),
        json!(now - 1),
        json!(0),
        json!(-1),
        json!(1e300),
        json!((now + 60).to_string()),
        json!(null),
        json!([now + 60]),
    ] {
        refused(&served, &bad.to_string(), &forge.sign(&header(), &with(&claims(&served), "exp", bad))).await;
    }
    refused(&served, "no end", &forge.sign(&header(), &without(&claims(&served), "exp"))).await;
    // Time passes.
    let token = forge.sign(&header(), &claims(&served));
    assert!(validate(&served, "db", &token).await.is_ok());
    served.source.now.fetch_add(60, Ordering::SeqCst);
    refused(&served, "a minute later", &token).await;
}

/// RFC 7519 sections 4.1.5 and 4.1.6.
#[tokio::test]
async fn must_reject_a_token_of_the_future() {
    let (served, forge) = federated();
    let now = served.source.time().0;
    for name in ["iat", "nbf"] {
        for (value, allowed) in [
            (json!(now), true),
            (json!(now + 60), true),
            (json!(0), true),
            (json!(now + 61), false),
            (json!(-1), false),
            (json!("now"), false),
            (json!(null), false),
        ] {
            let token = forge.sign(&header(), &with(&claims(&served), name, value.clone()));
            assert_eq!(validate(&served, "db", &token).await.is_ok(), allowed, "{name} {value}");
        }
    }
}

/// JWS compact serialization (RFC 7515 section 7.1), and nothing else (JWT-SVID section 2).
#[tokio::test]
async fn must_reject_what_is_not_a_compact_serialization() {
    let (served, forge) = federated();
    let good = forge.sign(&header(), &claims(&served));
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[0] ^= 1;
    let json_form = json!({"payload": body, "signatures": [{"protected": head, "signature": signature}]});
    let (a, z) = ("{\"alg\":\"ES256\",\"kid\":\"p1\"", claims(&served).to_string());
    for (name, bad) in [
        ("JSON serialization", json_form.to_string()),
        ("two parts", format!("{head}.{body}")),
        ("no signature", format!("{head}.{body}.")),
        ("four parts", format!("{good}.{signature}")),
        ("five parts, as if encrypted", format!("{head}.{body}.{body}.{body}.{signature}")),
        ("padding", format!("{good}=")),
        ("white space", format!("{good} ")),
        ("a newline", format!("{good}\n")),
        ("the other base64", good.replace(['-', '_'], "+")),
        ("a signature of another token", format!("{head}.{body}.{}", encode(&flipped))),
        ("a short signature", format!("{head}.{body}.{}", encode(&flipped[1..]))),
        ("an ASN.1 signature", format!("{head}.{body}.{}", encode(&[0x30; 70]))),
        ("a name twice in the header", forge.sign_text(&format!("{a},\"kid\":\"p1\"}}"), &z)),
        (
            "a name twice in the claims",
            forge.sign_text(&header().to_string(), &z.replacen('{', "{\"sub\":\"x\",", 1)),
        ),
        (
            "deep claims",
            forge.sign_text(
                &header().to_string(),
                &format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500)),
            ),
        ),
        ("claims that are no object", forge.sign_text(&header().to_string(), "[]")),
        ("claims that are no UTF-8", {
            let signed = format!("{head}.{}", encode(b"{\"sub\":\"\xff\"}"));
            format!("{signed}.{signature}")
        }),
        ("too large", forge.sign(&header(), &with(&claims(&served), "more", json!("x".repeat(8000))))),
    ] {
        // Some have no character that is replaced.
        if bad != good {
            refused(&served, name, &bad).await;
        }
    }
}

/// Bundles that change: a key that is withdrawn makes its tokens worthless at once.
#[tokio::test]
async fn must_reject_tokens_of_a_key_that_was_withdrawn() {
    let served = Served::new();
    let token = served.token(&["db"]).await;
    assert!(validate(&served, "db", &token).await.is_ok());
    let other = SigningKey::generate().unwrap();
    served.source.bundles.send_replace(Arc::new(bundles_with(&[&served.source.jwt, &other], 2)));
    assert!(validate(&served, "db", &token).await.is_ok());
    served.source.bundles.send_replace(Arc::new(bundles_with(&[&other], 3)));
    refused(&served, "withdrawn", &token).await;
    // An empty bundle means that everything is revoked (Trust Domain and Bundle, section 4.2).
    served.source.bundles.send_replace(Arc::new(bundles_with(&[], 4)));
    refused(&served, "all withdrawn", &token).await;
}

/// A token may not tell more about the time it was made than that.
#[test]
fn tokens_of_one_moment_differ_only_in_their_signature() {
    let key = SigningKey::generate().unwrap();
    let id = SpiffeId::parse(ID).unwrap();
    let audience = Audience::parse(&["db".into()]).unwrap();
    let now = UnixTime(1_800_000_000);
    let issue = || key.issue(&id, &audience, now, now.plus(Duration::from_secs(60))).unwrap();
    let (one, other) = (issue(), issue());
    assert_eq!(one.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().0);
    assert!(!format!("{key:?}").contains(one.as_str()));
}
