//! Follows the identity of one Workload API socket; [`bundles`] and the JWT functions ask it for the rest.
//!
//! Trusts whoever serves the socket with what it says, but not with how much: messages are bounded and parsed whole.

pub mod bundles;
mod jwt;

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{SpiffeId, SpiffeIdError};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::codec::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use zeroize::Zeroizing;

pub use self::jwt::{fetch_jwt_bundles, fetch_jwt_svid, fetch_jwt_svid_of, validate_jwt_svid};
use crate::SECURITY_HEADER;
use crate::der;
use crate::jwt::JwksError;
use crate::source::{Current, X509Context};
use crate::workloadapi::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::workloadapi::{X509svidRequest, X509svidResponse};

/// Largest message that is read.
pub(crate) const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Try again later.
    #[error("cannot connect to the Workload API at `{}`", socket.display())]
    Connect { socket: PathBuf, source: tonic::transport::Error },
    #[error("the Workload API answered: {}", .0.message())]
    Refused(#[source] Box<Status>),
    #[error("the Workload API ended the stream")]
    Ended,
    #[error("the Workload API gave no identity")]
    Empty,
    #[error("the Workload API gave an invalid SPIFFE ID")]
    Id(#[from] SpiffeIdError),
    #[error("the Workload API gave certificates that cannot be read")]
    Certificates(#[from] der::SplitError),
    #[error("the Workload API gave keys that cannot be read")]
    Keys(#[from] JwksError),
    #[error("the Workload API gave a bundle for `{0}`, which is no trust domain")]
    NoTrustDomain(SpiffeId),
    #[error("the Workload API gave more trust domains than can be read")]
    TooMany,
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

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
        tracing::warn!(socket = %socket.display(), error = %chain(&error), "no identity stream; trying again");
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

/// `pause`, less up to a half of it, so that not all who lost the same server come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(u32::MAX);
    let less = (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
    pause.saturating_sub(less)
}

async fn open(socket: &Path) -> Result<Streaming<X509svidResponse>, FetchError> {
    let mut client = client(socket).await?;
    Ok(client.fetch_x509svid(secured(X509svidRequest {})).await?.into_inner())
}

async fn client(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, FetchError> {
    let channel = connect(socket).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
}

/// A request with the security header.
fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

pub(crate) fn connect(socket: &Path) -> impl Future<Output = Result<Channel, FetchError>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let socket = socket.to_owned();
    // The address only fills HTTP's `:authority`; the connector decides where the connection goes.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_MAX);
    async move {
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|source| FetchError::Connect { socket, source })
    }
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

fn chain(error: &FetchError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloadapi::X509svid;

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

    #[test]
    fn a_pause_is_shortened_by_no_more_than_a_half() {
        for _ in 0..1000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
