//! The HTTP client against servers that behave and servers that do not.

use crate::common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Authority, FLEET, MODULE, Template, domain, fleet_root, identity_of, issuing_ca, server_as};
use edgewarden_names::{Reason, Refusal};
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::tls;
use rustls::{ClientConfig, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Longer than any test takes that should not reach it.
const PLENTY: Duration = Duration::from_secs(60);
const REPLY_BYTES_MAX: usize = 4096;

/// Answers each request with the same bytes, and notes what it was sent.
struct Server {
    address: std::net::SocketAddr,
    root: Authority,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server's conduct after each answer.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Stay,
    Close,
}

impl Server {
    async fn new(answer: Vec<u8>, then: Then) -> Self {
        let root = fleet_root();
        let config = server_as(&root.issue(&Template::leaf(FLEET)));
        Self::with(root, config, answer, then).await
    }

    async fn with(root: Authority, config: ServerConfig, answer: Vec<u8>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, log) = (Arc::clone(&connections), Arc::clone(&requests));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer, log) = (acceptor.clone(), answer.clone(), Arc::clone(&log));
                tasks.spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    loop {
                        let request = read_request(&mut stream).await?;
                        log.lock().unwrap().push(request);
                        stream.write_all(&answer).await?;
                        stream.flush().await?;
                        if then == Then::Close {
                            return stream.shutdown().await;
                        }
                    }
                });
            }
        });
        Self { address, root, connections, requests, task }
    }

    fn tls(&self) -> ClientConfig {
        let only_fleet = tls::only(tls::fleet_id(&domain()));
        tls::pinned_client_config(&self.root.root.as_slice().into(), &domain(), only_fleet).unwrap()
    }

    fn client(&self) -> Client {
        Client::new(&format!("https://{}/base/", self.address), self.tls()).unwrap()
    }
}

async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let mut text = String::from_utf8(request).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await?;
    text.push_str(&String::from_utf8(body).unwrap());
    Ok(text)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn post(client: &Client, deadline: Duration) -> Result<Value, HttpError> {
    client.post_json("/v1/thing?x=1", &json!({"a": 1}), REPLY_BYTES_MAX, deadline).await
}

