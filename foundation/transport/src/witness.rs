//! The time that a trust domain's fleet says, for who does not know what time it is.
//!
//! A certificate cannot be judged without the time, and the time not be believed without the certificate. So the chain is
//! judged as of the beginning of the server's certificate, and what the server then says must lie within its life. The
//! handshake is fresh: the server signs what the client drew. Who holds an old key of the fleet's can claim a time within
//! the old certificate's life only; whoever decides knows a later one (the start of the gateway CA's certificate).
//!
//! Trusts the pinned root, whose own validity is not looked at.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use edgewarden_names::{Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_platform::clock::boot_millis;
use edgewarden_svid::{Roots, peer};
use hyper::header::DATE;
use hyper::{HeaderMap, Method};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{self, CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::http::{Client, HttpError};
use crate::provider::provider;
use crate::tls::{TlsError, fleet_id, harden, only};
use crate::verifier::{PeerVerifier, Trust};

const REPLY_BYTES_MAX: usize = 64 * 1024;
/// An answer that took longer says little about now.
const DEADLINE: Duration = Duration::from_secs(10);
/// Path that is asked for. Nothing is there: every answer has a date.
const PATH: &str = "/v1/time";

/// Error of asking a server for the time.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error("cannot configure TLS")]
    Tls(#[from] TlsError),
    #[error("the server was not reached")]
    Http(#[from] HttpError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks for the fleet's time. Returns what it is before the time since boot (CLOCK_BOOTTIME), in milliseconds.
pub async fn ask(url: &str, root: &CertificateDer<'_>, domain: &TrustDomain) -> Result<i64, WitnessError> {
    let life = Arc::<Mutex<Option<(UnixTime, UnixTime)>>>::default();
    let client = Client::new(url, config(root, domain, Arc::clone(&life))?)?;
    let before = boot_millis();
    let reply = client
        .send(Method::GET, PATH, HeaderMap::new(), Vec::new().into(), REPLY_BYTES_MAX, DEADLINE)
        .await?;
    let after = boot_millis();
    let refuse = |rule: &str| Refusal::new(Reason::PeerUnauthorized, "fleet's time", rule);
    let date = reply.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let date = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let said = UnixTime(date.ok_or_else(|| refuse("the answer has no date"))?.as_secs());
    let life = *life.lock().unwrap_or_else(PoisonError::into_inner);
    let (from, until) = life.ok_or_else(|| refuse("no certificate was shown"))?;
    if said < from || until <= said {
        return Err(refuse("the server's certificate is not valid at the time that the server says").into());
    }
    let said = i64::try_from(said.0).unwrap_or(i64::MAX).saturating_mul(1000);
    Ok(said.saturating_sub(before.midpoint(after)))
}

fn config(
    root: &CertificateDer<'_>,
    domain: &TrustDomain,
    life: Arc<Mutex<Option<(UnixTime, UnixTime)>>>,
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(Roots::new(domain.clone(), &[root])?);
    let inner = PeerVerifier::new(Trust::Pinned(roots), only(fleet_id(domain)), true);
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TimelessVerifier { inner, life }))
        .with_no_client_auth();
    Ok(harden(config))
}

/// Judges a chain as of the beginning of its leaf, and notes the leaf's life.
struct TimelessVerifier {
    inner: PeerVerifier,
    life: Arc<Mutex<Option<(UnixTime, UnixTime)>>>,
}

impl fmt::Debug for TimelessVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimelessVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for TimelessVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (from, until) = peer::life(leaf).map_err(|refusal| Error::General(refusal.rule))?;
        let begins = pki_types::UnixTime::since_unix_epoch(Duration::from_secs(from.0));
        let verified = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, begins)?;
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some((from, until));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(&self.inner, message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&self.inner, message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&self.inner)
    }
}
