//! The connection to a socket, and what goes wrong with it.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_names::{SpiffeId, SpiffeIdError};
use edgewarden_svid::der;
use edgewarden_svid::jwt::JwksError;
use edgewarden_workload_wire::SECURITY_HEADER;
use edgewarden_workload_wire::workloadapi::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Largest message that is read.
pub(crate) const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Time that a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(100);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Error of a socket that gave nothing that can be used.
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

pub(crate) async fn client(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, FetchError> {
    let channel = connect(socket).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
}

/// A request with the security header.
pub(crate) fn secured<T>(message: T) -> Request<T> {
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

/// `pause`, less up to a half of it, so that not all who lost the same server come back in the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_be_bytes();
    let random = u32::from_be_bytes([a, b, c, d]);
    let less = (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
    pause.saturating_sub(less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_shortened_by_no_more_than_a_half() {
        for _ in 0..1000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX);
        }
    }
}
