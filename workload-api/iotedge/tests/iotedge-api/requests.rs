//! Each endpoint, and what is not one.

use crate::common;

use common::{Served, get, parse, post};
use edgewarden_names::Reason;
use serde_json::{Value, json};

const SIGN: &str = "/modules/alerts/genid/7/sign";
const SIGN_BODY: &str = r#"{"keyId":"primary","algo":"HMACSHA256","data":"aGk="}"#;

fn body(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn each_endpoint_answers_as_azures_definitions_say() {
    let served = Served::new();
    let (status, text) = served.get("/modules").await;
    let expected = json!({"modules": [{"id": "alerts-7", "name": "alerts", "type": "docker",
        "config": {"settings": {}, "env": []},
        "status": {"startTime": "2026-01-01T00:00:00Z", "runtimeStatus": {"status": "running"}}}]});
    assert_eq!((status, body(&text)), (200, expected));
    let (status, text) = served.get("/trust-bundle").await;
    assert_eq!((status, body(&text)), (200, json!({"certificate": "root"})));

    let genid = "/modules/alerts/genid/7";
    for (path, request, status, answer) in [
        (SIGN, body(SIGN_BODY), 200, json!({"digest": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="})),
        (
            &format!("{genid}/encrypt"),
            json!({"plaintext": "YWI=", "initializationVector": "Yw=="}),
            200,
            json!({"ciphertext": "YmFj"}),
        ),
        (
            &format!("{genid}/decrypt"),
            json!({"ciphertext": "YWI=", "initializationVector": "Yw=="}),
            200,
            json!({"plaintext": "YmE="}),
        ),
        (
            &format!("{genid}/certificate/server"),
            json!({"commonName": "hub", "expiration": "2026-02-01T00:00:00.0000000Z"}),
            201,
            json!({"privateKey": {"type": "key", "bytes": "key"}, "certificate": "hub",
                   "expiration": "2026-02-01T00:00:00Z"}),
        ),
        (
            "/modules/alerts/certificate/identity",
            json!({}),
            201,
            json!({"privateKey": {"type": "key", "bytes": "key"}, "certificate": "identity",
                   "expiration": "2026-01-01T00:00:00Z"}),
        ),
    ] {
        let (found, text) = served.post(path, &request.to_string()).await;
        assert_eq!((found, body(&text)), (status, answer), "{path}");
    }
    assert!(served.owner.told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let served = Served::new();
    let keep = |text: String| text.replace("Connection: close\r\n", "");
    let pipelined = keep(get("/trust-bundle")) + &keep(post(SIGN, SIGN_BODY)) + &get("/modules");
    let answers = served.raw(pipelined.as_bytes()).await;
    let order = ["\"certificate\"", "\"digest\"", "\"modules\""].map(|what| answers.find(what).unwrap());
    assert!(order.is_sorted(), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3);

    // After a refusal nothing more of the connection is read: what follows may be the rest of what was refused.
    let smuggled = keep(post("/modules/alerts/genid/8/sign", SIGN_BODY)) + &get("/modules");
    let answers = served.raw(smuggled.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
}

#[tokio::test]
async fn the_socket_says_whose_it_is_and_the_path_must_say_the_same() {
    let served = Served::new();
    for (path, status) in [
        ("/modules/analytics/genid/7/sign", 403),
        ("/modules/alerts/genid/8/sign", 403),
        ("/modules/alerts/genid/6/sign", 403),
        ("/modules/alerts/genid/07/sign", 403),
        ("/modules/analytics/certificate/identity", 403),
        ("/modules/alerts/genid/8/certificate/server", 403),
        ("/modules/%61lerts/genid/7/sign", 403),
        ("/modules/../modules/alerts/genid/7/sign", 404),
        ("/modules/alerts/genid/7/%73ign", 404),
        ("//modules/alerts/genid/7/sign", 404),
    ] {
        let (found, text) = served.post(path, SIGN_BODY).await;
        assert_eq!(found, status, "{path}: {text}");
        let answer = body(&text);
        assert!(answer["message"].is_string() && answer.as_object().unwrap().len() == 2, "{text}");
        if status == 403 {
            assert_eq!(answer["reason"], "iotedge.module");
        }
    }
    assert!(served.owner.told.lock().unwrap().iter().all(|told| told.reason == Reason::IotedgeModule));
    assert_eq!(served.owner.told.lock().unwrap().len(), 7, "each is written down");
}

#[tokio::test]
async fn what_is_not_the_protocol_is_refused() {
    let served = Served::new();
    let good = post(SIGN, SIGN_BODY);
    for (name, request, status) in [
        ("no version", good.replace("?api-version=2018-06-28", ""), 400),
        ("an unknown version", good.replace("2018-06-28", "2017-01-01"), 400),
        ("two versions", good.replace("2018-06-28", "2018-06-28&api-version=2018-06-28"), 400),
        ("another method", good.replace("POST", "PUT"), 405),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 505),
        ("another server's address", good.replace("POST /", "POST http://localhost/"), 400),
        ("a tunnel", "CONNECT localhost:80 HTTP/1.1\r\n\r\n".into(), 400),
        ("all of the server", "OPTIONS * HTTP/1.1\r\n\r\n".into(), 404),
        ("NUL in the path", good.replace("alerts", "ale\0rts"), 400),
        ("a space in the path", good.replace("alerts", "ale rts"), 400),
        ("a line break in the path", good.replace("alerts", "ale\r\nrts"), 400),
        ("letters that look alike", good.replace("/alerts", "/\u{430}lerts"), 403),
        ("no JSON", good.replace(r#""data""#, "'data'"), 400),
        ("a key twice", good.replace(r#""algo":"HMACSHA256""#, r#""keyId":"primary"    "#), 400),
        ("an unknown key", good.replace("primary", "another"), 400),
        ("a body to GET", good.replace("POST", "GET").replace(SIGN, "/modules"), 400),
        ("lengths that differ", good.replace("Connection: close", "Content-Length: 3"), 400),
        ("a length that is none", good.replace("Content-Length: ", "Content-Length: -"), 400),
        ("two ways of length", good.replace("Connection: close", "Transfer-Encoding: gzip"), 400),
        ("a header without a name", good.replace("Host:", ":"), 400),
        ("a folded header", good.replace("Host: ", "Host:\r\n "), 400),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 0),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}hello".into(), 400),
    ] {
        let (found, text) = parse(&served.raw(request.as_bytes()).await);
        assert_eq!(found, status, "{name}: {text}");
    }
    assert_eq!(served.post(SIGN, SIGN_BODY).await.0, 200);
}

#[tokio::test]
async fn a_caller_is_judged_before_the_request_is_read_and_before_the_answer_goes_out() {
    let served = Served::new();
    for (reason, status) in [
        (Reason::CallerNotModule, 403),
        (Reason::CallerUnknown, 403),
        (Reason::AttestFailed, 503),
        (Reason::AttestRequired, 503),
        (Reason::IdentityUnavailable, 503),
        (Reason::Internal, 500),
    ] {
        for answers in [vec![Some(reason)], vec![None, Some(reason)]] {
            *served.owner.refuse_callers.lock().unwrap() = answers;
            let (found, text) = served.post(SIGN, SIGN_BODY).await;
            assert_eq!((found, &body(&text)["reason"]), (status, &json!(reason)));
            assert!(!text.contains("digest"));
        }
    }
    // Who may not call does not learn what there is.
    *served.owner.refuse_callers.lock().unwrap() = vec![Some(Reason::CallerNotModule)];
    assert_eq!(served.get("/no/such/path").await.0, 403);
    let decrypt = r#"{"ciphertext":"","initializationVector":""}"#;
    let (status, text) = served.post("/modules/alerts/genid/7/decrypt", decrypt).await;
    assert_eq!((status, &body(&text)["reason"]), (400, &json!("iotedge.ciphertext")));
    assert_eq!(served.owner.told.lock().unwrap().len(), 1, "somebody tries ciphertexts");
}
