//! The deployment in force.

use edgewarden_names::{Digest, Epoch};
use serde::{Deserialize, Serialize};

use crate::deployment::{Deployment, Module};

/// The deployment in force, with its envelope's digest and signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentInForce {
    pub deployment: Deployment,
    /// SHA-256 of the envelope.
    pub envelope: Digest,
    pub signed_by: String,
    pub epoch: Epoch,
    /// Modules as they were before an update that has not proven itself: what may run until it has, and again when it
    /// fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Module>,
}
