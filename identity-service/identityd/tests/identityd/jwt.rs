//! JWT-SVIDs from `identityd`'s own sockets: who gets them, how long their keys are known, and what is written down.

use crate::common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use common::{DAY, Gateway, domain, gateway_name, until};
use edgewarden_ca::public_point;
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{JwtStatement, Reply, Request};
use edgewarden_protocol::enrol::Proof;
use edgewarden_protocol::jwt_keys;
use edgewarden_svid::jwt::JwtKeys;
use edgewarden_svid::jwt::json::Json;
use edgewarden_svid::jwt::jws::Token;
use edgewarden_workload_client::{FetchError, fetch_jwt_bundles, fetch_jwt_svid, validate_jwt_svid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ID: &str = "spiffe://plant.example/gateway/gw-1/module/runtimed";

/// The socket of a process that runs as root, as this test does.
fn socket(gateway: &Gateway) -> PathBuf {
    gateway.layout().workload_socket("runtimed")
}

async fn joined() -> Gateway {
    let gateway = Gateway::started().await;
    gateway.join().await;
    gateway
}

async fn token(gateway: &Gateway, audience: &str) -> Result<String, FetchError> {
    let svid = fetch_jwt_svid(&socket(gateway), &[audience.to_owned()]).await?;
    assert_eq!(svid.id.as_str(), ID);
    Ok(svid.token.to_string())
}

async fn keys(gateway: &Gateway) -> JwtKeys {
    let mut all = fetch_jwt_bundles(&socket(gateway)).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(&domain()).unwrap()
}

fn time(token: &str, claim: &str) -> u64 {
    match Token::parse(token).unwrap().claims[claim] {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of today")]
        Json::Number(at) => at as u64,
        ref other => panic!("{other:?}"),
    }
}

fn refusal(error: &FetchError) -> String {
    match error {
        FetchError::Refused(status) => status.message().to_owned(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_module_gets_tokens_that_others_on_the_gateway_can_check() {
    let gateway = joined().await;
    let token = token(&gateway, "db").await.unwrap();
    let parsed = Token::parse(&token).unwrap();
    assert_eq!(parsed.claims["sub"], Json::String(ID.into()));
    assert_eq!(time(&token, "exp") - time(&token, "iat"), 300);
    let keys = keys(&gateway).await;
    assert_eq!(keys.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), [parsed.kid.as_str()]);
    assert_eq!(validate_jwt_svid(&socket(&gateway), "db", &token).await.unwrap().as_str(), ID);
    let error = validate_jwt_svid(&socket(&gateway), "queue", &token).await.unwrap_err();
    assert!(refusal(&error).starts_with("jwt.invalid: "), "{error}");
}

#[tokio::test]
async fn without_a_verdict_there_are_no_tokens() {
    let gateway = Gateway::started().await;
    let error = token(&gateway, "db").await.unwrap_err();
    assert!(refusal(&error).starts_with("attest.required: "), "{error}");
    gateway.join().await;
    token(&gateway, "db").await.unwrap();
    let failed = Refusal::new(Reason::AttestQuote, "gw-1", "the boot changed");
    gateway.ask(Request::EnrolRefused(failed)).await.unwrap();
    // Not from the cache either.
    let error = token(&gateway, "db").await.unwrap_err();
    assert!(refusal(&error).starts_with("attest.failed: "), "{error}");
}

/// RFC 5280 says it of certificates; a token is no better.
#[tokio::test]
async fn no_token_outlives_the_gateway_ca() {
    let gateway = Gateway::started().await;
    let enrolled = gateway.enrolled_for(Duration::from_secs(120), UnixTime::now()).await;
    gateway.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
    let end = gateway.status().await.gateway_ca_expires.unwrap();
    let token = token(&gateway, "db").await.unwrap();
    assert_eq!(time(&token, "exp"), end.0);
}

#[tokio::test]
async fn a_token_outlives_a_restart_and_its_key_does_not() {
    let mut gateway = joined().await;
    let before = token(&gateway, "db").await.unwrap();
    let old = keys(&gateway).await;
    gateway.stop().await;
    gateway.start().await.unwrap();
    let new = keys(&gateway).await;
    assert!(new.sequence > old.sequence && new.keys.len() == 2);
    assert_eq!(validate_jwt_svid(&socket(&gateway), "db", &before).await.unwrap().as_str(), ID);
    let after = token(&gateway, "db").await.unwrap();
    assert_ne!(Token::parse(&after).unwrap().kid, Token::parse(&before).unwrap().kid);
    // Nothing on the disk signs: what is there is public.
    let state = gateway.layout().identity_state().join("jwt-keys.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let state_keys: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in state_keys["content"]["keys"].as_array().unwrap() {
        let names: BTreeSet<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["kid", "not_after", "point", "token_seconds"].into());
    }
    // The old key goes with its last token, 300 seconds after the restart at the latest.
    let restarted = UnixTime::now().0 + 300;
    let end = state_keys["content"]["keys"][0]["not_after"].as_u64().unwrap();
    assert!(end <= restarted, "{end} {restarted}");
}

#[tokio::test]
async fn damaged_keys_stop_the_start_and_are_named() {
    let mut gateway = joined().await;
    gateway.stop().await;
    let state = gateway.layout().identity_state().join("jwt-keys.json");
    let text = std::fs::read_to_string(&state).unwrap().replacen("04", "05", 1);
    std::fs::write(&state, text).unwrap();
    let error = gateway.start().await.unwrap_err().to_string();
    assert!(error.contains("jwt-keys.json"), "{error}");
}

#[tokio::test]
async fn the_gateway_vouches_for_its_keys() {
    let gateway = Gateway::started().await;
    assert!(matches!(gateway.ask(Request::JwtKeys).await, Ok(Reply::JwtKeys(JwtStatement(None)))));
    gateway.join().await;
    let Proof::None { csr, .. } = gateway.prove().await else { panic!("software") };
    let ca = public_point(csr.as_slice()).unwrap();
    let ask = async || match gateway.ask(Request::JwtKeys).await.unwrap() {
        Reply::JwtKeys(JwtStatement(Some(envelope))) => envelope,
        other => panic!("{other:?}"),
    };
    let envelope = ask().await;
    let statement = jwt_keys::verify(envelope.as_slice(), &domain(), &gateway_name(), &ca).unwrap();
    let published = keys(&gateway).await;
    assert_eq!((statement.sequence, statement.keys.len()), (published.sequence, 1));
    assert_eq!(statement.keys[0].kid, published.keys[0].kid);
    assert!(statement.keys[0].not_after > UnixTime::now().plus(DAY));
    // The same until something changes: the keystore is not asked each time.
    assert_eq!(ask().await, envelope);
    let stranger = common::Operator::new().public_pem();
    let point = edgewarden_ca::spki::point_of_pem(&stranger).unwrap();
    assert!(jwt_keys::verify(envelope.as_slice(), &domain(), &gateway_name(), &point).is_err());
}

#[tokio::test]
async fn the_audit_log_says_once_whom_tokens_are_for_and_metrics_count_them() {
    let gateway = joined().await;
    let first = token(&gateway, "db").await.unwrap();
    for _ in 0..5 {
        assert_eq!(token(&gateway, "db").await.unwrap(), first, "handed out again while it is fresh");
    }
    token(&gateway, "queue").await.unwrap();
    let entries = until("both audiences in the audit log", async || {
        let Reply::Audit(entries) = gateway.ask(Request::Audit { last: 1000 }).await.unwrap() else {
            panic!()
        };
        let entries: Vec<_> = entries.into_iter().filter(|entry| entry.event == "jwt_svid.issued").collect();
        (entries.len() >= 2).then_some(entries)
    })
    .await;
    let details: BTreeSet<_> = entries.iter().map(|entry| entry.detail.as_str()).collect();
    assert_eq!(details, ["runtimed, for db; key jwt", "runtimed, for queue; key jwt"].into());
    assert!(entries.iter().all(|entry| entry.subject == ID && !entry.detail.contains(first.as_str())));
    assert!(gateway.events().await.contains(&"jwt_key.published".into()));

    let path = gateway.layout().identity_run().join(SOCKET);
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("edgewarden_jwt_svids_total{from=\"signed\"} 2\n"), "{text}");
    assert!(text.contains("edgewarden_jwt_svids_total{from=\"cache\"} 5\n"), "{text}");
}
