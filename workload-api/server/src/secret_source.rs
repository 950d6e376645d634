//! The trait behind the deployment secrets of one socket.

use edgewarden_names::{Refusal, SecretName};
use edgewarden_workload_wire::secrets::{Secret, Secrets};
use tokio::sync::watch;

/// The owner of one socket's secrets. Whether the caller may have them was asked of
/// [`crate::IdentitySource::authorize`] just before.
pub trait SecretSource: Send + Sync + 'static {
    /// Blocks on the keystore.
    fn get(&self, name: &SecretName) -> Result<Secret, Refusal>;

    /// Blocks on the keystore.
    fn all(&self) -> Result<Secrets, Refusal>;

    /// The [`Secrets::revision`] that `all` would give now. Returns at once.
    fn revision(&self) -> Result<String, Refusal>;

    /// Changes when a revision may be another one.
    fn changes(&self) -> Result<watch::Receiver<u64>, Refusal>;
}
