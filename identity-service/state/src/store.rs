//! The folder with the documents, and the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use edgewarden_keystore::KeystoreError;
use edgewarden_names::Reason;
use edgewarden_platform::durable;
use edgewarden_platform::reserve::Reserve;
use edgewarden_protocol::control::StorageKey;
use edgewarden_protocol::document::{Document, DocumentSet, Shelf, Texts};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authentic::{Claimed, StateKey};
use crate::key::KeyKeeper;

/// Largest document: a deployment's envelope in base64 in base64, with room.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const FILE_MODE: u32 = 0o600;
const JOURNAL: &str = "journal.json";
const JOURNAL_VERSION: u32 = 1;
/// All documents, as text within JSON.
const JOURNAL_BYTES_MAX: usize = 8 * DOCUMENT_BYTES_MAX;
const KEY_BYTES: usize = 32;
const NOT_OURS: &str = "is damaged, or was not written by this gateway, or not under this name";

/// Error of documents that cannot be taken up or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state file `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the state file `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{reason}: the state file `{}` {message}; {next}", path.display(), reason = Reason::StateUntrusted, next = Reason::StateUntrusted.next_step())]
    Untrusted { path: PathBuf, message: String },
    #[error("the state file `{}` has version {found}, this program writes version {known}", path.display())]
    Version { path: PathBuf, found: u32, known: u32 },
    #[error("the keystore does not give the key that proves the state in `{}`", folder.display())]
    Key { folder: PathBuf, source: KeystoreError },
}

/// Documents by the names of their files, as they are written.
type Files = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    files: Files,
}

/// The folder that holds the documents. One writer.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The files of all documents.
    names: BTreeSet<&'static str>,
    key: StateKey,
    /// There were no documents when it was opened.
    is_new: bool,
    /// A journal is there, or may be: what it says must not outlive what is written later.
    journal_left: AtomicBool,
    reserve: Option<Arc<Reserve>>,
}

