//! Keys in one encrypted file. `hardware: none`.
use crate::{Description, Health, Keystore, KeystoreError, Quote};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use std::path::Path;
use zeroize::Zeroizing;

pub(crate) struct Software;
const NOT_YET: KeystoreError = KeystoreError::Unsupported("a software", "do this yet");
impl Software {
    pub(crate) fn open(_passphrase_file: &Path, _state: &Path) -> Result<Self, KeystoreError> {
        Err(NOT_YET)
    }
}
impl Keystore for Software {
    fn describe(&self) -> Description {
        Description { text: "software (hardware: none)".into(), hardware: false, dangerous: false }
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
