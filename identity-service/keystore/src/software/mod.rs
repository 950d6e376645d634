//! Keys in one encrypted file: for gateways without a TPM, and for trying things out. `hardware: none` wherever it
//! is shown.
//!
//! Whoever reads file and passphrase has the keys, and whoever restores an old copy of the file brings its sealed
//! values back. While the store is open the keys are in this process's memory. Trusts the state folder's owner.

mod file;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{CaSigner, SignError, certificate_request};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof, binding};
use zeroize::Zeroizing;

use self::file::{KeyFile, Values};
use crate::secret_file::{self, SecretFile};
use crate::{Description, Health, KeyAttestation, Keystore, KeystoreError, Quote};

const DEVICE_KEY: &str = "device-key";
const GATEWAY_CA: &str = "gateway-ca-key";
/// Before the names of sealed values, so that they never meet a key's.
const SEALED: &str = "sealed/";

pub(crate) struct Software {
    device: EcdsaKeyPair,
    gateway_ca: EcdsaKeyPair,
    values: Mutex<(KeyFile, Values)>,
}

impl Software {
    /// Opens the store, or makes it with new keys when the folder holds none.
    pub(crate) fn open(passphrase_file: &Path, state: &Path) -> Result<Self, KeystoreError> {
        let passphrase = SecretFile::open(passphrase_file, secret_file::PASSPHRASE)?.read()?;
        let path = state.join("software-keys");
        let (file, found) = KeyFile::open(&path, &passphrase)?;
        let values = if let Some(values) = found {
            values
        } else {
            let mut values = Values::new();
            for name in [DEVICE_KEY, GATEWAY_CA] {
                values.insert(name.to_owned(), generate()?);
            }
            file.write(&values)?;
            values
        };
        let key = |name: &str| {
            let corrupted =
                || KeystoreError::Corrupted { path: path.clone(), found: "a key missing or malformed" };
            let pkcs8 = values.get(name).ok_or_else(corrupted)?;
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| corrupted())
        };
        let (device, gateway_ca) = (key(DEVICE_KEY)?, key(GATEWAY_CA)?);
        Ok(Self { device, gateway_ca, values: Mutex::new((file, values)) })
    }

    /// The values are changed only after the file was written, in one step, so they are whole after a panic too.
    fn values(&self) -> MutexGuard<'_, (KeyFile, Values)> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn generate() -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = |_| KeystoreError::Answer("the random number generator failed");
    let document = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|key| key.to_pkcs8v1())
        .map_err(failed)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
    key.sign(&SystemRandom::new(), message)
        .map(|signature| signature.as_ref().to_vec())
        .map_err(|_| KeystoreError::Answer("the key did not sign"))
}

/// The gateway CA's key, for making its certificate request.
struct LocalCa<'a>(&'a EcdsaKeyPair);

impl CaSigner for LocalCa<'_> {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.0.public_key().as_ref().to_vec())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        sign(self.0, message).map_err(SignError::new)
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
        Ok(DeviceKeys::None { device_public: self.device.public_key().as_ref().into() })
    }

    fn prove(
        &self,
        challenge: &Challenge,
        gateway: &GatewayName,
        domain: &TrustDomain,
        _: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        if challenge.credential.is_some() {
            return Err(KeystoreError::Request("the challenge is for a TPM, and this store is software"));
        }
        let csr = certificate_request(&LocalCa(&self.gateway_ca), gateway, domain)
            .map_err(|error| KeystoreError::Csr(Box::new(error)))?;
        let signature = sign(&self.device, &binding(challenge.nonce.as_slice(), &csr))?;
        Ok(Proof::None { csr: csr.into(), signature: signature.into() })
    }

    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Ok(self.gateway_ca.public_key().as_ref().to_vec())
    }

    fn ca_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        sign(&self.gateway_ca, message)
    }

    fn quote(&self, _: &[u8], _: &[u8]) -> Result<Quote, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "quote PCRs, for it has none"))
    }

    fn device_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        sign(&self.device, message)
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError> {
        let mut guard = self.values();
        let (file, values) = &mut *guard;
        let mut next = values.clone();
        next.insert(format!("{SEALED}{name}"), Zeroizing::new(secret.to_vec()));
        file.write(&next)?;
        *values = next;
        Ok(())
    }

    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let guard = self.values();
        guard
            .1
            .get(&format!("{SEALED}{name}"))
            .cloned()
            .ok_or_else(|| KeystoreError::NotSealed(name.to_owned()))
    }

    fn create_key(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "make resident keys"))
    }

    fn key_public(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "make resident keys"))
    }

    fn key_sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "make resident keys"))
    }

    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "make resident keys"))
    }

    fn delete_key(&self, _: &str) -> Result<(), KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "make resident keys"))
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "agree on a key"))
    }

    fn agree(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "agree on a key"))
    }

    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "extend PCRs"))
    }
}
