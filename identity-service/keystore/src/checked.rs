//! The facade before every store: what goes in is within bounds, what comes out is what was asked for.
//!
//! A store is trusted to keep keys, not to answer right: a TPM's bus can be tampered with, and a bug here would
//! show as a certificate that no peer accepts. So each signature is verified before it is given on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_ca::spki;
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, EVENT_LOG_BYTES_MAX, Proof};
use zeroize::Zeroizing;

use crate::contract::{
    Description, Health, KeyAttestation, Keystore, NONCE_BYTES_MAX, Quote, RESIDENT_KEYS_MAX,
    SECRET_BYTES_MAX,
};
use crate::error::KeystoreError;
use crate::{certified, name};

/// Shortest nonce of a quote: less can be guessed or met twice.
const NONCE_BYTES_MIN: usize = 16;
/// PCRs of a TPM 2.0 (PC Client Platform TPM Profile).
const PCRS_MAX: usize = 24;
/// Longest message that is signed: a certificate's to-be-signed part is a fraction of it.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Longest credential blob: RSA-4096's secret and a digest.
const CREDENTIAL_BYTES_MAX: usize = 1024;

pub(crate) struct Checked<K> {
    store: K,
    ca_public: OnceLock<Vec<u8>>,
    /// Public points of resident keys, so that a signature is verified without asking the device again.
    resident: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl<K: Keystore> Checked<K> {
    pub(crate) fn new(store: K) -> Self {
        Self { store, ca_public: OnceLock::new(), resident: Mutex::default() }
    }

    /// The public halves of resident keys that are known. Only ever a hint.
    fn resident(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.resident.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a resident key's point and remembers it.
    fn resident_point(&self, name: &str, point: Vec<u8>) -> Result<Vec<u8>, KeystoreError> {
        let point = checked_point(point)?;
        let mut resident = self.resident();
        if resident.len() < RESIDENT_KEYS_MAX || resident.contains_key(name) {
            resident.insert(name.to_owned(), point.clone());
        }
        Ok(point)
    }
}

fn check_pcrs(pcrs: &[u8]) -> Result<(), KeystoreError> {
    let ascending = pcrs.windows(2).all(|pair| matches!(pair, [low, high] if low < high));
    if pcrs.is_empty() || !ascending || pcrs.iter().any(|&pcr| usize::from(pcr) >= PCRS_MAX) {
        return Err(KeystoreError::Request("PCRs are given ascending, each once, from 0 to 23"));
    }
    Ok(())
}

fn check_nonce(nonce: &[u8]) -> Result<(), KeystoreError> {
    if (NONCE_BYTES_MIN..=NONCE_BYTES_MAX).contains(&nonce.len()) {
        Ok(())
    } else {
        Err(KeystoreError::Request("a nonce has 16 to 32 bytes"))
    }
}

fn check_message(message: &[u8]) -> Result<(), KeystoreError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(KeystoreError::Request("the message to sign is too long"));
    }
    Ok(())
}

fn verify(point: &[u8], message: &[u8], signature: &[u8]) -> Result<(), KeystoreError> {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .map_err(|_| KeystoreError::Answer("the key is not a P-256 point"))?
        .verify_sig(message, signature)
        .map_err(|_| KeystoreError::Answer("the signature is not by the key it should be by"))
}

impl<K: Keystore> Keystore for Checked<K> {
    fn describe(&self) -> Description {
        self.store.describe()
    }

