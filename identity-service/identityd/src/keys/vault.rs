//! The keys themselves: made, used and destroyed in the keystore, each under a label that only the index knows.
//!
//! A signing key never leaves the store. A data key is sealed in it and here while it is used: it is forgotten a minute
//! after its last use, and at once when the verdict fails. A secret lies encrypted in a file, under a key of its own that
//! is sealed in the store: the store takes small values only.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_keystore::{KeyAttestation, Keystore, KeystoreError};
use edgewarden_platform::durable;
use edgewarden_workload_wire::keys::DATA_BYTES_MAX;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::ciphertext::{Belonging, DataKey, OVERHEAD_BYTES};
use super::index::Kind;
use crate::metrics::{Metrics, Operation};

const FOLDER: &str = "resident-secrets";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const FILE_BYTES_MAX: usize = DATA_BYTES_MAX + OVERHEAD_BYTES;
/// A data key that was not used for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// Requests of all modules together that the store works on or has in its queue. Beyond it a module is told to come
/// again: the queue is everybody's, and certificates and attestation must find room in it. Fewer than the store's own
/// measure for resident keys, so that opening a deployment secret, which comes alone, finds a place there too.
pub(super) const WAITING_MAX: usize = 12;
/// Data keys held at a time; another is asked of the store for each use.
const OPEN_MAX: usize = 256;

