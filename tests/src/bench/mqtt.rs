//! Messages through `gatewayd`, and through mosquitto beside it: the same load, mutual TLS and rules over loopback.
//!
//! Publishers send QoS 1 and keep so many unacknowledged, and at most [`UNDELIVERED_MAX`] that their subscriber has not;
//! subscribers acknowledge each message. End to end is from the moment before a message is written to the moment after it
//! is read.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{CaSigner, SignError, certificate_request};
use edgewarden_names::{GatewayName, LeafName, ModuleName, SpiffeId, TrustDomain, UnixTime, pem};
use edgewarden_protocol::control::{Certificate, questions};
use edgewarden_svid::X509Context;
use edgewarden_tests::process::{Server, wait_for};
use edgewarden_tests::{Failure, ensure};
use edgewarden_transport::Identity;
use edgewarden_transport::tls::{client_config, fleet_id, only};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{DAY, WAIT, domain, failed, gateway as gateway_name, runtime};
use crate::gateway::Gateway;
use crate::number::{Number, Target};

const PAIRS: usize = 20;
const PAYLOAD_BYTES: usize = 100;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const LEAF_PORT: u16 = 18_883;
const MOSQUITTO_PORT: u16 = 18_884;
const MOSQUITTO: &str = "/usr/sbin/mosquitto";
/// Messages of a pair on their way: half of what a session of `gatewayd` holds before it loses the oldest. An
/// acknowledgement says that a message is in the session, so that a publisher alone outruns its subscriber.
const UNDELIVERED_MAX: u64 = 5_000;
/// Longest time for a message to arrive that was acknowledged to its publisher.
const ARRIVES: Duration = Duration::from_secs(20);

struct LeafKey(EcdsaKeyPair);

impl CaSigner for LeafKey {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.0.public_key().as_ref().to_vec())
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SignError::new(std::io::Error::other("no signature")))
    }
}

/// A leaf device's TLS towards each of the two brokers.
struct Device {
    name: String,
    to_gatewayd: Arc<ClientConfig>,
    to_mosquitto: Arc<ClientConfig>,
}

fn leaf(number: usize) -> String {
    format!("leaf-{number}")
}

/// Enrols a device as its token lets it.
async fn device(gateway: &Gateway, number: usize) -> Result<Device, Failure> {
    let (domain, gateway_name): (TrustDomain, GatewayName) = (domain()?, gateway_name()?);
    let leaf = LeafName::parse(&leaf(number)).map_err(failed)?;
    let allow = questions::LeafAllow { leaf: leaf.clone(), lifetime_seconds: 600 };
    let token = gateway.ask(allow).await?.token;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let pkcs8 = pkcs8.map_err(failed)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).map_err(failed)?;
    let csr = certificate_request(&LeafKey(key), &gateway_name, &domain).map_err(failed)?.into();
    let issue = questions::LeafIssue { leaf: leaf.clone(), token, csr };
    let Certificate { chain, root } = gateway.ask(issue).await?;
    let context = X509Context {
        id: SpiffeId::leaf(&domain, &gateway_name, &leaf),
        chain_der: chain.into_iter().map(|certificate| certificate.0).collect(),
        key_pkcs8: pkcs8.as_ref().to_vec().into(),
        bundle_der: vec![root.0],
        trust_domain: domain.clone(),
    };
    let (sender, current) = watch::channel(Some(Arc::new(context)));
    // A source that ended would end the identity.
    std::mem::forget(sender);
    let identity = Identity::new(current);
    let gatewayd = ModuleName::parse("gatewayd").map_err(failed)?;
    let gatewayd = SpiffeId::module(&domain, &gateway_name, &gatewayd);
    Ok(Device {
        name: leaf.to_string(),
        to_gatewayd: Arc::new(client_config(&identity, only(gatewayd)).map_err(failed)?),
        to_mosquitto: Arc::new(client_config(&identity, only(fleet_id(&domain))).map_err(failed)?),
    })
}

