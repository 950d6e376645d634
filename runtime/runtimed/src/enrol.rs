//! Enrolment and renewal: carries the messages between `identityd` and the fleet ([`edgewarden_protocol::enrol`]).
//!
//! The messages are protected end to end; this side holds no key. TLS is pinned to the fleet's root, so that a refusal
//! is the fleet's word: `identityd` is told of those that say that the gateway is not what it should be.

use std::time::Duration;

use edgewarden_names::Refusal;
use edgewarden_protocol::config::{Config, Fleet};
use edgewarden_protocol::control::questions;
use edgewarden_protocol::enrol::{Begin, Challenge, DeviceKeys, Enrolled, Finish, Verdict};
use edgewarden_protocol::token::JoinToken;
use edgewarden_transport::http::{Client as Http, HttpError};
use edgewarden_transport::{Clock, tls, witness};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::{CallError, Client};

const REPLY_BYTES_MAX: usize = 256 * 1024;
/// The fleet replays an event log and asks a database; a slow link carries 2 MiB.
const DEADLINE: Duration = Duration::from_secs(60);

/// Error of an enrolment, by whether another try can help.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The fleet or `identityd` said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Try again later.
    #[error("the fleet was not reached")]
    Fleet(#[source] HttpError),
    /// Try again later.
    #[error("identityd was not reached")]
    Identity(#[source] CallError),
    #[error("the configuration names no fleet")]
    NoFleet,
    #[error("cannot read the fleet's root certificate: {0}")]
    Root(String),
    #[error("cannot configure TLS")]
    Tls(#[from] tls::TlsError),
}

fn identity(error: CallError) -> EnrolError {
    match error {
        CallError::Refused(refusal) => EnrolError::Refused(refusal),
        other => EnrolError::Identity(other),
    }
}

/// Joins. On success `identityd` has the certificate in force.
pub async fn join(config: &Config, token: JoinToken, identityd: &Client) -> Result<Verdict, EnrolError> {
    let clock = Clock::new();
    settle_the_time(config, identityd, &clock).await;
    run(config, Some(token), identityd, &clock).await
}

/// Renews. On success `identityd` has the new certificate in force.
pub(crate) async fn renew(config: &Config, identityd: &Client, clock: &Clock) -> Result<Verdict, EnrolError> {
    run(config, None, identityd, clock).await
}

async fn run(
    config: &Config,
    token: Option<JoinToken>,
    identityd: &Client,
    clock: &Clock,
) -> Result<Verdict, EnrolError> {
    let http = fleet(config, clock)?;
    let keys = identityd.call(questions::EnrolKeys).await.map_err(identity)?;
    match exchange(config, token, identityd, &http, keys).await {
        Err(EnrolError::Refused(refusal)) => {
            if refusal.reason.code().starts_with("attest.") {
                let told = identityd.call(questions::EnrolRefused(refusal.clone())).await;
                if let Err(error) = told {
                    tracing::warn!(%error, "identityd was not told that the fleet refused");
                }
            }
            Err(EnrolError::Refused(refusal))
        }
        other => other,
    }
}

/// A machine that joins may have no right time yet: the fleet's does, until then.
async fn settle_the_time(config: &Config, identityd: &Client, clock: &Clock) {
    let Some(fleet) = &config.fleet else { return };
    let Ok(root) = root(fleet) else { return };
    if let Ok(offset_millis) = witness::ask(&fleet.url, &root, &config.gateway.trust_domain).await {
        // What it thinks of it comes with its next word.
        drop(identityd.call(questions::TimeHeard { offset_millis }).await);
    }
    if let Ok(snapshot) = identityd.call(questions::Watch { seen: 0 }).await {
        clock.tell(snapshot.time.offset_millis);
    }
}

/// The pinned root.
pub(crate) fn root(fleet: &Fleet) -> Result<CertificateDer<'static>, EnrolError> {
    CertificateDer::from_pem_file(&fleet.root)
        .map_err(|error| EnrolError::Root(format!("`{}`: {error}", fleet.root.display())))
}

/// A client that knows nothing but the fleet's root.
fn fleet(config: &Config, clock: &Clock) -> Result<Http, EnrolError> {
    let fleet = config.fleet.as_ref().ok_or(EnrolError::NoFleet)?;
    let domain = &config.gateway.trust_domain;
    let root = root(fleet)?;
    let tls = tls::pinned_client_config(&root, domain, tls::only(tls::fleet_id(domain)))?;
    Http::new(&fleet.url, clock.judges(tls)).map_err(EnrolError::Fleet)
}

async fn exchange(
    config: &Config,
    token: Option<JoinToken>,
    identityd: &Client,
    http: &Http,
    keys: DeviceKeys,
) -> Result<Verdict, EnrolError> {
    let begin = Begin {
        gateway: config.gateway.name.clone(),
        trust_domain: config.gateway.trust_domain.clone(),
        token,
        labels: config.gateway.labels.clone(),
        keys,
    };
    let challenge: Challenge =
        http.post_json("/v1/enrol/begin", &begin, REPLY_BYTES_MAX, DEADLINE).await.map_err(answered)?;
    let session = challenge.session.clone();
    // A refusal from here to the next request is `identityd`'s own: the gateway cannot prove itself.
    let proof = identityd.call(questions::EnrolProve(challenge)).await.map_err(identity)?;
    let finish = Finish { session, proof };
    let enrolled: Enrolled =
        http.post_json("/v1/enrol/finish", &finish, REPLY_BYTES_MAX, DEADLINE).await.map_err(answered)?;
    let verdict = enrolled.verdict.clone();
    identityd.call(questions::EnrolAccept(Box::new(enrolled))).await.map_err(identity)?;
    Ok(verdict)
}

fn answered(error: HttpError) -> EnrolError {
    match error {
        HttpError::Refused(refusal) => EnrolError::Refused(refusal),
        other => EnrolError::Fleet(other),
    }
}
