//! Who we are and whom we trust, as of now.

use std::path::PathBuf;

use edgewarden_names::{SpiffeId, UnixTime};
use edgewarden_workload_api::source::Current;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The source has ended: no certificate will come.
    #[error("the identity has ended")]
    Ended,
}

/// A certificate with its key, and the roots of its trust domain, followed as they rotate. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Identity {
    current: Current,
}

impl Identity {
    /// Follows the Workload API socket. Keeps the last identity while the socket is away. Needs a tokio runtime.
    pub fn follow(socket: PathBuf) -> Self {
        Self::new(edgewarden_workload_api::client::follow(socket))
    }

    /// Follows what somebody else provides.
    pub fn new(current: Current) -> Self {
        Self { current }
    }

    /// Returns once there is a certificate.
    pub async fn ready(&self) -> Result<(), IdentityError> {
        self.current.clone().wait_for(Option::is_some).await.map(drop).map_err(|_| IdentityError::Ended)
    }

    /// Who we are. `None` before [`Identity::ready`].
    pub fn id(&self) -> Option<SpiffeId> {
        self.current.borrow().as_ref().map(|context| context.id.clone())
    }

    /// When the current certificate ends.
    pub fn expires(&self) -> Option<UnixTime> {
        None
    }

    /// Returns when the certificate is another one than when this was called.
    pub async fn rotated(&self) -> Result<(), IdentityError> {
        self.current.clone().changed().await.map_err(|_| IdentityError::Ended)
    }
}
