//! Keys in a TPM 2.0.
use crate::{Description, Health, Keystore, KeystoreError, Quote};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use std::path::Path;
use zeroize::Zeroizing;

pub(crate) struct Tpm;
const NOT_YET: KeystoreError = KeystoreError::Unsupported("a tpm", "do this yet");
impl Tpm {
    pub(crate) fn open(_transport: Transport, _state: &Path) -> Result<Self, KeystoreError> {
        Err(NOT_YET)
    }
}
impl Keystore for Tpm {
    fn describe(&self) -> Description {
        Description { text: "tpm".into(), hardware: false, dangerous: false }
    }
    fn health(&self) -> Result<Health, KeystoreError> {
        Ok(Health { description: self.describe(), lockout: None })
    }
    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        Err(NOT_YET)
    }
    fn prove(
        &self,
        _: &Challenge,
        _: &GatewayName,
        _: &TrustDomain,
        _: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        Err(NOT_YET)
    }
    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_YET)
    }
    fn ca_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_YET)
    }
    fn quote(&self, _: &[u8], _: &[u8]) -> Result<Quote, KeystoreError> {
        Err(NOT_YET)
    }
    fn device_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_YET)
    }
    fn seal(&self, _: &str, _: &[u8]) -> Result<(), KeystoreError> {
        Err(NOT_YET)
    }
    fn unseal(&self, _: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        Err(NOT_YET)
    }
}

/// How a TPM is reached.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    /// A character device such as `/dev/tpmrm0`.
    Device(std::path::PathBuf),
    /// swtpm's TCP transport: commands at this port, control at the next.
    Simulated(std::net::SocketAddr),
}

/// The TSS prints to standard error on its own unless this variable is set before the process starts.
pub const TSS_LOG_ENVIRONMENT: (&str, &str) = ("TSS2_LOG", "all+none");
