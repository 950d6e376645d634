//! A leaf device's key and certificates: made once, kept in a folder of its own.
//!
//! Trusts the fleet's root that it was given. The gateway that it enrols with must show a certificate beneath that
//! root and be a `gatewayd` of the trust domain.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde::{Deserialize, Serialize};
use spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::mtls::{Fixed, certified_key, client_config, neighbour};

const REPLY_BYTES_MAX: usize = 64 * 1024;
const CHAIN_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of a leaf device's first enrolment. `gateway` is `host:port`, `token` the one-time token, `root` a PEM
/// file, `dir` the folder to keep key and certificates in.
pub struct Enrolment {
    pub gateway: String,
    pub leaf: String,
    pub token: String,
    pub trust_domain: String,
    pub root: PathBuf,
    pub dir: PathBuf,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Ask<'a> {
    leaf: &'a str,
    token: &'a str,
    /// PKCS#10, DER, base64.
    csr: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// DER, base64, the device's own first.
    chain: Vec<String>,
    root: String,
}

/// A renewal: the certificate that is shown is the token.
#[derive(Serialize)]
struct AskAgain {
    csr: String,
    /// By the key of the certificate that is shown, DER, base64.
    proof: String,
}

impl Answer {
    /// The chain, DER, when the gateway names our root.
    fn chain(&self, root: &CertificateDer<'_>) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        if STANDARD.decode(&self.root)? != root.as_ref() {
            return Err("the gateway answers with another root than the one given".into());
        }
        if self.chain.is_empty() || self.chain.len() > CHAIN_MAX {
            return Err(format!("the gateway answers with {} certificates", self.chain.len()).into());
        }
        Ok(self.chain.iter().map(|der| STANDARD.decode(der)).collect::<Result<Vec<_>, _>>()?)
    }
}

/// A leaf device's identity after it has enrolled.
#[derive(Debug)]
pub struct Credentials {
    pub id: SpiffeId,
    pub certificates: Arc<Fixed>,
}

/// Makes a key, has it certified, and keeps both.
pub async fn enrol(enrolment: &Enrolment) -> Result<(), Box<dyn Error>> {
    let root = CertificateDer::from_pem_file(&enrolment.root)
        .map_err(|error| format!("cannot read the root `{}`: {error}", enrolment.root.display()))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut request = CertificateParams::default();
    // The gateway decides what the certificate says.
    request.distinguished_name = DistinguishedName::new();
    let csr = request.serialize_request(&key)?;
    let ask = Ask { leaf: &enrolment.leaf, token: &enrolment.token, csr: STANDARD.encode(csr.der()) };
    let domain = enrolment.trust_domain.clone();
    let allow = Box::new(move |id: &SpiffeId| {
        id.trust_domain_name() == domain
            && matches!(*id.path().split('/').collect::<Vec<_>>(), ["", "gateway", _, "module", "gatewayd"])
    });
    let certificates = Arc::new(Fixed { own: None, root: root.clone() });
    let connector = TlsConnector::from(Arc::new(client_config(certificates, allow)?));
    let answer = post(&enrolment.gateway, connector, "/v1/leaf/enrol", serde_json::to_vec(&ask)?).await?;
    let chain = answer.chain(&root)?;
    let own = chain.first().ok_or("the gateway answers without a certificate")?;
    let id = spiffe::cert::spiffe_id_from_der(own)?;
    let ours = id.trust_domain_name() == enrolment.trust_domain
        && id.path().ends_with(&format!("/leaf/{}", enrolment.leaf));
    if !ours {
        return Err(format!("the gateway's certificate is for {id}").into());
    }
    // Refuses a certificate that is not for our key.
    certified_key(chain.iter().cloned().map(CertificateDer::from).collect(), key.serialized_der())?
        .keys_match()?;
    fs::create_dir_all(&enrolment.dir)?;
    let pkcs8 = zeroize::Zeroizing::new(key.serialize_pem());
    write(&enrolment.dir.join("key.pem"), pkcs8.as_bytes())?;
    let chain: String = chain.iter().map(|der| pem(der)).collect();
    write(&enrolment.dir.join("chain.pem"), chain.as_bytes())?;
    write(&enrolment.dir.join("root.pem"), pem(&root).as_bytes())?;
    println!("enrolled as {id}; key and certificates are in {}", enrolment.dir.display());
    Ok(())
}

