//! The envelopes with sealed values, one file each, named by their SHA-256.
//!
//! A file is written before the document that counts it and removed after the document that no longer does: a crash
//! between leaves a file too many, which the next start removes, and never one too few.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use edgewarden_decisions::deployments::envelope_digest;
use edgewarden_decisions::secrets::Secrets;
use edgewarden_names::{Digest, SecretName};
use edgewarden_platform::durable;
use edgewarden_protocol::secret::{AgreementKey, ENVELOPE_BYTES_MAX};

const FOLDER: &str = "secrets";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Envelopes of secrets on disk, and the agreement key that opens them.
#[derive(Debug)]
pub struct Vault {
    folder: PathBuf,
    /// Held by who takes a secret in: files and document change together.
    writing: Mutex<()>,
    /// Held while a value is opened: of all that wait for the chip, secrets are one.
    opening: Mutex<()>,
    /// The agreement key does not change while the process runs.
    point: OnceLock<Vec<u8>>,
    /// The last statement about it, with the certificate of the key that made it.
    statement: Mutex<Option<AgreementKey>>,
    /// Releases that were written to the audit log, by instance: each is written once.
    told: Mutex<BTreeSet<Told>>,
}

/// Instance, way, secret, version.
type Told = (String, &'static str, SecretName, u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vault {
    /// Opens the folder below the state's, and removes what does not count.
    pub fn open(state: &Path, secrets: &Secrets) -> io::Result<Self> {
        let folder = state.join(FOLDER);
        if !folder.is_dir() {
            std::fs::create_dir(&folder)?;
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(FOLDER_MODE))?;
        }
        durable::sweep(&folder)?;
        let counted: BTreeSet<&str> = secrets.envelopes().map(Digest::hex).collect();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| counted.contains(name)) {
                durable::remove(&entry.path())?;
            }
        }
        Ok(Self {
            folder,
            writing: Mutex::default(),
            opening: Mutex::default(),
            point: OnceLock::new(),
            statement: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// The right to change files and document together.
    pub fn writing(&self) -> MutexGuard<'_, ()> {
        lock(&self.writing)
    }

    /// The right to open a value.
    pub fn opening(&self) -> MutexGuard<'_, ()> {
        lock(&self.opening)
    }

    /// The last statement about the agreement key.
    pub fn statement(&self) -> MutexGuard<'_, Option<AgreementKey>> {
        lock(&self.statement)
    }

    /// The agreement key's point, asked for once.
    pub fn point<E>(&self, ask: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<&[u8], E> {
        if let Some(point) = self.point.get() {
            return Ok(point);
        }
        let point = ask()?;
        Ok(self.point.get_or_init(|| point))
    }

    /// True when this release has not been told of.
    pub fn is_news(&self, instance: &str, way: &'static str, name: &SecretName, version: u64) -> bool {
        lock(&self.told).insert((instance.to_owned(), way, name.clone(), version))
    }

    /// The instance has ended: keeps what is told of bounded by what lives.
    pub fn forget(&self, instance: &str) {
        lock(&self.told).retain(|(told, ..)| told != instance);
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Puts an envelope on the disk, under its digest.
    pub fn put(&self, digest: &Digest, envelope: &[u8]) -> io::Result<()> {
        durable::write(&self.path(digest), envelope, FILE_MODE)
    }

    /// The envelope with this digest. Fails with `InvalidData` when its bytes are others.
    pub fn get(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = durable::read(&self.path(digest), ENVELOPE_BYTES_MAX)?;
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        if envelope_digest(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the envelope of a secret is damaged"))
        }
    }

    /// Removes an envelope, if it is there.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        durable::remove(&self.path(digest))
    }
}
