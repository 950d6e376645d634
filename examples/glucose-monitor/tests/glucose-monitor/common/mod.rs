//! Certificates, a broker and a Workload API socket for tests.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewarden_names::Refusal;
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_svid::X509Context;
use edgewarden_testkit::authority::{self, Authority, Member};
use edgewarden_workload_server::{Current, IdentitySource, serve};
use glucose_monitor::mtls::{Fixed, certified_key, server_config};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub const GATEWAY: &str = "spiffe://clinic.example/gateway/gw-1";

/// A root that signs certificates with SPIFFE IDs.
pub fn root() -> Authority {
    Authority::root(authority::ca("test root"))
}

/// Certifies a request as a gateway does: its public key, our content.
pub fn certify(root: &Authority, csr: &[u8], id: &str) -> Vec<u8> {
    let request = rcgen::CertificateSigningRequestParams::from_der(&csr.to_vec().into()).unwrap();
    root.certify(authority::svid(id), &request.public_key)
}

pub fn issue(root: &Authority, id: &str) -> Member {
    root.issue(authority::svid(id))
}

pub fn identity(root: &Authority, id: &str) -> Arc<Fixed> {
    let Member { chain, key, root } = issue(root, id);
    let own = certified_key(chain.into_iter().map(Into::into).collect(), &key).unwrap();
    Arc::new(Fixed { own: Some(own), root: root.into() })
}

/// A module's Workload API socket.
pub struct Socket {
    folder: tempfile::TempDir,
    identity: watch::Sender<Option<Arc<X509Context>>>,
    id: String,
}

struct Source(Mutex<Current>);

impl IdentitySource for Source {
    fn authorize(&self, _: &PeerEvidence) -> Result<(), Refusal> {
        Ok(())
    }
    fn subscribe(&self) -> Result<Current, Refusal> {
        Ok(self.0.lock().unwrap().clone())
    }
}

impl Socket {
    pub fn new(root: &Authority, module: &str) -> Self {
        let id = format!("{GATEWAY}/module/{module}");
        let (identity, current) = watch::channel(Some(issue(root, &id).context(&id)));
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        tokio::spawn(serve(listener, Arc::new(Source(Mutex::new(current))), std::future::pending()));
        Self { folder, identity, id }
    }

    pub fn rotate(&self, root: &Authority) {
        self.identity.send_replace(Some(issue(root, &self.id).context(&self.id)));
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.path().join("api.sock").display())
    }
}

/// A program of this example, killed when dropped. Its lines can be waited for.
pub struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Program {
    pub fn start(path: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line with this text. What comes before is passed over.
    pub async fn line(&mut self, text: &str) -> String {
        let waiting = async {
            loop {
                let line = self.lines.recv().await.unwrap_or_else(|| panic!("ended before `{text}`"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("`{text}` was never printed"))
    }

    pub async fn ended(mut self) -> bool {
        tokio::task::spawn_blocking(move || self.child.wait().unwrap().success()).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One thing that a client did.
#[derive(Debug, PartialEq)]
pub enum Said {
    Connect(String),
    Subscribe(String),
    Publish(String, Vec<u8>),
}

/// A broker for one client at a time: it takes what `allow` allows, and closes the connection at the rest.
pub struct Broker {
    pub address: String,
    pub said: mpsc::UnboundedReceiver<Said>,
    /// Messages that the client has acknowledged, in the order and by the number of their delivery, from 1.
    pub acknowledged: mpsc::UnboundedReceiver<u16>,
    deliver: mpsc::UnboundedSender<(String, Vec<u8>)>,
}

impl Broker {
    pub async fn start(root: &Authority, allow: fn(&str) -> bool) -> Self {
        let config = server_config(identity(root, &format!("{GATEWAY}/module/gatewayd")), Box::new(|_| true));
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, said) = mpsc::unbounded_channel();
        let (deliver, mut deliveries) = mpsc::unbounded_channel();
        let (acknowledge, acknowledged) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let _ = attend(stream, &sender, &acknowledge, &mut deliveries, allow).await;
            }
        });
        Self { address, said, acknowledged, deliver }
    }

    /// Sends a message to the client, QoS 1.
    pub fn deliver(&self, topic: &str, payload: &[u8]) {
        self.deliver.send((topic.into(), payload.into())).unwrap();
    }

    /// The next message that the client acknowledges.
    pub async fn next_acknowledged(&mut self) -> u16 {
        tokio::time::timeout(Duration::from_secs(60), self.acknowledged.recv()).await.unwrap().unwrap()
    }

    pub async fn next(&mut self) -> Said {
        tokio::time::timeout(Duration::from_secs(60), self.said.recv()).await.unwrap().unwrap()
    }
}

/// MQTT 3.1.1, as much as these programs use.
async fn attend(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    said: &mpsc::UnboundedSender<Said>,
    acknowledge: &mpsc::UnboundedSender<u16>,
    deliveries: &mut mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    allow: fn(&str) -> bool,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (packets, mut incoming) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        while let Ok(packet) = packet(&mut reader).await {
            let _ = packets.send(packet);
        }
    });
    let text = |bytes: &[u8]| {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        (String::from_utf8(bytes[2..2 + length].to_vec()).unwrap(), 2 + length)
    };
    let mut subscribed = false;
    let mut number = 0u16;
    loop {
        tokio::select! {
            packet = incoming.recv() => {
                let Some((kind, body)) = packet else { break };
                match kind >> 4 {
                    1 => {
                        said.send(Said::Connect(text(&body[10..]).0)).unwrap();
                        writer.write_all(&[0x20, 2, 0, 0]).await?;
                    }
                    3 => {
                        let (topic, at) = text(&body);
                        if !allow(&topic) {
                            break;
                        }
                        said.send(Said::Publish(topic, body[at + 2..].to_vec())).unwrap();
                        writer.write_all(&[0x40, 2, body[at], body[at + 1]]).await?;
                    }
                    4 => acknowledge.send(u16::from_be_bytes([body[0], body[1]])).unwrap(),
                    8 => {
                        said.send(Said::Subscribe(text(&body[2..]).0)).unwrap();
                        writer.write_all(&[0x90, 3, body[0], body[1], 1]).await?;
                        subscribed = true;
                    }
                    12 => writer.write_all(&[0xd0, 0]).await?,
                    14 => break,
                    _ => {}
                }
            }
            message = deliveries.recv(), if subscribed => {
                let Some((topic, payload)) = message else { break };
                let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
                number += 1;
                let body = [&length, topic.as_bytes(), &number.to_be_bytes(), &payload].concat();
                let mut head = vec![0x32];
                let mut left = body.len();
                while left > 127 {
                    head.push(u8::try_from(left % 128).unwrap() | 128);
                    left /= 128;
                }
                head.push(u8::try_from(left).unwrap());
                writer.write_all(&[head, body].concat()).await?;
            }
        }
        writer.flush().await?;
    }
    reading.abort();
    writer.shutdown().await
}

async fn packet(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = reader.read_u8().await?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = reader.read_u8().await?;
        length |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// A file of this package.
pub fn trace(name: &str) -> String {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    folder.join(name).display().to_string()
}