/// One client's connection.
struct Link {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
    write: Vec<u8>,
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// Of the packet at the front: its first byte, where its body starts, and where it ends.
fn front(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (kind, rest) = bytes.split_first()?;
    let mut length = 0;
    for (at, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let start = at + 2;
            return (bytes.len() >= start + length).then_some((*kind, start, start + length));
        }
    }
    None
}

impl Link {
    async fn open(broker: &Broker, device: &Device, client_id: &str) -> Result<Self, Failure> {
        let config = if broker.ours { &device.to_gatewayd } else { &device.to_mosquitto };
        let socket = TcpStream::connect(broker.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("gateway").map_err(failed)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, socket).await?;
        let mut link = Self { stream, read: Vec::new(), write: Vec::new() };
        let mut body = vec![0, 4];
        body.extend_from_slice(b"MQTT");
        body.extend_from_slice(&[4, 2, 0, 0]);
        text(&mut body, client_id);
        link.put(0x10, &body);
        link.flush().await?;
        let answer = link.next().await?;
        ensure(answer == [0x20, 0, 0], || format!("{} refused the connection: {answer:?}", broker.name))?;
        Ok(link)
    }

    async fn subscribe(&mut self, topic: &str) -> Result<(), Failure> {
        let mut body = vec![0, 1];
        text(&mut body, topic);
        body.push(1);
        self.put(0x82, &body);
        self.flush().await?;
        let answer = self.next().await?;
        ensure(answer == [0x90, 0, 1, 1], || format!("the subscription was refused: {answer:?}"))
    }

    /// Bodies have less than 16 KiB.
    fn put(&mut self, kind: u8, body: &[u8]) {
        self.write.push(kind);
        let length = body.len();
        let low = u8::try_from(length % 128).unwrap_or_default();
        if length < 128 {
            self.write.push(low);
        } else {
            self.write.extend_from_slice(&[low | 0x80, u8::try_from(length / 128).unwrap_or_default()]);
        }
        self.write.extend_from_slice(body);
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.write).await?;
        self.stream.flush().await?;
        self.write.clear();
        Ok(())
    }

    /// Whatever has come, at least a byte.
    async fn fill(&mut self) -> Result<(), Failure> {
        let read = self.stream.read_buf(&mut self.read).await?;
        ensure(read > 0, || "the broker closed the connection".into())
    }

    /// Calls `packet` for each that is whole, with its first byte and body.
    fn take(&mut self, mut packet: impl FnMut(u8, &[u8], &mut Vec<u8>)) {
        let mut at = 0;
        while let Some((kind, start, end)) = front(self.read.get(at..).unwrap_or_default()) {
            let body = self.read.get(at + start..at + end).unwrap_or_default();
            packet(kind, body, &mut self.write);
            at += end;
        }
        self.read.drain(..at);
    }

    /// The next packet: its first byte, and its body.
    async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some((kind, start, end)) = front(&self.read) {
                let mut found = vec![kind];
                found.extend(self.read.drain(..end).skip(start));
                return Ok(found);
            }
            self.fill().await?;
        }
    }
}

#[derive(Debug, Clone)]
struct Broker {
    name: &'static str,
    ours: bool,
    address: SocketAddr,
}

/// Result of one round.
struct Round {
    a_second: f64,
    end_to_end: Vec<Duration>,
}

