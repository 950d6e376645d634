//! A real Envoy takes its certificate and its trust from the socket, by both forms of the protocol, and serves mutual TLS.

use crate::common;
use crate::envoy_program;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{ID, Served};
use edgewarden_svid::X509Context;
use envoy_program::Envoy;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PEER: &str = "spiffe://plant.example/gateway/gw-1/module/reader";
const FOREIGN: &str = "spiffe://other.example/gateway/gw-1/module/reader";

/// One listener with each form of the protocol: `(name, api_type, what peers are validated by)`.
const LISTENERS: [(&str, &str, &str); 3] = [
    ("whole", "GRPC", "ROOTCA"),
    ("incremental", "DELTA_GRPC", "ALL"),
    ("by-id", "GRPC", "spiffe://plant.example"),
];

fn configuration(folder: &Path, socket: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        r#"
node: {{ id: test, cluster: test }}
admin: {{ address: {{ pipe: {{ path: "{folder}/admin.sock" }} }} }}
static_resources:
  clusters:
  - name: edgewarden
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: edgewarden
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ pipe: {{ path: "{}" }} }} }} }}] }}]
  listeners:
"#,
        socket.display()
    );
    for (name, api_type, roots) in LISTENERS {
        let source = format!(
            "{{ resource_api_version: V3, api_config_source: {{ api_type: {api_type}, transport_api_version: V3, \
             set_node_on_first_message_only: true, grpc_services: [{{ envoy_grpc: {{ cluster_name: edgewarden }} }}] }} }}"
        );
        let certificate = if name == "by-id" { ID } else { "default" };
        text.push_str(&format!(
            r#"
  - name: {name}
    address: {{ pipe: {{ path: "{folder}/{name}.sock" }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.echo
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs: [{{ name: "{certificate}", sds_config: {source} }}]
            validation_context_sds_secret_config: {{ name: "{roots}", sds_config: {source} }}
"#
        ));
    }
    text
}

/// Between two looks at a process that tells nobody when it is ready.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Takes any certificate: the test looks at it afterwards.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not with TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Speaks TLS as `client` and gets an echo. An error is a refusal by either side.
async fn connect(listener: &Path, client: Option<&X509Context>) -> std::io::Result<TlsStream<UnixStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any));
    let config = match client {
        None => config.with_no_client_auth(),
        Some(context) => {
            let chain = context.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivatePkcs8KeyDer::from(context.key_pkcs8.to_vec());
            config.with_client_auth_cert(chain, key.into()).unwrap()
        }
    };
    let stream = UnixStream::connect(listener).await?;
    let name = ServerName::try_from("module.example").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    // With TLS 1.3 a client learns only now whether its certificate is accepted.
    echo(&mut stream).await?;
    Ok(stream)
}

async fn echo(stream: &mut TlsStream<UnixStream>) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

fn certificate(stream: &TlsStream<UnixStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap().first().unwrap().to_vec()
}

/// One of Envoy's counters.
async fn counter(folder: &Path, name: &str) -> u64 {
    let mut admin = UnixStream::connect(folder.join("admin.sock")).await.unwrap();
    let request =
        "GET /stats?filter=sds|listener_manager HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    admin.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await.unwrap();
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    let values = lines
        .filter(|(key, _)| key.ends_with(name))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok());
    values.sum()
}

#[tokio::test]
async fn envoy_serves_mutual_tls_with_what_it_gets_from_the_socket() {
    let Some(binary) = envoy_program::binary() else { return };
    let served = Served::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, configuration(folder.path(), &served.socket)).unwrap();
    let log = folder.path().join("envoy.log");
    let mut envoy = Envoy::start(&binary, &file, &log);

    let first = served.source.current.lock().unwrap().as_ref().unwrap().borrow().clone().unwrap();
    let peer = common::issue(&served.source.authority, PEER);
    let elsewhere = common::root();
    let mut open = Vec::new();
    for (name, ..) in LISTENERS {
        let listener = folder.path().join(format!("{name}.sock"));
        // Envoy opens its listeners when the secrets are there.
        let mut stream = loop {
            if let Ok(stream) = connect(&listener, Some(&peer)).await {
                break stream;
            }
            assert!(envoy.lives(), "{}", std::fs::read_to_string(&log).unwrap());
            pause().await;
        };
        assert_eq!(certificate(&stream), first.chain_der[0], "{name}");
        echo(&mut stream).await.unwrap();
        for (what, refused) in [
            ("the right name from another authority", Some(common::issue(&elsewhere, PEER))),
            ("a foreign trust domain", Some(common::issue(&elsewhere, FOREIGN))),
            (
                "a foreign trust domain's name from our authority",
                Some(common::issue(&served.source.authority, FOREIGN)),
            ),
            ("no certificate", None),
        ] {
            assert!(connect(&listener, refused.as_deref()).await.is_err(), "{name}: {what}");
        }
        open.push((listener, stream));
    }

    // A rotation is taken up by each, with no connection lost on the way.
    let second = served.source.rotate();
    for (listener, stream) in &mut open {
        loop {
            let fresh = connect(listener, Some(&peer)).await.unwrap();
            if certificate(&fresh) == second.chain_der[0] {
                break;
            }
            assert_eq!(certificate(&fresh), first.chain_der[0]);
            pause().await;
        }
        echo(stream).await.unwrap();
    }
    // The roots change: who is certified by the new ones is let in, who is foreign to both is not.
    let mut third = common::issue(&served.source.authority, ID);
    Arc::get_mut(&mut third).unwrap().bundle_der.push(elsewhere.der.clone());
    served.source.give(Some(third));
    let of_new_root = common::issue(&elsewhere, PEER);
    for (listener, stream) in &mut open {
        while connect(listener, Some(&of_new_root)).await.is_err() {
            assert!(connect(listener, Some(&peer)).await.is_ok());
            pause().await;
        }
        assert!(connect(listener, Some(&common::issue(&common::root(), PEER))).await.is_err());
        assert!(connect(listener, Some(&common::issue(&elsewhere, FOREIGN))).await.is_err());
        echo(stream).await.unwrap();
    }
    assert_eq!(counter(folder.path(), "update_rejected").await, 0);
    assert!(counter(folder.path(), "update_success").await > 0);
    assert_eq!(counter(folder.path(), "listener_manager.total_listeners_draining").await, 0);
    assert_eq!(counter(folder.path(), "listener_manager.total_listeners_active").await, 3);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("gRPC config stream"), "{log}");
}

#[tokio::test]
async fn envoy_says_why_it_gets_no_secret() {
    let Some(binary) = envoy_program::binary() else { return };
    let other = "spiffe://plant.example/gateway/gw-1/module/other";
    let served = Served::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    let text = configuration(folder.path(), &served.socket);
    std::fs::write(&file, text.replace(&format!("\"{ID}\""), &format!("\"{other}\""))).unwrap();
    let log = folder.path().join("envoy.log");
    let _envoy = Envoy::start(&binary, &file, &log);
    // gRPC writes it so (gRPC over HTTP/2, "Responses").
    let says = format!("closed: 3, sds.name:%20%60{other}%60%20is%20no%20secret%20of%20this%20module");
    while !std::fs::read_to_string(&log).unwrap().contains(&says) {
        pause().await;
    }
}
