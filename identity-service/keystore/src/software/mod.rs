//! Keys in one encrypted file: for gateways without a TPM, and for trying things out. `hardware: none` wherever it
//! is shown.
//!
//! Whoever reads file and passphrase has the keys, and whoever restores an old copy of the file brings its sealed
//! values back. While the store is open the keys are in this process's memory. Trusts the state folder's owner.

mod file;
mod passphrase;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{CaSigner, SignError, certificate_request};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof, binding};
use zeroize::Zeroizing;

use self::file::{KeyFile, Values, key_file};
pub use self::passphrase::change as change_passphrase;
use crate::contract::{Description, Health, KeyAttestation, Keystore, Quote, RESIDENT_KEYS_MAX};
use crate::error::KeystoreError;
use crate::secret_file::{self, SecretFile};

const DEVICE_KEY: &str = "device-key";
const GATEWAY_CA: &str = "gateway-ca-key";
const AGREEMENT: &str = "agreement-key";
/// Before the names of sealed values, so that they never meet a key's.
const SEALED: &str = "sealed/";
/// Before the names of resident keys.
const RESIDENT: &str = "resident/";

pub(crate) struct Software {
    device: EcdsaKeyPair,
    gateway_ca: EcdsaKeyPair,
    agreement: PrivateKey,
    values: Mutex<(KeyFile, Values)>,
}

impl Software {
    /// Opens the store, or makes it with new keys when the folder holds none.
    pub(crate) fn open(passphrase_file: &Path, state: &Path) -> Result<Self, KeystoreError> {
        let passphrase = SecretFile::open(passphrase_file, secret_file::PASSPHRASE)?.read()?;
        let path = key_file(state);
        let (file, found) = KeyFile::open(&path, &passphrase)?;
        let is_new = found.is_none();
        let mut values = found.unwrap_or_default();
        if is_new {
            for name in [DEVICE_KEY, GATEWAY_CA] {
                values.insert(name.to_owned(), generate()?);
            }
        }
        // Files of the first releases have none. Nobody can take it out of a file: the whole is authenticated.
        if !values.contains_key(AGREEMENT) {
            values.insert(AGREEMENT.to_owned(), generate_agreement()?);
            file.write(&values)?;
        }
        let key = |name: &str| {
            let corrupted =
                || KeystoreError::Corrupted { path: path.clone(), found: "a key missing or malformed" };
            let pkcs8 = values.get(name).ok_or_else(corrupted)?;
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| corrupted())
        };
        let (device, gateway_ca) = (key(DEVICE_KEY)?, key(GATEWAY_CA)?);
        let agreement = values
            .get(AGREEMENT)
            .and_then(|number| PrivateKey::from_private_key(&ECDH_P256, number).ok())
            .ok_or_else(|| KeystoreError::Corrupted { path, found: "a key missing or malformed" })?;
        Ok(Self { device, gateway_ca, agreement, values: Mutex::new((file, values)) })
    }

    /// The values are changed only after the file was written, in one step, so they are whole after a panic too.
    fn values(&self) -> MutexGuard<'_, (KeyFile, Values)> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Values) -> Result<(), KeystoreError>,
    ) -> Result<(), KeystoreError> {
        let mut guard = self.values();
        let (file, values) = &mut *guard;
        let mut next = values.clone();
        change(&mut next)?;
        file.write(&next)?;
        *values = next;
        Ok(())
    }

    fn resident(&self, name: &str) -> Result<EcdsaKeyPair, KeystoreError> {
        let guard = self.values();
        let pkcs8 = guard.1.get(&format!("{RESIDENT}{name}"));
        let pkcs8 = pkcs8.ok_or_else(|| KeystoreError::NoKey(name.to_owned()))?;
        resident(pkcs8).ok_or(KeystoreError::Answer("a resident key in the key file is malformed"))
    }
}

fn generate() -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = |_| KeystoreError::Answer("the random number generator failed");
    let document = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|key| key.to_pkcs8v1())
        .map_err(failed)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

/// The private number, 32 bytes.
fn generate_agreement() -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = |_| KeystoreError::Answer("the random number generator failed");
    let key = PrivateKey::generate(&ECDH_P256).map_err(failed)?;
    let number: EcPrivateKeyBin<'_> = key.as_be_bytes().map_err(failed)?;
    Ok(Zeroizing::new(number.as_ref().to_vec()))
}

fn resident(pkcs8: &[u8]) -> Option<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).ok()
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
        self.change(|values| {
            values.insert(format!("{SEALED}{name}"), Zeroizing::new(secret.to_vec()));
            Ok(())
        })
    }

    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let guard = self.values();
        guard
            .1
            .get(&format!("{SEALED}{name}"))
            .cloned()
            .ok_or_else(|| KeystoreError::NotSealed(name.to_owned()))
    }

    fn forget(&self, name: &str) -> Result<(), KeystoreError> {
        self.change(|values| {
            values.remove(&format!("{SEALED}{name}"));
            Ok(())
        })
    }

    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let pkcs8 = generate()?;
        let point = resident(&pkcs8)
            .ok_or(KeystoreError::Answer("the new key is malformed"))?
            .public_key()
            .as_ref()
            .to_vec();
        self.change(|values| {
            let label = format!("{RESIDENT}{name}");
            if values.contains_key(&label) {
                return Err(KeystoreError::KeyExists(name.to_owned()));
            }
            if values.keys().filter(|label| label.starts_with(RESIDENT)).count() >= RESIDENT_KEYS_MAX {
                return Err(KeystoreError::TooManyKeys { max: RESIDENT_KEYS_MAX });
            }
            values.insert(label, pkcs8);
            Ok(())
        })?;
        Ok(point)
    }

    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        Ok(self.resident(name)?.public_key().as_ref().to_vec())
    }

    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        sign(&self.resident(name)?, message)
    }

    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "prove where a key is"))
    }

    fn delete_key(&self, name: &str) -> Result<(), KeystoreError> {
        let label = format!("{RESIDENT}{name}");
        if !self.values().1.contains_key(&label) {
            return Ok(());
        }
        self.change(|values| {
            values.remove(&label);
            Ok(())
        })
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        let public = self.agreement.compute_public_key();
        public.map(|point| point.as_ref().to_vec()).map_err(|_| KeystoreError::Answer("the key has no point"))
    }

    fn agree(&self, peer_point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let peer = UnparsedPublicKey::new(&ECDH_P256, peer_point);
        let refused = KeystoreError::Request("the peer's key is not a P-256 point");
        agreement::agree(&self.agreement, peer, refused, |shared| Ok(Zeroizing::new(shared.to_vec())))
    }

    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(KeystoreError::Unsupported("a software", "extend PCRs, for it has none"))
    }
}
