//! The trust bundles that a socket gives, by trust domain: X.509 roots, and JWT keys as the JWK Sets that they came in.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{ErrorChain, SpiffeId, TrustDomain};
use edgewarden_svid::der;
use edgewarden_workload_wire::workloadapi::{JwtBundlesRequest, JwtBundlesResponse, X509BundlesRequest};
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::codec::Streaming;

use crate::socket::{FetchError, PAUSE_MAX, PAUSE_MIN, client, jittered, secured};

/// Most trust domains in one answer.
const DOMAINS_MAX: usize = 256;

/// X.509 roots, DER.
pub type Roots = BTreeMap<TrustDomain, Vec<Vec<u8>>>;
/// JWK Sets (RFC 7517 section 5), as they came.
pub type JwkSets = BTreeMap<TrustDomain, Bytes>;

/// The X.509 bundles of a socket, once.
pub async fn fetch_roots(socket: &Path) -> Result<Roots, FetchError> {
    let mut client = client(socket).await?;
    let mut updates = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await?.into_inner();
    let message = updates.message().await?.ok_or(FetchError::Ended)?;
    let domains = by_domain(message.bundles)?.into_iter();
    domains.map(|(domain, der)| Ok((domain, der::split(&der)?))).collect()
}

/// The JWT bundles of a socket, once.
pub async fn fetch_jwk_sets(socket: &Path) -> Result<JwkSets, FetchError> {
    next(&mut open(socket).await?).await
}

/// Follows the JWT bundles of a socket for as long as somebody holds the receiver. Needs a tokio runtime.
///
/// Holds `None` until the first; then the last good ones, also while the socket is away.
pub fn follow_jwk_sets(socket: PathBuf) -> watch::Receiver<Option<Arc<JwkSets>>> {
    let (latest, current) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = latest.closed() => {}
            () = keep_following(&socket, &latest) => {}
        }
    });
    current
}

async fn keep_following(socket: &Path, latest: &watch::Sender<Option<Arc<JwkSets>>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let error = match follow_stream(socket, latest, &mut pause).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        tracing::warn!(socket = %socket.display(), error = %ErrorChain(&error), "no stream of JWT bundles; trying again");
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns only when the stream is over.
async fn follow_stream(
    socket: &Path,
    latest: &watch::Sender<Option<Arc<JwkSets>>>,
    pause: &mut Duration,
) -> Result<Infallible, FetchError> {
    let mut updates = open(socket).await?;
    loop {
        let sets = next(&mut updates).await?;
        *pause = PAUSE_MIN;
        latest.send_replace(Some(Arc::new(sets)));
    }
}

async fn open(socket: &Path) -> Result<Streaming<JwtBundlesResponse>, FetchError> {
    let mut client = client(socket).await?;
    Ok(client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await?.into_inner())
}

async fn next(updates: &mut Streaming<JwtBundlesResponse>) -> Result<JwkSets, FetchError> {
    by_domain(updates.message().await?.ok_or(FetchError::Ended)?.bundles)
}

/// Keys of the map are the trust domains' own SPIFFE IDs (SPIFFE Workload API section 5.2.2).
fn by_domain(
    bundles: impl IntoIterator<Item = (String, Bytes), IntoIter: ExactSizeIterator>,
) -> Result<BTreeMap<TrustDomain, Bytes>, FetchError> {
    let bundles = bundles.into_iter();
    if bundles.len() > DOMAINS_MAX {
        return Err(FetchError::TooMany);
    }
    bundles
        .map(|(id, bundle)| {
            let id = SpiffeId::parse(&id)?;
            if id.path().is_empty() {
                Ok((id.trust_domain(), bundle))
            } else {
                Err(FetchError::NoTrustDomain(id))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_of_trust_domains() {
        let of = |id: &str| by_domain([(id.to_owned(), Bytes::from_static(b"x"))]);
        assert_eq!(
            of("spiffe://plant.example").unwrap().first_key_value().unwrap().0.as_str(),
            "plant.example"
        );
        for bad in ["", "plant.example", "https://plant.example", "spiffe://plant.example/gateway/gw-1"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..=DOMAINS_MAX).map(|n| (format!("spiffe://d{n}"), Bytes::new())).collect();
        assert!(matches!(by_domain(many), Err(FetchError::TooMany)));
    }
}
