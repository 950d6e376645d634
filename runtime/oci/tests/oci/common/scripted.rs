//! Servers that answer as a test says, and remember what they were asked; proxies; certificates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Script = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// An HTTP server with a script from a request, head and body, to the bytes of the answer. Closes after each.
pub struct Scripted {
    pub host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub async fn start(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::over(None, script).await
    }

    /// In TLS with this certificate.
    pub async fn in_tls(site: &Site, script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::over(Some(site.acceptor()), script).await
    }

    async fn over(
        tls: Option<tokio_rustls::TlsAcceptor>,
        script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (script, keeping): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, script, keeping) = (tls.clone(), Arc::clone(&script), Arc::clone(&keeping));
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &*script, &keeping).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &*script, &keeping).await;
                            }
                        }
                    }
                });
            }
        });
        Self { host, seen }
    }

    /// The requests until now.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests until now, and none of them afterwards.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: &Script, seen: &Mutex<Vec<String>>) {
    let Some(request) = request(&mut stream).await else { return };
    seen.lock().unwrap().push(request.clone());
    drop(stream.write_all(&script(&request)).await);
    drop(stream.shutdown().await);
}

/// One request, with as much body as its head names.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut wanted = None;
    loop {
        if wanted.is_some_and(|wanted| bytes.len() >= wanted) {
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if wanted.is_none()
            && let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            wanted = Some(end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap()));
        }
    }
}

/// An answer with a body, and headers that each end in `\r\n`.
pub fn http(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 {status} Answer\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// The value of a header of a request.
pub fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let head = request.split("\r\n\r\n").next()?;
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A proxy that makes a tunnel to one address, whatever it is asked for. `refuse` is its answer instead, if it has one.
pub async fn connect_proxy(
    to: String,
    refuse: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let keeping = Arc::clone(&seen);
    let refuse = Arc::new(refuse);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (to, keeping, refuse) = (to.clone(), Arc::clone(&keeping), Arc::clone(&refuse));
            tokio::spawn(async move {
                let Some(request) = request(&mut stream).await else { return };
                keeping.lock().unwrap().push(request.clone());
                if let Some(refusal) = refuse(&request) {
                    drop(stream.write_all(&refusal).await);
                    return;
                }
                let mut there = TcpStream::connect(to).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut stream, &mut there).await);
            });
        }
    });
    Scripted { host, seen }
}

/// A CA of a plant and a server's certificate of it.
pub struct Site {
    folder: tempfile::TempDir,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: KeyPair,
}

impl Site {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().unwrap();
        let root = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.path().join("ca.pem"), root.pem()).unwrap();
        std::fs::write(folder.path().join("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self { folder, chain: vec![leaf.der().clone()], key }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        Arc::new(config).into()
    }
}

/// Writes a secret file that its owner alone may open.
pub fn secret_file(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
