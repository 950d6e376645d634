//! In the place of the daemons, the fleet and a registry. Each speaks the real protocol.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewarden_ca::RootCa;
use edgewarden_exchange::frame;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::gateway_console as gateway;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console as runtime;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::{Answers, DAY};

/// The manifest that the registry has.
pub const MANIFEST: &[u8] = b"{}";

pub fn daemons(layout: &Layout, answers: &Arc<Mutex<Answers>>) -> [JoinHandle<()>; 3] {
    [
        serve(layout.control_socket(), answers, identityd),
        serve(layout.runtime_socket(), answers, |answers, request| match request {
            runtime::Request::Status => runtime::Reply::Status(Box::new(answers.runtime.clone())),
            other => panic!("the doctor asks runtimed for {other:?}"),
        }),
        serve(layout.gateway_socket(), answers, |answers, request| match request {
            gateway::Request::Status => gateway::Reply::Status(Box::new(answers.gateway.clone())),
            other => panic!("the doctor asks gatewayd for {other:?}"),
        }),
    ]
}

fn identityd(answers: &Answers, request: Request) -> Reply {
    let refused = || Reply::Refused(Refusal::new(Reason::Internal, "keystore", "it does not answer"));
    match request {
        Request::Status => Reply::Status(Box::new(answers.status.clone())),
        Request::KeystoreHealth => answers.health.clone().map_or_else(refused, Reply::KeystoreHealth),
        Request::EnrolKeys => answers.keys.clone().map_or_else(refused, Reply::DeviceKeys),
        Request::Deployment => {
            answers.deployment.clone().map_or(Reply::Done, |in_force| Reply::Deployment(Box::new(in_force)))
        }
        Request::FederationList => Reply::Federation(answers.federation.clone()),
        // Everything else changes something, or leaves a trace.
        other => panic!("the doctor asks identityd for {other:?}"),
    }
}

fn serve<Q: DeserializeOwned + Send + 'static, A: Serialize + Send + Sync + 'static>(
    socket: std::path::PathBuf,
    answers: &Arc<Mutex<Answers>>,
    answer: fn(&Answers, Q) -> A,
) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let answers = Arc::clone(answers);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Ok(request) = frame::read(&mut stream).await else { continue };
            let reply = answer(&answers.lock().unwrap(), request);
            // The doctor may have gone.
            drop(frame::write(&mut stream, &reply).await);
        }
    })
}

/// Shows the fleet's certificate to whoever connects.
pub async fn fleet(root: &RootCa) -> (String, JoinHandle<()>) {
    let lifetime = Duration::from_secs(7 * DAY);
    let svid = root.server_certificate(&["localhost".into()], &[], lifetime, UnixTime::now()).unwrap();
    let chain = svid.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key_pkcs8.to_vec()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(acceptor.accept(stream).await);
        }
    });
    (address, server)
}

/// Answers every request with [`MANIFEST`].
pub async fn registry() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    // The first byte of a TLS handshake: this is no place for it.
                    Ok(0x16) | Err(_) => break,
                    Ok(byte) => request.push(byte),
                }
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                MANIFEST.len()
            );
            drop(stream.write_all(&[head.as_bytes(), MANIFEST].concat()).await);
        }
    });
    (address, server)
}
