//! An EST server built from RFC 7030: TLS by rustls, HTTP by hyper, certificates and messages by openssl.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::pem;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::clients::ByOpenssl;
use super::site::{Site, certs_only};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET` or `POST`.
    pub method: String,
    /// Path of the URL.
    pub path: String,
    /// Header `Authorization`.
    pub authorization: Option<String>,
    /// Header `Content-Type`.
    pub content_type: Option<String>,
    /// Header `Content-Transfer-Encoding`.
    pub encoding: Option<String>,
    /// The body as it was sent, in base64.
    pub body: Vec<u8>,
    /// The certificate that the client showed; its chain is verified.
    pub shown: Option<Vec<u8>>,
}

impl Asked {
    /// The operation, without the label.
    pub fn operation(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    /// The request in the body (PKCS #10, DER).
    pub fn csr(&self) -> Vec<u8> {
        let packed: Vec<u8> = self.body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        STANDARD.decode(packed).unwrap()
    }
}

/// An answer to one request.
#[derive(Debug)]
pub struct Told {
    /// HTTP status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// Bytes after the headers.
    pub body: Vec<u8>,
}

impl Told {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// DER in base64, in lines of 64.
    pub fn encoded(content_type: &str, der: &[u8]) -> Self {
        // Lines of 64, as many servers have them.
        let lines: Vec<String> = STANDARD
            .encode(der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect();
        let told =
            Self { status: 200, headers: Vec::new(), body: (lines.join("\r\n") + "\r\n").into_bytes() };
        told.header("content-type", content_type).header("content-transfer-encoding", "base64")
    }

    /// A certs-only message with these certificates.
    pub fn certificates(certificates: &[Vec<u8>]) -> Self {
        Self::encoded("application/pkcs7-mime; smime-type=certs-only", &certs_only(certificates))
    }
}

type Handler = Arc<dyn Fn(&Asked) -> Told + Send + Sync>;

/// An EST server on a port of its own, until it goes out of scope.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub port: u16,
    /// Requests so far, oldest first.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers of a server as the RFC describes it.
pub fn standard(site: &Site, asked: &Asked) -> Told {
    match asked.operation() {
        "cacerts" => Told::certificates(&[site.der("root.pem"), site.der("issuing.pem")]),
        "csrattrs" => Told::status(204),
        "simpleenroll" | "simplereenroll" if asked.method == "POST" => {
            Told::certificates(&[site.issue(&asked.csr(), 30)])
        }
        _ => Told::status(404),
    }
}

impl Server {
    /// A server on 127.0.0.1 with these answers.
    pub async fn start(site: &Site, handler: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1", site, handler).await
    }

    /// A server on this address with these answers.
    pub async fn start_on(
        address: &str,
        site: &Site,
        handler: impl Fn(&Asked) -> Told + Send + Sync + 'static,
    ) -> Self {
        let (acceptor, listener, port) = listen(address, site).await;
        let handler: Handler = Arc::new(handler);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handler, log) = (acceptor.clone(), Arc::clone(&handler), Arc::clone(&log));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let shown = shown.map(|der| der.to_vec());
                    let service = service_fn(move |request| {
                        answer(request, shown.clone(), Arc::clone(&handler), Arc::clone(&log))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, asked, task }
    }

    /// A server that says these bytes and then neither more nor goodbye.
    pub async fn hanging(site: &Site, bytes: &'static [u8]) -> Self {
        let (acceptor, listener, port) = listen("127.0.0.1", site).await;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 4096];
                    if stream.read(&mut request).await.is_err() {
                        return;
                    }
                    // One byte at a time keeps every idle timer from running out.
                    for byte in bytes {
                        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                    loop {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        if stream.write_all(b"A").await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, asked: Arc::default(), task }
    }

    /// Requests so far, oldest first.
    pub fn log(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Operations of the requests so far.
    pub fn operations(&self) -> Vec<String> {
        self.log().iter().map(|asked| asked.operation().to_owned()).collect()
    }
}

async fn listen(address: &str, site: &Site) -> (TlsAcceptor, TcpListener, u16) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ByOpenssl::new(site.path("root.pem"));
    let chain = pem::all(&site.text("server-chain.pem"), pem::CERTIFICATE).unwrap();
    let key = pem::one(&site.text("server.key"), pem::PRIVATE_KEY).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(
            chain.into_iter().map(CertificateDer::from).collect(),
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key)),
        )
        .unwrap();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (TlsAcceptor::from(Arc::new(config)), listener, port)
}

async fn answer(
    request: Request<Incoming>,
    shown: Option<Vec<u8>>,
    handler: Handler,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut asked = Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        authorization: header("authorization"),
        content_type: header("content-type"),
        encoding: header("content-transfer-encoding"),
        body: Vec::new(),
        shown,
    };
    asked.body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    log.lock().unwrap().push(asked.clone());
    // openssl runs in it.
    let told = tokio::task::spawn_blocking(move || handler(&asked)).await.unwrap();
    let mut response = Response::builder().status(told.status);
    for (name, value) in told.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(told.body))).unwrap())
}
