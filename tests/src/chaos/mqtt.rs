//! A leaf device's end of MQTT 3.1.1 over mutual TLS, small enough to count by: it never acknowledges, repeats or drops
//! anything by itself.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{SpiffeId, TrustDomain};
use edgewarden_svid::X509Context;
use edgewarden_transport::Identity;
use edgewarden_transport::tls::{client_config, only};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::sync::watch;

use crate::Failure;
use crate::site::{LEAF_MQTT, TRUST_DOMAIN};

/// A read waits no longer than this for the first byte.
const READ: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(10);
const KEEP_ALIVE_SECONDS: u16 = 30;
const BUFFER_MAX: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Publish { id: u16, topic: String, payload: Vec<u8> },
    PubAck(u16),
    SubAck,
    Other,
}

/// TLS configuration of a leaf device, from the folder that its enrolment left.
pub fn configuration(folder: &Path, gateway: &str, leaf: &str) -> Result<Arc<ClientConfig>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure(format!("`{}`: {error}", folder.display()));
    let certificates = |name: &str| -> Result<Vec<Vec<u8>>, Failure> {
        CertificateDer::pem_file_iter(folder.join(name))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map(|all| all.into_iter().map(|der| der.as_ref().to_vec()).collect())
            .map_err(|error| failed(&error))
    };
    let domain = TrustDomain::parse(TRUST_DOMAIN).map_err(|error| failed(&error))?;
    let id = |path: &str| {
        SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/gateway/{gateway}/{path}"))
            .map_err(|error| failed(&error))
    };
    let key = PrivatePkcs8KeyDer::from_pem_file(folder.join("key.pem")).map_err(|error| failed(&error))?;
    let context = X509Context {
        id: id(&format!("leaf/{leaf}"))?,
        chain_der: certificates("chain.pem")?,
        key_pkcs8: key.secret_pkcs8_der().to_vec().into(),
        bundle_der: certificates("root.pem")?,
        trust_domain: domain,
    };
    let (sender, current) = watch::channel(Some(Arc::new(context)));
    // A source or a runtime that ended would end the identity.
    std::mem::forget(sender);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let identity = runtime.block_on(async { Identity::new(current) });
    std::mem::forget(runtime);
    let config = client_config(&identity, only(id("module/gatewayd")?)).map_err(|error| failed(&error))?;
    Ok(Arc::new(config))
}

pub struct Link {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
    spoke: Instant,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub fn open(config: &Arc<ClientConfig>, client_id: &str, clean: bool) -> io::Result<Self> {
        let address = LEAF_MQTT.parse().map_err(io::Error::other)?;
        let socket = TcpStream::connect_timeout(&address, ANSWER)?;
        socket.set_read_timeout(Some(READ))?;
        socket.set_write_timeout(Some(ANSWER))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("gateway").map_err(io::Error::other)?;
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let stream = StreamOwned::new(connection, socket);
        let mut link = Self { stream, buffer: Vec::new(), spoke: Instant::now() };
        let mut body = vec![0, 4];
        body.extend_from_slice(b"MQTT");
        body.extend_from_slice(&[4, u8::from(clean) << 1]);
        body.extend_from_slice(&KEEP_ALIVE_SECONDS.to_be_bytes());
        text(&mut body, client_id);
        link.send(0x10, &body)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            match link.raw()? {
                Some((0x20, body)) if body.get(1) == Some(&0) => return Ok(link),
                Some(_) => return Err(io::Error::other("the broker refused the connection")),
                None if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
                None => {}
            }
        }
    }

    pub fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(1);
        self.send(0x82, &body)
    }

    /// At QoS 1.
    pub fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) -> io::Result<()> {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend_from_slice(&id.to_be_bytes());
        body.extend_from_slice(payload);
        self.send(0x32, &body)
    }

    pub fn acknowledge(&mut self, id: u16) -> io::Result<()> {
        self.send(0x40, &id.to_be_bytes())
    }

    /// The next packet, or nothing for a moment. Keeps the connection alive.
    pub fn receive(&mut self) -> io::Result<Option<Packet>> {
        if self.spoke.elapsed() > Duration::from_secs(u64::from(KEEP_ALIVE_SECONDS) / 2) {
            self.send(0xc0, &[])?;
        }
        let Some((kind, body)) = self.raw()? else { return Ok(None) };
        let malformed = || io::Error::other("the broker sent a malformed packet");
        let number = |at: usize| -> io::Result<u16> {
            let bytes = body.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)?;
            Ok(u16::from_be_bytes(bytes))
        };
        Ok(Some(match kind {
            0x30..=0x3f => {
                let length = usize::from(number(0)?);
                let topic = body.get(2..2 + length).ok_or_else(malformed)?;
                let topic = String::from_utf8(topic.to_vec()).map_err(io::Error::other)?;
                let (id, start) =
                    if kind & 0x06 == 0 { (0, 2 + length) } else { (number(2 + length)?, 4 + length) };
                Packet::Publish { id, topic, payload: body.get(start..).ok_or_else(malformed)?.to_vec() }
            }
            0x40 => Packet::PubAck(number(0)?),
            0x90 => Packet::SubAck,
            _ => Packet::Other,
        }))
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![kind];
        let mut length = body.len();
        loop {
            let low = u8::try_from(length % 128).map_err(io::Error::other)?;
            length /= 128;
            packet.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.spoke = Instant::now();
        self.stream.write_all(&packet)?;
        self.stream.flush()
    }

    fn raw(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((kind, start, length)) = header(&self.buffer)
                && let Some(body) = self.buffer.get(start..start + length)
            {
                let packet = (kind, body.to_vec());
                self.buffer.drain(..start + length);
                return Ok(Some(packet));
            }
            if self.buffer.len() > BUFFER_MAX {
                return Err(io::Error::other("the broker sent a packet that is too large"));
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Kind, where the body starts, and its length.
fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (kind, rest) = bytes.split_first()?;
    let mut length = 0;
    for (at, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((*kind, at + 2, length));
        }
    }
    None
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}