#[tokio::test]
async fn a_request_says_what_it_must_and_connections_are_used_again() {
    let server = Server::new(answer("200 OK", r#"{"b":2}"#), Then::Stay).await;
    let client = server.client().with_bearer("secret-token").unwrap();
    for _ in 0..3 {
        assert_eq!(post(&client.clone(), PLENTY).await.unwrap(), json!({"b": 2}));
    }
    let got: Value = client.get_json("/v1/other", REPLY_BYTES_MAX, PLENTY).await.unwrap();
    assert_eq!(got, json!({"b": 2}));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);

    let requests = server.requests.lock().unwrap();
    let [first, .., last] = requests.as_slice() else { panic!("four requests") };
    assert!(first.starts_with("POST /base/v1/thing?x=1 HTTP/1.1\r\n"), "{first}");
    assert!(first.contains(&format!("\r\nhost: {}\r\n", server.address)), "{first}");
    assert!(first.contains("\r\nauthorization: Bearer secret-token\r\n"), "{first}");
    assert!(first.contains("\r\ncontent-type: application/json\r\n"), "{first}");
    assert!(first.ends_with(r#"{"a":1}"#), "{first}");
    assert!(last.starts_with("GET /base/v1/other HTTP/1.1\r\n"), "{last}");
    assert!(!format!("{client:?}").contains("secret"));
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_replaced() {
    let announced = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnull".to_vec();
    let server = Server::new(announced, Then::Close).await;
    let client = server.client();
    for number in 1..4 {
        post(&client, PLENTY).await.unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), number);
    }
    // Without a word: a request may be lost on the closing connection. That is told, not repeated behind our back.
    let server = Server::new(answer("200 OK", "null"), Then::Close).await;
    let client = server.client();
    for _ in 1..4 {
        while let Err(error) = post(&client, PLENTY).await {
            assert!(matches!(error, HttpError::Broken(_)), "{error:?}");
        }
    }
    assert_eq!(server.requests.lock().unwrap().len(), 3);
}

type Expected = fn(&HttpError) -> bool;

#[tokio::test]
async fn answers_that_are_not_a_success_say_what_they_are() {
    let refusal = Refusal::new(Reason::EnrolToken, "gw-1", "the token is unknown");
    let refused = serde_json::to_string(&refusal).unwrap();
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let large = "x".repeat(REPLY_BYTES_MAX + 1);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        (
            "a refusal",
            answer("403 Forbidden", &refused),
            |e| matches!(e, HttpError::Refused(r) if r.reason == Reason::EnrolToken && r.subject == "gw-1"),
        ),
        ("a refusal of another kind", answer("503 Busy", &refused), |e| matches!(e, HttpError::Refused(_))),
        ("no refusal", answer("403 Forbidden", "go away"), |e| matches!(e, HttpError::Status(403))),
        (
            "a refusal with more in it",
            answer("400 No", r#"{"reason":"enrol.token","subject":"","rule":"","x":1}"#),
            |e| matches!(e, HttpError::Status(400)),
        ),
        ("an endless refusal", answer("400 No", &"x".repeat(70_000)), |e| {
            matches!(e, HttpError::Status(400))
        }),
        (
            "a redirect",
            b"HTTP/1.1 302 Found\r\nlocation: /base/v1/other\r\ncontent-length: 0\r\n\r\n".to_vec(),
            |e| matches!(e, HttpError::Status(302)),
        ),
        ("a refusal in a redirect", answer("307 Go", &refused), |e| matches!(e, HttpError::Status(307))),
        ("no JSON", answer("200 OK", "{"), |e| matches!(e, HttpError::Malformed(_))),
        ("more than JSON", answer("200 OK", "{} {}"), |e| matches!(e, HttpError::Malformed(_))),
        ("too large", answer("200 OK", &large), |e| matches!(e, HttpError::TooLarge(REPLY_BYTES_MAX))),
        ("too large, announced only", cut(answer("200 OK", &large)), |e| matches!(e, HttpError::TooLarge(_))),
        ("too large in chunks", format!("{chunked}1001\r\n{large}\r\n0\r\n\r\n").into_bytes(), |e| {
            matches!(e, HttpError::TooLarge(_))
        }),
        ("a broken chunk", format!("{chunked}zz\r\nx\r\n").into_bytes(), |e| {
            matches!(e, HttpError::Broken(_))
        }),
        ("a body that breaks off", cut(answer("200 OK", "null")), |e| matches!(e, HttpError::Broken(_))),
        ("no answer", vec![], |e| matches!(e, HttpError::Broken(_))),
        ("no HTTP", b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), |e| matches!(e, HttpError::Broken(_))),
        (
            "headers too large",
            format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(70_000)).into_bytes(),
            |e| matches!(e, HttpError::Broken(_)),
        ),
        ("too many headers", format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(65)).into_bytes(), |e| {
            matches!(e, HttpError::Broken(_))
        }),
    ];
    for (name, bytes, expected) in cases {
        let server = Server::new(bytes, Then::Close).await;
        let error = post(&server.client(), PLENTY).await.expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        assert_eq!(server.requests.lock().unwrap().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_empty_answer_is_null() {
    let server = Server::new(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), Then::Stay).await;
    assert_eq!(post(&server.client(), PLENTY).await.unwrap(), Value::Null);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let beginning = |bytes: &[u8]| bytes.to_vec();
    for part in [
        beginning(b""),
        beginning(b"HTTP/1.1 200 OK\r\n"),
        beginning(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnul"),
        beginning(b"HTTP/1.1 403 No\r\ncontent-length: 4\r\n\r\nnul"),
    ] {
        let server = Server::new(part, Then::Stay).await;
        let error = post(&server.client(), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, HttpError::Deadline(_)), "{error:?}");
    }
    // Nor is a handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(vec![], Then::Stay).await;
    let url = format!("https://{}", silent.local_addr().unwrap());
    let client = Client::new(&url, server.tls()).unwrap();
    assert!(matches!(post(&client, Duration::from_millis(200)).await, Err(HttpError::Deadline(_))));
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_or_reached_is_told_apart() {
    let ok = || answer("200 OK", "null");
    // Not the fleet.
    let root = fleet_root();
    let config = server_as(&issuing_ca(&root, "gw-1").issue(&Template::leaf(MODULE)));
    let impostor = Server::with(root, config, ok(), Then::Stay).await;
    let error = post(&impostor.client(), PLENTY).await.unwrap_err();
    assert!(matches!(error, HttpError::Untrusted { .. }), "{error:?}");
    assert_eq!(tls::refusal(&error).unwrap().subject, MODULE);
    assert!(impostor.requests.lock().unwrap().is_empty());

    // It wants a certificate, which we have not.
    let root = fleet_root();
    let identity = identity_of(&root.issue(&Template::leaf(FLEET)), FLEET);
    let config = tls::server_config(&identity, tls::anyone()).unwrap();
    let strict = Server::with(root, config, ok(), Then::Stay).await;
    let error = post(&strict.client(), PLENTY).await.unwrap_err();
    assert!(matches!(error, HttpError::Untrusted { .. }), "{error:?}");
    assert!(tls::refusal(&error).is_none());

    // Nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(&format!("https://{closed}"), strict.tls()).unwrap();
    let error = post(&client, PLENTY).await.unwrap_err();
    assert!(matches!(error, HttpError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn only_plain_https_urls_are_taken() {
    let server = Server::new(vec![], Then::Stay).await;
    for good in [
        "https://fleet.example",
        "https://fleet.example:8443/",
        "https://10.0.0.1:1/a/b",
        "https://[::1]:8443",
    ] {
        assert!(Client::new(good, server.tls()).is_ok(), "{good}");
    }
    for bad in [
        "",
        "fleet.example",
        "http://fleet.example",
        "ftp://fleet.example",
        "https://",
        "https://user@fleet.example",
        "https://user:password@fleet.example",
        "https://fleet.example?x=1",
        "https://fleet.example:",
        "https://fleet.example:x",
        "https://fleet.example:99999",
        "https://fleet example",
        "https://[::1",
        "/v1",
    ] {
        assert!(matches!(Client::new(bad, server.tls()), Err(HttpError::Url(_))), "{bad}");
    }
    let client = server.client();
    for bad in ["v1", "", "/a b", "/a\r\nx: y", "//\0"] {
        let answer: Result<Value, _> = client.get_json(bad, REPLY_BYTES_MAX, PLENTY).await;
        assert!(matches!(answer, Err(HttpError::Url(_))), "{bad:?}");
    }
    for bad in ["a\nb", "a\r\nx: y", "\0"] {
        assert!(matches!(server.client().with_bearer(bad), Err(HttpError::Request(_))), "{bad:?}");
    }
}
