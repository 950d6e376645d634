//! The X.509 identity of one socket, once or for as long as it rotates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{ErrorChain, SpiffeId};
use edgewarden_svid::{X509Context, der};
use edgewarden_workload_wire::workloadapi::{X509svidRequest, X509svidResponse};
use tokio::sync::watch;
use tonic::codec::Streaming;
use zeroize::Zeroizing;

use crate::socket::{FetchError, PAUSE_MAX, PAUSE_MIN, client, jittered, secured};

/// The latest identity of a socket. `None` until the first.
pub type Current = watch::Receiver<Option<Arc<X509Context>>>;

/// The identity of a socket, once.
pub async fn fetch_once(socket: &Path) -> Result<Arc<X509Context>, FetchError> {
    let mut updates = open(socket).await?;
    next(&mut updates).await
}

/// Follows the identity of a socket for as long as somebody holds the receiver. Needs a tokio runtime.
///
/// Holds `None` until the first identity; then the last good one, also while the socket is away. Whether it is still
/// valid is for its user to judge by its end.
pub fn follow(socket: PathBuf) -> Current {
    let (latest, current) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = latest.closed() => {}
            () = keep_following(&socket, &latest) => {}
        }
    });
    current
}

async fn keep_following(socket: &Path, latest: &watch::Sender<Option<Arc<X509Context>>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let error = match follow_stream(socket, latest, &mut pause).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        tracing::warn!(socket = %socket.display(), error = %ErrorChain(&error), "no identity stream; trying again");
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns only when the stream is over.
async fn follow_stream(
    socket: &Path,
    latest: &watch::Sender<Option<Arc<X509Context>>>,
    pause: &mut Duration,
) -> Result<std::convert::Infallible, FetchError> {
    let mut updates = open(socket).await?;
    loop {
        let context = next(&mut updates).await?;
        *pause = PAUSE_MIN;
        latest.send_replace(Some(context));
    }
}

async fn open(socket: &Path) -> Result<Streaming<X509svidResponse>, FetchError> {
    let mut client = client(socket).await?;
    Ok(client.fetch_x509svid(secured(X509svidRequest {})).await?.into_inner())
}

async fn next(updates: &mut Streaming<X509svidResponse>) -> Result<Arc<X509Context>, FetchError> {
    let message = updates.message().await?.ok_or(FetchError::Ended)?;
    parse(message).map(Arc::new)
}

fn parse(message: X509svidResponse) -> Result<X509Context, FetchError> {
    // The first one is the default identity.
    let svid = message.svids.into_iter().next().ok_or(FetchError::Empty)?;
    let id = SpiffeId::parse(&svid.spiffe_id)?;
    let chain_der = der::split(&svid.x509_svid)?;
    let bundle_der = der::split(&svid.bundle)?;
    if chain_der.is_empty() || bundle_der.is_empty() || svid.x509_svid_key.is_empty() {
        return Err(FetchError::Empty);
    }
    let trust_domain = id.trust_domain();
    let key_pkcs8 = Zeroizing::new(svid.x509_svid_key.to_vec());
    Ok(X509Context { id, chain_der, key_pkcs8, bundle_der, trust_domain })
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_workload_wire::workloadapi::X509svid;

    #[test]
    fn an_answer_is_whole_or_refused() {
        let certificate = vec![0x30, 1, 7];
        let good = X509svid {
            spiffe_id: "spiffe://plant.example/gateway/gw-1/module/analytics".into(),
            x509_svid: certificate.repeat(2).into(),
            x509_svid_key: vec![1, 2, 3].into(),
            bundle: certificate.clone().into(),
            hint: String::new(),
        };
        let answer = |svids: Vec<X509svid>| parse(X509svidResponse { svids, ..X509svidResponse::default() });
        let context = answer(vec![good.clone(), X509svid::default()]).unwrap();
        assert_eq!(context.chain_der, vec![certificate.clone(); 2]);
        assert_eq!(context.bundle_der, vec![certificate]);
        assert_eq!(context.trust_domain.as_str(), "plant.example");
        assert!(!format!("{context:?}").contains("key"));

        let change = |change: fn(&mut X509svid)| {
            let mut svid = good.clone();
            change(&mut svid);
            vec![svid]
        };
        for (name, svids) in [
            ("no identity", vec![]),
            ("an empty identity", vec![X509svid::default()]),
            ("the default identity is bad", vec![X509svid::default(), good.clone()]),
            ("no SPIFFE ID", change(|svid| svid.spiffe_id = "https://plant.example".into())),
            ("no certificates", change(|svid| svid.x509_svid.clear())),
            ("no key", change(|svid| svid.x509_svid_key.clear())),
            ("no bundle", change(|svid| svid.bundle.clear())),
            ("certificates with more", change(|svid| svid.x509_svid = vec![0x30, 1, 7, 0].into())),
            ("a bundle that is cut off", change(|svid| svid.bundle = vec![0x30, 2, 7].into())),
            ("an endless chain", change(|svid| svid.x509_svid = [0x30, 0].repeat(65).into())),
        ] {
            assert!(answer(svids).is_err(), "{name}");
        }
    }
}
