//! The deployment secrets behind one socket: what its owner provides, and the messages on the wire.
//!
//! `src/secrets_v1.rs` is generated from `proto/secrets.proto` as `src/workloadapi.rs` is, with `skip_debug` for the
//! messages that hold values, and kept in the tree.

use std::fmt;

use edgewarden_names::{Refusal, SecretName};
use tokio::sync::watch;
use zeroize::Zeroizing;

#[allow(clippy::all, clippy::pedantic, unused_qualifications, missing_debug_implementations, reason = "generated")]
#[rustfmt::skip]
#[path = "secrets_v1.rs"]
pub(crate) mod wire;

#[path = "secrets_client.rs"]
pub mod client;

impl fmt::Debug for wire::Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::WatchResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchResponse").field("secrets", &self.secrets).finish()
    }
}

/// One secret with its value.
pub struct Secret {
    pub name: SecretName,
    pub version: u64,
    pub value: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// All secrets of an instance.
#[derive(Debug)]
pub struct Secrets {
    /// Names these versions.
    pub revision: String,
    pub secrets: Vec<Secret>,
}

/// The owner of one socket's secrets. Whether the caller may have them was asked of
/// [`crate::IdentitySource::authorize`] just before.
pub trait SecretSource: Send + Sync + 'static {
    /// Blocks on the keystore.
    fn get(&self, name: &SecretName) -> Result<Secret, Refusal>;

    /// Blocks on the keystore.
    fn all(&self) -> Result<Secrets, Refusal>;

    /// What [`Secrets::revision`] would be now. Returns at once.
    fn revision(&self) -> Result<String, Refusal>;

    /// Changes when a revision may be another one.
    fn changes(&self) -> Result<watch::Receiver<u64>, Refusal>;
}
