//! The small documents that `identityd` keeps on its disk, each written whole and durable, with a proof.
//!
//! A document is `{"version": n, "mac": …, "content": …}` ([`authentic`]). Unknown fields, an unknown version, torn or
//! foreign bytes, another file's content and a file that is gone are errors that name the file: state that cannot be read
//! or was written by somebody else is never taken for state that is not there, because forgetting a version counter or a
//! spent token is an attack.
//!
//! All documents are made together, with the key that proves them ([`key`]), before anything is served; so one that is
//! missing later was removed. Where all are missing the state is made anew, under a new key: whoever can remove them all
//! can remove the sealed key too, and old documents count for nothing then. Trusts the folder (mode 0700, owner
//! `ew-identity`) while the machine runs; while it is off, to no more than that an older folder may be in its place.
//!
//! A decision that changes several documents goes through a journal: a file with all of them, written whole, then each
//! document, then the journal is removed. Once the journal is on disk the decision is made; a start after a crash finds
//! it and finishes. So there is the state before or the state after, never some of each.
//!
//! What is decided may be written with the space that was set aside ([`Reserve`]). What modules make grow may not.

mod authentic;
mod key;

use std::collections::BTreeMap;
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
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::authentic::{Claimed, StateKey};
#[cfg(test)]
pub use self::key::FileKey;
pub use self::key::KeyKeeper;
use crate::clock::TimeFloor;
use crate::deployments::Deployments;
use crate::enrolment::Enrolment;
use crate::federation::FederatedBundles;
use crate::jwt::PublishedKeys;
use crate::keys::Index;
use crate::leaves::LeafTokens;
use crate::permits::Counter;
use crate::records::Records;
use crate::secrets::Secrets;
use crate::site::SiteRequest;

/// Largest document: a deployment's envelope in base64 in base64, with room.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const FILE_MODE: u32 = 0o600;
const JOURNAL: &str = "journal.json";
const JOURNAL_VERSION: u32 = 1;
/// All documents, as text within JSON.
const JOURNAL_BYTES_MAX: usize = 8 * DOCUMENT_BYTES_MAX;
const KEY_BYTES: usize = 32;
const NOT_OURS: &str = "is damaged, or was not written by this gateway, or not under this name";

/// Why the documents cannot be taken up or written.
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

/// A document with a file of its own.
pub trait Document: Serialize + DeserializeOwned + Default + PartialEq {
    const FILE: &'static str;
    const VERSION: u32 = 1;

    /// What must hold beyond the shape.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
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
    key: StateKey,
    /// There were no documents when it was opened.
    is_new: bool,
    /// A journal is there, or may be: what it says must not outlive what is written later.
    journal_left: AtomicBool,
    reserve: Option<Arc<Reserve>>,
}

impl Store {
    /// Opens the folder without a reserve, with the key in a file beside the documents.
    #[cfg(test)]
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StateError> {
        let folder = folder.into();
        let keeper = FileKey(folder.join("state-key"));
        Self::open_reserved(folder, &keeper, None)
    }

