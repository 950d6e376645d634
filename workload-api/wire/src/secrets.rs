//! Deployment secrets as values.

use std::fmt;

use edgewarden_names::SecretName;
use zeroize::Zeroizing;

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