async fn publish(
    mut link: Link,
    topic: String,
    window: usize,
    begun: Instant,
    received: Arc<AtomicU64>,
) -> Result<u64, Failure> {
    let (mut unacknowledged, mut sent, mut id) = (0, 0, 0u16);
    let mut body = Vec::new();
    loop {
        while unacknowledged < window
            && sent - received.load(Ordering::Relaxed) < UNDELIVERED_MAX
            && begun.elapsed() < ROUND
        {
            id = id.checked_add(1).unwrap_or(1);
            body.clear();
            text(&mut body, &topic);
            body.extend_from_slice(&id.to_be_bytes());
            let now = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            body.extend_from_slice(&now.to_be_bytes());
            body.resize(body.len() + PAYLOAD_BYTES - 8, 0);
            link.put(0x32, &body);
            (unacknowledged, sent) = (unacknowledged + 1, sent + 1);
        }
        if unacknowledged == 0 {
            if begun.elapsed() >= ROUND {
                return Ok(sent);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        if !link.write.is_empty() {
            link.flush().await?;
        }
        link.fill().await?;
        link.take(|kind, _, _| unacknowledged -= usize::from(kind == 0x40));
    }
}

/// Until it is stopped.
async fn receive(
    mut link: Link,
    begun: Instant,
    received: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    loop {
        tokio::select! {
            filled = link.fill() => filled?,
            _ = stop.wait_for(|stop| *stop) => return Ok(took),
        }
        let now = begun.elapsed();
        let mut count = 0;
        link.take(|kind, body, write| {
            let topic = body.first_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            let fields = body.get(2 + topic..).and_then(<[u8]>::split_first_chunk::<2>);
            let Some((id, payload)) = fields.filter(|_| kind & 0xf0 == 0x30) else { return };
            write.extend_from_slice(&[0x40, 2, id[0], id[1]]);
            if let Some(sent) = payload.first_chunk::<8>() {
                took.push(now.saturating_sub(Duration::from_nanos(u64::from_be_bytes(*sent))));
            }
            count += 1;
        });
        received.fetch_add(count, Ordering::Relaxed);
        if !link.write.is_empty() {
            link.flush().await?;
        }
    }
}

/// So many publishers with a subscriber each.
async fn round(broker: &Broker, devices: &[Device], pairs: usize, window: usize) -> Result<Round, Failure> {
    let (stop, stopped) = watch::channel(false);
    let mut links = Vec::new();
    for (number, pair) in devices.chunks_exact(2).take(pairs).enumerate() {
        let [from, to] = pair else { continue };
        let topic = format!("bench/{number}");
        let mut subscriber = Link::open(broker, to, &to.name).await?;
        subscriber.subscribe(&topic).await?;
        links.push((Link::open(broker, from, &from.name).await?, subscriber, topic));
    }
    let begun = Instant::now();
    let (mut publishers, mut subscribers, mut arrived) = (Vec::new(), Vec::new(), Vec::new());
    for (publisher, subscriber, topic) in links {
        let received = Arc::new(AtomicU64::new(0));
        subscribers.push(tokio::spawn(receive(subscriber, begun, Arc::clone(&received), stopped.clone())));
        publishers.push(tokio::spawn(publish(publisher, topic, window, begun, Arc::clone(&received))));
        arrived.push(received);
    }
    let mut sent = 0;
    for publisher in publishers {
        sent += publisher.await.map_err(failed)??;
    }
    let waited = Instant::now();
    while arrived.iter().map(|received| received.load(Ordering::Relaxed)).sum::<u64>() < sent {
        ensure(waited.elapsed() < ARRIVES, || {
            format!("{}: acknowledged messages did not arrive", broker.name)
        })?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    stop.send_replace(true);
    let mut end_to_end = Vec::new();
    for subscriber in subscribers {
        end_to_end.extend(subscriber.await.map_err(failed)??);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    let a_second = sent as f64 / took;
    Ok(Round { a_second, end_to_end })
}

/// A shape of load, and the names of its rows.
struct Shape {
    pairs: usize,
    window: usize,
    rate: [&'static str; 2],
    end_to_end: [&'static str; 2],
    ratio: &'static str,
}

const SHAPES: [Shape; 3] = [
    Shape {
        pairs: 1,
        window: 1,
        rate: ["MQTT QoS 1, 1 pair, window 1", "  mosquitto"],
        end_to_end: ["  end to end", "  end to end, mosquitto"],
        ratio: "  rate, times mosquitto's",
    },
    Shape {
        pairs: 1,
        window: 100,
        rate: ["MQTT QoS 1, 1 pair, window 100", "  mosquitto"],
        end_to_end: ["  end to end", "  end to end, mosquitto"],
        ratio: "  rate, times mosquitto's",
    },
    Shape {
        pairs: PAIRS,
        window: 1,
        rate: ["MQTT QoS 1, 20 pairs, window 1", "  mosquitto"],
        end_to_end: ["  end to end", "  end to end, mosquitto"],
        ratio: "  rate, times mosquitto's",
    },
];

/// Results of all rounds of one broker.
struct Measured<'a> {
    broker: &'a Broker,
    names: (&'static str, &'static str),
    rates: Vec<f64>,
    end_to_end: Vec<Duration>,
}

impl<'a> Measured<'a> {
    fn new(broker: &'a Broker, names: (&'static str, &'static str)) -> Self {
        Self { broker, names, rates: Vec::new(), end_to_end: Vec::new() }
    }

    fn numbers(self) -> [Number; 2] {
        let (rate, end_to_end) = self.names;
        if self.rates.is_empty() {
            return [Number::missing(rate, "1/s", MISSING), Number::missing(end_to_end, "us", MISSING)];
        }
        let micros = |took: Duration| took.as_secs_f64() * 1e6;
        [
            Number::of_values(rate, "1/s", Target::Rate, self.rates),
            Number::of(end_to_end, "us", Target::None, &self.end_to_end, micros),
        ]
    }
}

const MISSING: &str = "mosquitto is not installed";

/// `gatewayd` of this gateway, as its supervisor starts it.
pub fn start_gatewayd(gateway: &Gateway) -> Result<Server, Failure> {
    let layout = gateway.layout();
    for folder in [layout.gateway_state(), layout.gateway_run()] {
        fs::create_dir_all(&folder)?;
        let owned = Command::new("chown").arg("ew-gateway:ew-gateway").arg(&folder).status()?;
        ensure(owned.success(), || "the user `ew-gateway` is missing: ./ew setup".into())?;
    }
    // Temporary folders are their maker's alone.
    let opened = Command::new("chmod").arg("a+rx").arg(layout.root()).status()?;
    ensure(opened.success(), || "cannot open the folder".into())?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "ew-gateway", "--regid", "ew-gateway", "--init-groups", "--"]);
    command.arg(gateway.program()).arg("--root").arg(layout.root()).arg("gatewayd").env("RUST_LOG", "warn");
    Server::start("gatewayd", &mut command, &layout.root().join("gatewayd.log"))
}

/// The deployment's part that lets the pairs talk.
fn document() -> Value {
    let leaves: Vec<Value> = (0..2 * PAIRS).map(|n| json!({"name": leaf(n), "groups": ["load"]})).collect();
    json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example", "modules": [], "image_keys": [],
        "leaves": leaves,
        "topics": [{"name": "load", "filter": "bench/#"}],
        "policy": "@id(\"connect\") permit (principal, action == Action::\"connect\", resource);\n\
                   @id(\"load\") permit (principal in LeafGroup::\"load\", action in [Action::\"publish\", \
                   Action::\"subscribe\", Action::\"receive\"], resource == TopicFilter::\"load\");",
    })
}

/// Mutual TLS and rules, nothing on disk, as many messages on their way as there are. `None` when it is not installed.
fn start_mosquitto(gateway: &Gateway, folder: &Path) -> Result<Option<Server>, Failure> {
    if !Path::new(MOSQUITTO).exists() {
        return Ok(None);
    }
    let address = [std::net::Ipv4Addr::LOCALHOST.into()];
    let svid = gateway.root().server_certificate(&["localhost".into()], &address, DAY, UnixTime::now());
    let svid = svid.map_err(failed)?;
    let file = |name: &str, text: String| -> Result<PathBuf, Failure> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let ca = file("mosquitto-ca.pem", pem::encode(pem::CERTIFICATE, gateway.root().certificate_der()))?;
    let chain = file("mosquitto.pem", pem::chain(&svid.chain_der))?;
    let key = file("mosquitto.key", pem::encode("PRIVATE KEY", &svid.key_pkcs8))?;
    let rules = file("mosquitto.acl", "topic readwrite bench/#\n".into())?;
    let config = format!(
        "listener {MOSQUITTO_PORT} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         allow_anonymous true\nacl_file {}\nuser root\npersistence false\nset_tcp_nodelay true\n\
         max_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n",
        ca.display(),
        chain.display(),
        key.display(),
        rules.display()
    );
    let config = file("mosquitto.conf", config)?;
    let mut command = Command::new(MOSQUITTO);
    Server::start("mosquitto", command.arg("-c").arg(config), &folder.join("mosquitto.log")).map(Some)
}

pub fn mqtt() -> Result<Vec<Number>, Failure> {
    let gateway = Gateway::new()?;
    gateway.configure_with(&format!(
        "[runtime]\nmodule_network = \"127.77.0.0/24\"\n[mqtt]\nleaf_listen = \"127.0.0.1:{LEAF_PORT}\"\n"
    ))?;
    let runtime = runtime()?;
    let _identityd = gateway.start()?;
    let control = gateway.layout().control_socket();
    wait_for("identityd", WAIT, || {
        std::os::unix::net::UnixStream::connect(&control).map(drop).map_err(failed)
    })?;
    runtime.block_on(gateway.join())?;
    runtime.block_on(gateway.deploy(&document()))?;
    let mut gatewayd = start_gatewayd(&gateway)?;
    let folder = tempfile::tempdir()?;
    let mut mosquitto = start_mosquitto(&gateway, folder.path())?;
    let mut devices = Vec::new();
    for number in 0..2 * PAIRS {
        devices.push(runtime.block_on(device(&gateway, number))?);
    }
    let on = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ours = Broker { name: "gatewayd", ours: true, address: on(LEAF_PORT) };
    let theirs = Broker { name: "mosquitto", ours: false, address: on(MOSQUITTO_PORT) };
    let open = |broker: &Broker| {
        let device = devices.first().ok_or_else(|| Failure::new("no devices"))?;
        runtime.block_on(Link::open(broker, device, &device.name)).map(drop)
    };
    wait_for("gatewayd", WAIT, || gatewayd.check().and_then(|()| open(&ours)))?;
    if let Some(mosquitto) = &mut mosquitto {
        wait_for("mosquitto", WAIT, || mosquitto.check().and_then(|()| open(&theirs)))?;
    }
    let mut numbers = Vec::new();
    for shape in SHAPES {
        let brokers = [&ours, &theirs].into_iter().zip(shape.rate.into_iter().zip(shape.end_to_end));
        let mut measured: Vec<_> = brokers.map(|(broker, names)| Measured::new(broker, names)).collect();
        // In turns, so that what else the machine does falls on both.
        for _ in 0..ROUNDS {
            for one in measured.iter_mut().filter(|one| one.broker.ours || mosquitto.is_some()) {
                let done = runtime.block_on(round(one.broker, &devices, shape.pairs, shape.window))?;
                one.rates.push(done.a_second);
                one.end_to_end.extend(done.end_to_end);
            }
        }
        let rates = measured.iter().map(|one| one.rates.as_slice()).collect::<Vec<_>>();
        let ratios: Vec<f64> = match rates[..] {
            [ours, theirs] => ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect(),
            _ => Vec::new(),
        };
        numbers.extend(measured.into_iter().flat_map(Measured::numbers));
        numbers.push(if ratios.is_empty() {
            Number::missing(shape.ratio, "x", MISSING)
        } else {
            Number::of_values(shape.ratio, "x", Target::AtLeast(1.0), ratios)
        });
    }
    Ok(numbers)
}
