//! The process at the other end of a connection, as the kernel names it.

use edgewarden_platform::peer::PeerEvidence;
use tokio::net::UnixStream;

/// The process that made the connection. `None` when the kernel could not tell: then every call is refused.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Option<PeerEvidence>);

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> Self {
        match PeerEvidence::of(stream) {
            Ok(peer) => Self(Some(peer)),
            Err(error) => {
                tracing::debug!(%error, "the caller of the Workload API cannot be identified");
                Self(None)
            }
        }
    }
}