    fn health(&self) -> Result<Health, KeystoreError> {
        self.store.health()
    }

    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        let keys = self.store.device_keys()?;
        if let DeviceKeys::None { device_public } = &keys {
            spki::check_point(device_public.as_slice())
                .map_err(|_| KeystoreError::Answer("the device's key is not a P-256 point"))?;
        }
        Ok(keys)
    }

    fn prove(
        &self,
        challenge: &Challenge,
        gateway: &GatewayName,
        domain: &TrustDomain,
        event_log: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        if challenge.nonce.as_slice().len() != NONCE_BYTES_MAX {
            return Err(KeystoreError::Request("the challenge's nonce has not 32 bytes"));
        }
        if let Some(credential) = &challenge.credential {
            let longest =
                credential.id_object.as_slice().len().max(credential.encrypted_secret.as_slice().len());
            if longest > CREDENTIAL_BYTES_MAX {
                return Err(KeystoreError::Request("the challenge's credential is too long"));
            }
            check_pcrs(&challenge.pcrs)?;
        }
        if event_log.len() > EVENT_LOG_BYTES_MAX {
            return Err(KeystoreError::Request("the event log is too long"));
        }
        let proof = self.store.prove(challenge, gateway, domain, event_log)?;
        check_csr(&proof, &self.ca_public()?)?;
        Ok(proof)
    }

    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        if let Some(point) = self.ca_public.get() {
            return Ok(point.clone());
        }
        let point = self.store.ca_public()?;
        spki::check_point(&point)
            .map_err(|_| KeystoreError::Answer("the gateway CA's key is not a P-256 point"))?;
        Ok(self.ca_public.get_or_init(|| point).clone())
    }

    fn ca_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        check_message(message)?;
        let signature = self.store.ca_sign(message)?;
        verify(&self.ca_public()?, message, &signature)?;
        Ok(signature)
    }

    fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, KeystoreError> {
        check_nonce(nonce)?;
        check_pcrs(pcrs)?;
        let quote = self.store.quote(nonce, pcrs)?;
        if quote.pcrs.iter().map(|(pcr, _)| *pcr).ne(pcrs.iter().copied()) {
            return Err(KeystoreError::Answer("other PCRs were quoted than were asked for"));
        }
        Ok(quote)
    }

    fn device_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        check_message(message)?;
        self.store.device_sign(message)
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError> {
        name::check(name)?;
        if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
            return Err(KeystoreError::Request("a sealed value has 1 to 128 bytes"));
        }
        self.store.seal(name, secret)
    }

    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        name::check(name)?;
        self.store.unseal(name)
    }

    fn forget(&self, name: &str) -> Result<(), KeystoreError> {
        name::check(name)?;
        self.store.forget(name)
    }

    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        name::check(name)?;
        self.store.create_key(name).and_then(|point| self.resident_point(name, point))
    }

    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        name::check(name)?;
        self.store.key_public(name).and_then(|point| self.resident_point(name, point))
    }

    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        name::check(name)?;
        check_message(message)?;
        let signature = self.store.key_sign(name, message)?;
        let remembered = self.resident().get(name).cloned();
        // What is remembered may be of a key that was deleted and made anew by another caller.
        if remembered.is_none_or(|point| verify(&point, message, &signature).is_err()) {
            verify(&self.key_public(name)?, message, &signature)?;
        }
        Ok(signature)
    }

    fn key_certify(&self, name: &str, nonce: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        name::check(name)?;
        check_nonce(nonce)?;
        let proof = self.store.key_certify(name, nonce)?;
        certified::check(&proof, &self.key_public(name)?, nonce)?;
        Ok(proof)
    }

    fn delete_key(&self, name: &str) -> Result<(), KeystoreError> {
        name::check(name)?;
        self.resident().remove(name);
        self.store.delete_key(name)
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        self.store.agreement_public().and_then(checked_point)
    }

    fn agree(&self, peer_point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        spki::check_point(peer_point)
            .map_err(|_| KeystoreError::Request("the peer's key is not a P-256 point"))?;
        let shared = self.store.agree(peer_point)?;
        if shared.len() != 32 {
            return Err(KeystoreError::Answer("the shared secret has not 32 bytes"));
        }
        Ok(shared)
    }

    fn pcr_extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        check_pcrs(&[pcr])?;
        self.store.pcr_extend(pcr, digest)
    }
}

fn checked_point(point: Vec<u8>) -> Result<Vec<u8>, KeystoreError> {
    spki::check_point(&point).map_err(|_| KeystoreError::Answer("the key is not a P-256 point"))?;
    Ok(point)
}

/// The request in a proof is for the gateway CA's key and signed by it.
fn check_csr(proof: &Proof, ca_public: &[u8]) -> Result<(), KeystoreError> {
    let csr = match proof {
        Proof::Tpm(tpm) => &tpm.csr,
        Proof::None { csr, .. } => csr,
    };
    let point = edgewarden_ca::public_point(csr.as_slice())
        .map_err(|_| KeystoreError::Answer("the certificate request does not verify"))?;
    if point == ca_public {
        Ok(())
    } else {
        Err(KeystoreError::Answer("the certificate request is for another key"))
    }
}
