//! Clients' certificates, judged by the openssl command. webpki would not do: the certificate that a gateway CA shows when
//! it renews itself is a CA's, which openssl lets in and webpki does not.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use edgewarden_names::pem;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// A rustls verifier of clients' certificates that asks openssl.
#[derive(Debug)]
pub struct ByOpenssl {
    root: PathBuf,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ByOpenssl {
    /// Of certificates beneath this root, a PEM file.
    pub fn new(root: PathBuf) -> Self {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { root, algorithms }
    }
}

impl ClientCertVerifier for ByOpenssl {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let folder = tempfile::tempdir().unwrap();
        let (shown, others) = (folder.path().join("shown"), folder.path().join("others"));
        std::fs::write(&shown, pem::encode(pem::CERTIFICATE, leaf)).unwrap();
        let all: Vec<Vec<u8>> = intermediates.iter().map(|der| der.to_vec()).collect();
        std::fs::write(&others, pem::chain(&all)).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-purpose", "sslclient", "-CAfile"]).arg(&self.root);
        if !all.is_empty() {
            openssl.arg("-untrusted").arg(&others);
        }
        let output = openssl.arg(&shown).stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            return Ok(ClientCertVerified::assertion());
        }
        eprintln!("a client is refused: {}", String::from_utf8_lossy(&output.stderr));
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