    /// Opens the folder: finishes what a crash left unfinished, or makes the first documents and their key.
    pub fn open_reserved(
        folder: impl Into<PathBuf>,
        keeper: &dyn KeyKeeper,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, StateError> {
        let folder = folder.into();
        let key_error = |source| StateError::Key { folder: folder.clone(), source };
        let key = keeper.find().map_err(key_error)?;
        let there = Documents::ALL.iter().find(|name| folder.join(name).symlink_metadata().is_ok());
        let path = folder.join(JOURNAL);
        let read = durable::read(&path, JOURNAL_BYTES_MAX);
        let journal = read.map_err(|source| StateError::Read { path: path.clone(), source })?;
        let untrusted =
            |path: PathBuf, message: &str| StateError::Untrusted { path, message: message.into() };
        let Some(secret) = key else {
            return match there {
                // The journal of a first start that was cut off is no state yet.
                None => Self::make(folder, keeper, reserve),
                Some(name) => {
                    Err(untrusted(folder.join(name), "is there, and the keystore has no key that proves it"))
                }
            };
        };
        let key = StateKey::new(&secret);
        let store = Self { folder, key, is_new: false, journal_left: AtomicBool::new(false), reserve };
        if let Some(bytes) = journal {
            match store.journal(&path, &bytes) {
                Ok(files) => store.apply(&files).map_err(|source| StateError::Write { path, source })?,
                Err(error) if there.is_some() => return Err(error),
                Err(_) => return Self::make(store.folder, keeper, store.reserve),
            }
        } else if there.is_none() {
            return Self::make(store.folder, keeper, store.reserve);
        }
        let gone = Documents::ALL.iter().find(|name| store.folder.join(name).symlink_metadata().is_err());
        match gone {
            Some(name) => Err(untrusted(store.folder.join(name), "is gone, and the others are there")),
            None => Ok(store),
        }
    }

    /// Makes the first documents. They are in a journal before the key is kept: from then on they are there.
    fn make(
        folder: PathBuf,
        keeper: &dyn KeyKeeper,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, StateError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        let random = SystemRandom::new().fill(secret.as_mut_slice()).map_err(io::Error::other);
        let path = folder.join(JOURNAL);
        let write_error = |source| StateError::Write { path: path.clone(), source };
        random.map_err(write_error)?;
        let key = StateKey::new(secret.as_slice());
        let store = Self { folder, key, is_new: true, journal_left: AtomicBool::new(false), reserve };
        let files = Documents::first(&store.key).map_err(write_error)?;
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

    /// What a journal says.
    fn journal(&self, path: &Path, bytes: &[u8]) -> Result<Files, StateError> {
        let untrusted = |message: String| StateError::Untrusted { path: path.to_owned(), message };
        let content = self.prove(path, JOURNAL, JOURNAL_VERSION, bytes)?;
        let Journal { files } =
            serde_json::from_str(content).map_err(|error| untrusted(format!("is damaged: {error}")))?;
        match files.keys().find(|name| !Documents::ALL.contains(&name.as_str())) {
            Some(foreign) => Err(untrusted(format!("is about `{}`", foreign.escape_debug()))),
            None => Ok(files),
        }
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

    pub fn reserve(&self) -> Option<&Arc<Reserve>> {
        self.reserve.as_ref()
    }

    /// Puts documents on disk together: when it returns, all of them; when it fails, none, unless the next start or the
    /// next write finds that the journal got there after all.
    fn commit(&self, changed: Files, all: impl FnOnce() -> io::Result<Files>) -> Result<(), StateError> {
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
        let files = if unclear { all().map_err(write_error)? } else { changed };
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

    /// Writes a document that no decision changes together with others.
    pub fn save<D: Document>(&self, document: &D) -> Result<(), StateError> {
        let path = self.path::<D>();
        let written =
            text(&self.key, document).and_then(|text| durable::write(&path, text.as_bytes(), FILE_MODE));
        written.map_err(|source| StateError::Write { path, source })
    }

    fn path<D: Document>(&self) -> PathBuf {
        self.folder.join(D::FILE)
    }

    /// The document, as this gateway wrote it last or, from an older copy of its folder, before.
    pub fn load<D: Document>(&self) -> Result<D, StateError> {
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

fn text<D: Document>(key: &StateKey, document: &D) -> io::Result<String> {
    Ok(key.write(D::FILE, D::VERSION, &serde_json::to_string(document)?))
}

/// All of them. Cloning is cheap, and what a request changed shows by pointer: so nothing changed is left unsaved.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    pub enrolment: Arc<Enrolment>,
    pub deployments: Arc<Deployments>,
    pub generations: Arc<Counter>,
    pub leaves: Arc<LeafTokens>,
    pub records: Arc<Records>,
    pub clock: Arc<TimeFloor>,
    pub jwt_keys: Arc<PublishedKeys>,
    pub site_request: Arc<SiteRequest>,
    pub secrets: Arc<Secrets>,
    pub federation: Arc<FederatedBundles>,
}

impl Documents {
    /// With [`Index`], which is written by itself.
    const ALL: [&str; 11] = [
        Counter::FILE,
        LeafTokens::FILE,
        TimeFloor::FILE,
        Enrolment::FILE,
        Deployments::FILE,
        Records::FILE,
        PublishedKeys::FILE,
        SiteRequest::FILE,
        Secrets::FILE,
        FederatedBundles::FILE,
        Index::FILE,
    ];

    /// What a gateway begins with.
    fn first(key: &StateKey) -> io::Result<Files> {
        let mut files = Self::default().files(key, None)?;
        put(key, &mut files, &Arc::new(Index::default()), None)?;
        Ok(files)
    }

    pub fn load(store: &Store) -> Result<Self, StateError> {
        Ok(Self {
            enrolment: store.load().map(Arc::new)?,
            deployments: store.load().map(Arc::new)?,
            generations: store.load().map(Arc::new)?,
            leaves: store.load().map(Arc::new)?,
            records: store.load().map(Arc::new)?,
            clock: store.load().map(Arc::new)?,
            jwt_keys: store.load().map(Arc::new)?,
            site_request: store.load().map(Arc::new)?,
            secrets: store.load().map(Arc::new)?,
            federation: store.load().map(Arc::new)?,
        })
    }

    /// Writes all of it: what is on disk may be older than any state of this process.
    pub fn save_all(&self, store: &Store) -> Result<(), StateError> {
        let all = self
            .files(&store.key, None)
            .map_err(|source| StateError::Write { path: store.folder.clone(), source })?;
        store.commit(all.clone(), || Ok(all))
    }

    fn files(&self, key: &StateKey, before: Option<&Self>) -> io::Result<Files> {
        let mut files = Files::new();
        put(key, &mut files, &self.generations, before.map(|before| &before.generations))?;
        put(key, &mut files, &self.leaves, before.map(|before| &before.leaves))?;
        put(key, &mut files, &self.clock, before.map(|before| &before.clock))?;
        put(key, &mut files, &self.enrolment, before.map(|before| &before.enrolment))?;
        put(key, &mut files, &self.deployments, before.map(|before| &before.deployments))?;
        put(key, &mut files, &self.records, before.map(|before| &before.records))?;
        put(key, &mut files, &self.jwt_keys, before.map(|before| &before.jwt_keys))?;
        put(key, &mut files, &self.site_request, before.map(|before| &before.site_request))?;
        put(key, &mut files, &self.secrets, before.map(|before| &before.secrets))?;
        put(key, &mut files, &self.federation, before.map(|before| &before.federation))?;
        Ok(files)
    }

    /// Writes what differs from `before`: all of it or nothing.
    pub fn save_changed(&self, before: &Self, store: &Store) -> Result<(), StateError> {
        let changed = self
            .files(&store.key, Some(before))
            .map_err(|source| StateError::Write { path: store.folder.clone(), source })?;
        if changed.is_empty() {
            return Ok(());
        }
        store.commit(changed, || self.files(&store.key, None))
    }
}

fn put<D: Document>(
    key: &StateKey,
    files: &mut Files,
    now: &Arc<D>,
    before: Option<&Arc<D>>,
) -> io::Result<()> {
    if before.is_none_or(|before| !Arc::ptr_eq(now, before) && now != before) {
        files.insert(D::FILE.into(), text(key, &**now)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, name: &str, key: &StateKey, version: u32, content: &str) {
        std::fs::write(path, key.write(name, version, content)).unwrap();
    }

    #[test]
    fn damaged_state_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load::<Counter>().unwrap(), Counter::default());
        let before = Documents::default();
        let after = Documents { generations: Arc::new(Counter { last: 7 }), ..before.clone() };
        after.save_changed(&before, &store).unwrap();
        assert_eq!(store.load::<Counter>().unwrap().last, 7);

        let path = folder.path().join(Counter::FILE);
        let refused = |name: &str| {
            let error = store.load::<Counter>().unwrap_err();
            assert!(error.to_string().contains(Counter::FILE), "{name}: {error}");
            assert!(Documents::load(&store).is_err(), "{name}");
        };
        for (name, text) in [
            ("empty", ""),
            ("torn", r#"{"version":1,"content":{"la"#),
            ("without a proof", r#"{"version":1,"content":{"last":7}}"#),
            ("no version", r#"{"content":{"last":7}}"#),
            ("zeros", "\0\0\0\0\0\0\0\0"),
        ] {
            std::fs::write(&path, text).unwrap();
            refused(name);
        }
        // Ours, and of another version of the program.
        for (name, version, content) in [
            ("unknown field", 1, r#"{"last":7,"next":8}"#),
            ("missing field", 1, "{}"),
            ("later version", 2, r#"{"last":7}"#),
            ("other type", 1, r#"{"last":"7"}"#),
        ] {
            write(&path, Counter::FILE, &store.key, version, content);
            refused(name);
        }
        std::fs::write(&path, vec![b' '; DOCUMENT_BYTES_MAX + 1]).unwrap();
        assert!(matches!(store.load::<Counter>(), Err(StateError::Read { .. })));
        std::fs::remove_file(&path).unwrap();
        refused("gone");
    }

    #[test]
    fn only_what_changed_is_written() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let inodes = || -> BTreeMap<_, _> {
            let entries = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().ino())).collect()
        };
        let first = inodes();
        let before = Documents::default();
        let mut after = before.clone();
        after.generations = Arc::new(Counter { last: 1 });
        after.save_changed(&before, &store).unwrap();
        let changed: Vec<_> =
            inodes().into_iter().filter(|(name, ino)| first.get(name) != Some(ino)).collect();
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert_eq!(changed[0].0, Counter::FILE);
    }

    #[test]
    fn a_journal_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = Store::open(folder.path()).unwrap().key;
        let path = folder.path().join(JOURNAL);
        let forged = r#"{"files":{"clock.json":"{\"version\":1,\"content\":{\"floor\":7}}"}}"#;
        for (name, text) in [
            ("empty", String::new()),
            ("torn", r#"{"version":1,"files":{"clock.json":"#.into()),
            ("without a proof", format!("{{\"version\":1,\"content\":{forged}}}")),
            ("another key", StateKey::new(&[7; KEY_BYTES]).write(JOURNAL, 1, forged)),
            ("another version", key.write(JOURNAL, 2, r#"{"files":{}}"#)),
            ("a document", key.write(TimeFloor::FILE, 1, forged)),
            ("another file", key.write(JOURNAL, 1, r#"{"files":{"../../etc/passwd":"x"}}"#)),
            ("itself", key.write(JOURNAL, 1, r#"{"files":{"journal.json":"x"}}"#)),
            ("unknown field", key.write(JOURNAL, 1, r#"{"files":{},"more":1}"#)),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(JOURNAL), "{name}: {error}");
        }
        let document = key.write(TimeFloor::FILE, 1, r#"{"floor":7}"#);
        let files = [(TimeFloor::FILE.to_owned(), document)].into();
        let journal = serde_json::to_string(&Journal { files }).unwrap();
        std::fs::write(&path, key.write(JOURNAL, 1, &journal)).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load::<TimeFloor>().unwrap().floor.0, 7);
        assert!(!path.exists());
    }

    #[test]
    fn documents_that_are_gone_or_have_no_key_are_not_taken_for_absent() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(first.is_new() && !Store::open(folder.path()).unwrap().is_new());
        let key_file = folder.path().join("state-key");
        for name in Documents::ALL {
            let path = folder.path().join(name);
            let kept = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("state.untrusted"), "{error}");
            std::fs::write(&path, kept).unwrap();
        }
        let key = std::fs::read(&key_file).unwrap();
        std::fs::remove_file(&key_file).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no key"), "{error}");
        std::fs::write(&key_file, &key).unwrap();
        Store::open(folder.path()).unwrap();
        // All of them gone is a new beginning, in which none of the old ones counts.
        let old = std::fs::read(folder.path().join(Counter::FILE)).unwrap();
        for name in Documents::ALL {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        let store = Store::open(folder.path()).unwrap();
        assert!(store.is_new());
        std::fs::write(folder.path().join(Counter::FILE), old).unwrap();
        assert!(matches!(store.load::<Counter>(), Err(StateError::Untrusted { .. })));
    }
}