/// Has the certificate renewed by itself, when a third of its life is over. The key stays, so that nothing is lost when
/// the power fails in between. True when there is a new one.
pub async fn renew(gateway: &str, dir: &Path) -> Result<bool, Box<dyn Error>> {
    let held = load(dir)?;
    let own = held.certificates.own.as_ref().and_then(|own| own.cert.first()).ok_or("enrol first")?.clone();
    if !is_due(&own)? {
        return Ok(false);
    }
    let key = KeyPair::from_pem(&zeroize::Zeroizing::new(fs::read_to_string(dir.join("key.pem"))?))?;
    let mut request = CertificateParams::default();
    request.distinguished_name = DistinguishedName::new();
    let csr = request.serialize_request(&key)?;
    let statement = renewal_statement(&own, csr.der())?;
    let ask = AskAgain { csr: STANDARD.encode(csr.der()), proof: STANDARD.encode(key.sign(&statement)?) };
    let gatewayd = neighbour(&held.id, "gatewayd").ok_or("our own ID is not a leaf's")?;
    let config = client_config(held.certificates.clone(), Box::new(move |id| *id == gatewayd))?;
    let connector = TlsConnector::from(Arc::new(config));
    let answer = post(gateway, connector, "/v1/leaf/renew", serde_json::to_vec(&ask)?).await?;
    let chain = answer.chain(&held.certificates.root)?;
    let own = chain.first().ok_or("the gateway answers without a certificate")?;
    if spiffe::cert::spiffe_id_from_der(own)? != held.id {
        return Err("the gateway's certificate is another device's".into());
    }
    certified_key(chain.iter().cloned().map(CertificateDer::from).collect(), key.serialized_der())?
        .keys_match()?;
    let chain: String = chain.iter().map(|der| pem(der)).collect();
    write(&dir.join("chain.pem"), chain.as_bytes())?;
    println!("renewed the certificate of {}", held.id);
    Ok(true)
}

/// The bytes that the certificate's key signs for a renewal, so that the gateway knows that the request is ours,
/// whoever carries it: a label, the length of the own certificate (32 bits, big-endian), the certificate, the CSR.
pub fn renewal_statement(own: &[u8], csr: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let length = u32::try_from(own.len())?.to_be_bytes();
    Ok([b"edgewarden leaf renewal v1\0".as_slice(), &length, own, csr].concat())
}

/// From the first third of its life on.
fn is_due(certificate: &CertificateDer<'_>) -> Result<bool, Box<dyn Error>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    Ok(now >= from + (until - from) / 3)
}

/// Reads what [`enrol`] kept.
pub fn load(dir: &Path) -> Result<Credentials, Box<dyn Error>> {
    let missing = |error| format!("cannot read `{}`: {error}; enrol first", dir.display());
    let chain = CertificateDer::pem_file_iter(dir.join("chain.pem"))
        .map_err(missing)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(missing)?;
    let own = chain.first().ok_or("the chain is empty; enrol again")?;
    let id = spiffe::cert::spiffe_id_from_der(own)?;
    let key = PrivatePkcs8KeyDer::from_pem_file(dir.join("key.pem")).map_err(missing)?;
    let own = Some(certified_key(chain, key.secret_pkcs8_der())?);
    let root = CertificateDer::from_pem_file(dir.join("root.pem")).map_err(missing)?;
    Ok(Credentials { id, certificates: Arc::new(Fixed { own, root }) })
}

async fn post(
    gateway: &str,
    connector: TlsConnector,
    path: &str,
    body: Vec<u8>,
) -> Result<Answer, Box<dyn Error>> {
    let (status, body) = timeout(PATIENCE, exchange(gateway, connector, path, body))
        .await
        .map_err(|_| format!("no answer from {gateway}"))??;
    if status.is_success() {
        return Ok(serde_json::from_slice(&body)?);
    }
    let text: String = String::from_utf8_lossy(&body).chars().take(500).collect();
    Err(format!("the gateway refused ({status}): {}", text.escape_debug()).into())
}

async fn exchange(
    gateway: &str,
    connector: TlsConnector,
    path: &str,
    body: Vec<u8>,
) -> Result<(hyper::StatusCode, Bytes), Box<dyn Error>> {
    let stream =
        TcpStream::connect(gateway).await.map_err(|error| format!("cannot reach {gateway}: {error}"))?;
    let name = ServerName::from(stream.peer_addr()?.ip());
    let stream = connector.connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, which ends with this function.
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", gateway)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let reply = sender.send_request(request).await?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), REPLY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes()))
}

/// Whole, and readable by nobody else.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----");
    for (at, character) in text.chars().enumerate() {
        if at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}