impl Store {
    /// Opens the folder: finishes what a crash left unfinished, or makes the documents that a new state begins with and
    /// their key. `first` are all documents that there are.
    pub fn open(
        folder: impl Into<PathBuf>,
        first: &Texts,
        keeper: &dyn KeyKeeper,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, StateError> {
        let folder = folder.into();
        let key_error = |source| StateError::Key { folder: folder.clone(), source };
        let key = keeper.find().map_err(key_error)?;
        let there = first.names().find(|name| folder.join(name).symlink_metadata().is_ok());
        let path = folder.join(JOURNAL);
        let read = durable::read(&path, JOURNAL_BYTES_MAX);
        let journal = read.map_err(|source| StateError::Read { path: path.clone(), source })?;
        let untrusted =
            |path: PathBuf, message: &str| StateError::Untrusted { path, message: message.into() };
        let Some(secret) = key else {
            return match there {
                // The journal of a first start that was cut off is no state yet.
                None => Self::make(folder, first, keeper, reserve),
                Some(name) => {
                    Err(untrusted(folder.join(name), "is there, and the keystore has no key that proves it"))
                }
            };
        };
        let (key, names) = (StateKey::new(&secret), first.names().collect());
        let store = Self { folder, names, key, is_new: false, journal_left: AtomicBool::new(false), reserve };
        if let Some(bytes) = journal {
            match store.journal(&path, &bytes) {
                Ok(files) => store.apply(&files).map_err(|source| StateError::Write { path, source })?,
                Err(error) if there.is_some() => return Err(error),
                Err(_) => return Self::make(store.folder, first, keeper, store.reserve),
            }
        } else if there.is_none() {
            return Self::make(store.folder, first, keeper, store.reserve);
        }
        let gone = store.names.iter().find(|name| store.folder.join(name).symlink_metadata().is_err());
        match gone {
            Some(name) => Err(untrusted(store.folder.join(name), "is gone, and the others are there")),
            None => Ok(store),
        }
    }

    /// Makes the first documents. They are in a journal before the key is kept: from then on they are there.
    fn make(
        folder: PathBuf,
        first: &Texts,
        keeper: &dyn KeyKeeper,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, StateError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        let random = SystemRandom::new().fill(secret.as_mut_slice()).map_err(io::Error::other);
        let path = folder.join(JOURNAL);
        let write_error = |source| StateError::Write { path: path.clone(), source };
        random.map_err(write_error)?;
        let key = StateKey::new(secret.as_slice());
        let names = first.names().collect();
        let store = Self { folder, names, key, is_new: true, journal_left: AtomicBool::new(false), reserve };
        let files = store.proven(first);
        let journal = store.journal_text(files.clone()).map_err(write_error)?;
        store.put(&path, journal.as_bytes()).map_err(write_error)?;
        let key_error = |source| StateError::Key { folder: store.folder.clone(), source };
        keeper.keep(secret.as_slice()).map_err(key_error)?;
        if keeper.find().map_err(key_error)?.is_none_or(|kept| kept.as_slice() != secret.as_slice()) {
            return Err(key_error(KeystoreError::Answer("it gives back another value than it was given")));
        }
        store.apply(&files).map_err(write_error)?;
        Ok(store)
    }

    /// The key for `runtimed`'s records. It hangs on the documents' own, so that it needs no keystore once they are open.
    pub fn record_key(&self) -> StorageKey {
        self.key.record_key()
    }

    /// Were there no documents when it was opened?
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Files of a journal, by its bytes.
    fn journal(&self, path: &Path, bytes: &[u8]) -> Result<Files, StateError> {
        let untrusted = |message: String| StateError::Untrusted { path: path.to_owned(), message };
        let content = self.prove(path, JOURNAL, JOURNAL_VERSION, bytes)?;
        let Journal { files } =
            serde_json::from_str(content).map_err(|error| untrusted(format!("is damaged: {error}")))?;
        match files.keys().find(|name| !self.names.contains(name.as_str())) {
            Some(foreign) => Err(untrusted(format!("is about `{}`", foreign.escape_debug()))),
            None => Ok(files),
        }
    }

    /// The files of documents.
    fn proven(&self, texts: &Texts) -> Files {
        let proven = texts
            .iter()
            .map(|(name, text)| (name.to_owned(), self.key.write(name, text.version, &text.content)));
        proven.collect()
    }

    fn journal_text(&self, files: Files) -> io::Result<String> {
        Ok(self.key.write(JOURNAL, JOURNAL_VERSION, &serde_json::to_string(&Journal { files })?))
    }

    /// The content of a file that we wrote.
    fn prove<'a>(&self, path: &Path, name: &str, known: u32, bytes: &'a [u8]) -> Result<&'a str, StateError> {
        let claimed = Claimed::parse(bytes);
        if let Some(found) = claimed.map(|claimed| claimed.version).filter(|found| *found != known) {
            return Err(StateError::Version { path: path.to_owned(), found, known });
        }
        claimed
            .and_then(|claimed| self.key.prove(name, &claimed))
            .ok_or_else(|| StateError::Untrusted { path: path.to_owned(), message: NOT_OURS.into() })
    }

    fn apply(&self, files: &Files) -> io::Result<()> {
        for (name, text) in files {
            self.put(&self.folder.join(name), text.as_bytes())?;
        }
        durable::remove(&self.folder.join(JOURNAL))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let write = || durable::write(path, bytes, FILE_MODE);
        match &self.reserve {
            Some(reserve) => reserve.write(bytes.len(), write),
            None => write(),
        }
    }

    /// The disk space that is set aside for documents.
    pub fn reserve(&self) -> Option<&Arc<Reserve>> {
        self.reserve.as_ref()
    }

    /// Puts documents on disk together: when it returns, all of them; when it fails, none, unless the next start or the
    /// next write finds that the journal got there after all.
    fn commit(
        &self,
        changed: &Texts,
        all: impl FnOnce() -> serde_json::Result<Texts>,
    ) -> Result<(), StateError> {
        let changed = self.proven(changed);
        let unclear = self.journal_left.load(Ordering::Relaxed);
        let write = |path: PathBuf, bytes: &[u8]| {
            self.put(&path, bytes).map_err(|source| StateError::Write { path, source })
        };
        if let (1, false, Some((name, text))) = (changed.len(), unclear, changed.first_key_value()) {
            return write(self.folder.join(name), text.as_bytes());
        }
        let path = self.folder.join(JOURNAL);
        let write_error = |source| StateError::Write { path: path.clone(), source };
        // An older journal is replaced whole, by one that says everything that it may have said.
        let files =
            if unclear { self.proven(&all().map_err(|error| write_error(error.into()))?) } else { changed };
        let journal = self.journal_text(files.clone()).map_err(write_error)?;
        self.journal_left.store(true, Ordering::Relaxed);
        if let Err(error) = write(path.clone(), journal.as_bytes()) {
            // Refused, so it must not come true at the next start.
            if durable::remove(&path).is_ok() {
                self.journal_left.store(unclear, Ordering::Relaxed);
            }
            return Err(error);
        }
        // It is decided. What cannot be written now is written by the next start, or with the next change.
        match self.apply(&files) {
            Ok(()) => self.journal_left.store(false, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "the state is in its journal only"),
        }
        Ok(())
    }

    /// Writes what differs from `before`: all of it or nothing.
    pub fn save_changed<D: DocumentSet>(&self, documents: &D, before: &D) -> Result<(), StateError> {
        let changed = self.texts(documents, Some(before))?;
        if changed.is_empty() {
            return Ok(());
        }
        self.commit(&changed, || documents.texts(None))
    }

    /// Writes all of them: what is on disk may be older than any state of this process.
    pub fn save_all<D: DocumentSet>(&self, documents: &D) -> Result<(), StateError> {
        let all = self.texts(documents, None)?;
        self.commit(&all, || documents.texts(None))
    }

    fn texts<D: DocumentSet>(&self, documents: &D, before: Option<&D>) -> Result<Texts, StateError> {
        documents
            .texts(before)
            .map_err(|error| StateError::Write { path: self.folder.clone(), source: error.into() })
    }

    /// Writes a document that no decision changes together with others.
    pub fn save<D: Document>(&self, document: &D) -> Result<(), StateError> {
        let path = self.path::<D>();
        let text = serde_json::to_string(document).map_err(io::Error::from);
        let written = text.and_then(|content| {
            let text = self.key.write(D::FILE, D::VERSION, &content);
            durable::write(&path, text.as_bytes(), FILE_MODE)
        });
        written.map_err(|source| StateError::Write { path, source })
    }

    fn path<D: Document>(&self) -> PathBuf {
        self.folder.join(D::FILE)
    }
}

impl Shelf for Store {
    type Error = StateError;

    /// The document, as this gateway wrote it last or, from an older copy of its folder, before.
    fn load<D: Document>(&self) -> Result<D, StateError> {
        let path = self.path::<D>();
        let bytes = durable::read(&path, DOCUMENT_BYTES_MAX)
            .map_err(|source| StateError::Read { path: path.clone(), source })?;
        let untrusted = |message: String| StateError::Untrusted { path: path.clone(), message };
        let bytes = bytes.ok_or_else(|| untrusted("is gone".into()))?;
        let content = self.prove(&path, D::FILE, D::VERSION, &bytes)?;
        let document: D =
            serde_json::from_str(content).map_err(|error| untrusted(format!("is damaged: {error}")))?;
        document.check().map_err(|message| untrusted(format!("is damaged: {message}")))?;
        Ok(document)
    }
}

#[cfg(test)]
mod tests;