/// Error of a key that was not made or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum VaultError {
    #[error("the keystore refused")]
    Keystore(#[from] KeystoreError),
    #[error("cannot use the file of a sealed secret")]
    File(#[from] io::Error),
    #[error(transparent)]
    Cipher(#[from] super::ciphertext::CipherError),
    #[error("what the keystore holds under the key's label is no data key")]
    NotADataKey,
    #[error("the file of a sealed secret has been changed or is another's")]
    Changed,
}

impl VaultError {
    /// The index knows the key, the store does not.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Keystore(KeystoreError::NoKey(_) | KeystoreError::NotSealed(_)) => true,
            Self::File(error) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

struct Opened {
    key: Arc<DataKey>,
    used: Duration,
}

pub(super) struct Vault {
    keystore: Arc<dyn Keystore>,
    metrics: Arc<Metrics>,
    folder: PathBuf,
    waiting: Semaphore,
    /// By generation.
    opened: Mutex<BTreeMap<u64, Opened>>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// Opens the folder of sealed secrets in `state`, or makes it.
    pub fn open(keystore: Arc<dyn Keystore>, metrics: Arc<Metrics>, state: &Path) -> io::Result<Self> {
        let folder = state.join(FOLDER);
        std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder)?;
        durable::sweep(&folder)?;
        Ok(Self { keystore, metrics, folder, waiting: Semaphore::new(WAITING_MAX), opened: Mutex::default() })
    }

    /// The folder of sealed secrets in `state`.
    pub fn folder(state: &Path) -> PathBuf {
        state.join(FOLDER)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<u64, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the store use a key. What destroys one does not wait for the chip, and is not to be put off.
    fn ask_chip<T>(
        &self,
        ask: impl FnOnce(&dyn Keystore) -> Result<T, KeystoreError>,
    ) -> Result<T, VaultError> {
        let _place = self.waiting.try_acquire().map_err(|_| KeystoreError::Busy { waiting: WAITING_MAX })?;
        self.ask(ask)
    }

    fn ask<T>(&self, ask: impl FnOnce(&dyn Keystore) -> Result<T, KeystoreError>) -> Result<T, VaultError> {
        Ok(self.metrics.keystore(Operation::ResidentKey, || ask(&*self.keystore))?)
    }

    fn file(&self, label: &str) -> PathBuf {
        self.folder.join(label)
    }

    /// Makes a signing key. Its public point.
    pub fn make_signing(&self, label: &str) -> Result<Vec<u8>, VaultError> {
        let made = self.ask_chip(|keystore| keystore.create_key(label));
        match made {
            // An index from a backup gives its generations again. What the label stands for is nobody's.
            Err(VaultError::Keystore(KeystoreError::KeyExists(_))) => self.ask_chip(|keystore| {
                keystore.delete_key(label)?;
                keystore.create_key(label)
            }),
            made => made,
        }
    }

    /// Makes a data key and has the keystore seal it.
    pub fn make_data(&self, label: &str) -> Result<(), VaultError> {
        let bytes = DataKey::generate()?;
        self.ask_chip(|keystore| keystore.seal(label, &bytes))
    }

    /// Encrypts a secret under a key of its own. The key is sealed first: a file without its key is nothing.
    pub fn make_secret(
        &self,
        label: &str,
        belonging: &Belonging<'_>,
        secret: &[u8],
    ) -> Result<(), VaultError> {
        let bytes = DataKey::generate()?;
        let key = DataKey::new(&bytes).ok_or(VaultError::NotADataKey)?;
        let sealed = key.encrypt(belonging, secret, &[])?;
        self.ask_chip(|keystore| keystore.seal(label, &bytes))?;
        Ok(durable::write(&self.file(label), &sealed, FILE_MODE)?)
    }

    /// Destroys whatever is left of a key. No error when there is nothing.
    pub fn destroy(&self, label: &str, generation: u64, kind: Kind) -> Result<(), VaultError> {
        self.opened().remove(&generation);
        match kind {
            Kind::Sign => self.ask(|keystore| keystore.delete_key(label)),
            Kind::Encrypt => self.ask(|keystore| keystore.forget(label)),
            Kind::Secret => {
                self.ask(|keystore| keystore.forget(label))?;
                Ok(durable::remove(&self.file(label))?)
            }
        }
    }

    /// Fails with a loss when the store does not have the key.
    pub fn look(&self, label: &str, kind: Kind) -> Result<(), VaultError> {
        match kind {
            Kind::Sign => self.public(label).map(drop),
            Kind::Encrypt => self.ask_chip(|keystore| keystore.unseal(label)).map(drop),
            Kind::Secret => {
                self.read(label)?;
                self.ask_chip(|keystore| keystore.unseal(label)).map(drop)
            }
        }
    }

    /// Public half of a signing key, as an uncompressed point.
    pub fn public(&self, label: &str) -> Result<Vec<u8>, VaultError> {
        self.ask_chip(|keystore| keystore.key_public(label))
    }

    /// ECDSA signature of a message.
    pub fn sign(&self, label: &str, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.ask_chip(|keystore| keystore.key_sign(label, message))
    }

    /// The keystore's attestation of a key, over `nonce`.
    pub fn certify(&self, label: &str, nonce: &[u8]) -> Result<KeyAttestation, VaultError> {
        self.ask_chip(|keystore| keystore.key_certify(label, nonce))
    }

    /// The data key, if it is here already.
    pub fn held(&self, generation: u64, now: Duration) -> Option<Arc<DataKey>> {
        let mut opened = self.opened();
        let held = opened.get_mut(&generation)?;
        held.used = now;
        Some(Arc::clone(&held.key))
    }

    /// The data key, from the store.
    pub fn open_data(&self, label: &str, generation: u64, now: Duration) -> Result<Arc<DataKey>, VaultError> {
        let bytes = self.ask_chip(|keystore| keystore.unseal(label))?;
        let key = Arc::new(DataKey::new(&bytes).ok_or(VaultError::NotADataKey)?);
        let mut opened = self.opened();
        if opened.len() < OPEN_MAX {
            opened.insert(generation, Opened { key: Arc::clone(&key), used: now });
        }
        Ok(key)
    }

    fn read(&self, label: &str) -> Result<Vec<u8>, VaultError> {
        let read = durable::read(&self.file(label), FILE_BYTES_MAX)?;
        read.ok_or_else(|| VaultError::File(io::ErrorKind::NotFound.into()))
    }

    /// The secret of a file, opened by the keystore.
    pub fn open_secret(
        &self,
        label: &str,
        belonging: &Belonging<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let sealed = self.read(label)?;
        let bytes = self.ask_chip(|keystore| keystore.unseal(label))?;
        let key = DataKey::new(&bytes).ok_or(VaultError::NotADataKey)?;
        key.decrypt(belonging, &sealed, &[]).ok_or(VaultError::Changed)
    }

    /// Forgets data keys that nobody has used lately, or all.
    pub fn forget(&self, now: Duration, all: bool) {
        self.opened().retain(|_, held| !all && now.saturating_sub(held.used) < IDLE);
    }
}
