//! The small documents that `identityd` keeps on its disk, each written whole and durable.
//!
//! A document is `{"version": n, "content": …}`. Unknown fields, an unknown version and torn or foreign bytes are errors
//! that name the file: state that cannot be read is never taken for state that is not there, because forgetting a
//! version counter or a spent token is an attack. Trusts the folder (mode 0700, owner `ew-identity`).
//!
//! A decision that changes several documents goes through a journal: a file with all of them, written whole, then each
//! document, then the journal is removed. Once the journal is on disk the decision is made; a start after a crash finds
//! it and finishes. So there is the state before or the state after, never some of each.
//!
//! What is decided may be written with the space that was set aside ([`Reserve`]). What modules make grow may not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgewarden_platform::durable;
use edgewarden_platform::reserve::Reserve;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::TimeFloor;
use crate::deployments::Deployments;
use crate::enrolment::Enrolment;
use crate::federation::FederatedBundles;
use crate::jwt::PublishedKeys;
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

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state file `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the state file `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the state file `{}` is damaged: {message}; restore it from a backup, or remove it and join again", path.display())]
    Corrupt { path: PathBuf, message: String },
    #[error("the state file `{}` has version {found}, this program writes version {known}", path.display())]
    Version { path: PathBuf, found: u32, known: u32 },
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

#[derive(Serialize)]
struct Outgoing<'a, D> {
    version: u32,
    content: &'a D,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming<D> {
    #[serde(rename = "version")]
    _version: u32,
    content: D,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Documents by the names of their files, as they are written.
type Files = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    version: u32,
    files: Files,
}

/// The folder that holds the documents. One writer.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// A journal is there, or may be: what it says must not outlive what is written later.
    journal_left: AtomicBool,
    reserve: Option<Arc<Reserve>>,
}

impl Store {
    /// Opens the folder without a reserve.
    #[cfg(test)]
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StateError> {
        Self::open_reserved(folder, None)
    }

    /// Opens the folder, and finishes what a crash left unfinished.
    pub fn open_reserved(
        folder: impl Into<PathBuf>,
        reserve: Option<Arc<Reserve>>,
    ) -> Result<Self, StateError> {
        let store = Self { folder: folder.into(), journal_left: AtomicBool::new(false), reserve };
        let path = store.folder.join(JOURNAL);
        let read = durable::read(&path, JOURNAL_BYTES_MAX);
        let Some(bytes) = read.map_err(|source| StateError::Read { path: path.clone(), source })? else {
            return Ok(store);
        };
        let corrupt = |message: String| StateError::Corrupt { path: path.clone(), message };
        let Journal { version, files } =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if version != JOURNAL_VERSION {
            return Err(StateError::Version { path, found: version, known: JOURNAL_VERSION });
        }
        if let Some(foreign) = files.keys().find(|name| !Documents::FILES.contains(&name.as_str())) {
            return Err(corrupt(format!("it is about `{}`", foreign.escape_debug())));
        }
        store.apply(&files).map_err(|source| StateError::Write { path, source })?;
        Ok(store)
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
        let journal = serde_json::to_vec(&Journal { version: JOURNAL_VERSION, files: files.clone() })
            .map_err(|error| write_error(error.into()))?;
        self.journal_left.store(true, Ordering::Relaxed);
        if let Err(error) = write(path.clone(), &journal) {
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
        let written = text(document).and_then(|text| durable::write(&path, text.as_bytes(), FILE_MODE));
        written.map_err(|source| StateError::Write { path, source })
    }

    fn path<D: Document>(&self) -> PathBuf {
        self.folder.join(D::FILE)
    }

    /// The document, or its default when there has never been one.
    pub fn load<D: Document>(&self) -> Result<D, StateError> {
        let path = self.path::<D>();
        let bytes = durable::read(&path, DOCUMENT_BYTES_MAX)
            .map_err(|source| StateError::Read { path: path.clone(), source })?;
        let Some(bytes) = bytes else { return Ok(D::default()) };
        let corrupt = |message: String| StateError::Corrupt { path: path.clone(), message };
        let VersionOnly { version } =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if version != D::VERSION {
            return Err(StateError::Version { path, found: version, known: D::VERSION });
        }
        let incoming: Incoming<D> =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        incoming.content.check().map_err(corrupt)?;
        Ok(incoming.content)
    }
}

fn text<D: Document>(document: &D) -> io::Result<String> {
    Ok(serde_json::to_string(&Outgoing { version: D::VERSION, content: document })?)
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
    const FILES: [&str; 10] = [
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
    ];

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
        let all =
            self.files(None).map_err(|source| StateError::Write { path: store.folder.clone(), source })?;
        store.commit(all.clone(), || Ok(all))
    }

    fn files(&self, before: Option<&Self>) -> io::Result<Files> {
        let mut files = Files::new();
        put(&mut files, &self.generations, before.map(|before| &before.generations))?;
        put(&mut files, &self.leaves, before.map(|before| &before.leaves))?;
        put(&mut files, &self.clock, before.map(|before| &before.clock))?;
        put(&mut files, &self.enrolment, before.map(|before| &before.enrolment))?;
        put(&mut files, &self.deployments, before.map(|before| &before.deployments))?;
        put(&mut files, &self.records, before.map(|before| &before.records))?;
        put(&mut files, &self.jwt_keys, before.map(|before| &before.jwt_keys))?;
        put(&mut files, &self.site_request, before.map(|before| &before.site_request))?;
        put(&mut files, &self.secrets, before.map(|before| &before.secrets))?;
        put(&mut files, &self.federation, before.map(|before| &before.federation))?;
        Ok(files)
    }

    /// Writes what differs from `before`: all of it or nothing.
    pub fn save_changed(&self, before: &Self, store: &Store) -> Result<(), StateError> {
        let changed = self
            .files(Some(before))
            .map_err(|source| StateError::Write { path: store.folder.clone(), source })?;
        if changed.is_empty() {
            return Ok(());
        }
        store.commit(changed, || self.files(None))
    }
}

fn put<D: Document>(files: &mut Files, now: &Arc<D>, before: Option<&Arc<D>>) -> io::Result<()> {
    if before.is_none_or(|before| !Arc::ptr_eq(now, before) && now != before) {
        files.insert(D::FILE.into(), text(&**now)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (name, text) in [
            ("empty", ""),
            ("torn", r#"{"version":1,"content":{"la"#),
            ("unknown field", r#"{"version":1,"content":{"last":7,"next":8}}"#),
            ("unknown field outside", r#"{"version":1,"content":{"last":7},"also":1}"#),
            ("missing field", r#"{"version":1,"content":{}}"#),
            ("no version", r#"{"content":{"last":7}}"#),
            ("later version", r#"{"version":2,"content":{"last":7}}"#),
            ("other type", r#"{"version":1,"content":{"last":"7"}}"#),
            ("zeros", "\0\0\0\0\0\0\0\0"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = store.load::<Counter>().unwrap_err();
            assert!(error.to_string().contains(Counter::FILE), "{name}: {error}");
            assert!(Documents::load(&store).is_err(), "{name}");
        }
        std::fs::write(&path, vec![b' '; DOCUMENT_BYTES_MAX + 1]).unwrap();
        assert!(matches!(store.load::<Counter>(), Err(StateError::Read { .. })));
    }

    #[test]
    fn only_what_changed_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let before = Documents::default();
        let mut after = before.clone();
        after.generations = Arc::new(Counter { last: 1 });
        after.save_changed(&before, &store).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [Counter::FILE]);
    }

    #[test]
    fn a_journal_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL);
        for (name, text) in [
            ("empty", ""),
            ("torn", r#"{"version":1,"files":{"clock.json":"#),
            ("another version", r#"{"version":2,"files":{}}"#),
            ("another file", r#"{"version":1,"files":{"../../etc/passwd":"x"}}"#),
            ("itself", r#"{"version":1,"files":{"journal.json":"x"}}"#),
            ("unknown field", r#"{"version":1,"files":{},"more":1}"#),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(Store::open(folder.path()).is_err(), "{name}");
        }
        std::fs::write(
            &path,
            r#"{"version":1,"files":{"clock.json":"{\"version\":1,\"content\":{\"floor\":7}}"}}"#,
        )
        .unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load::<TimeFloor>().unwrap().floor.0, 7);
        assert!(!path.exists());
    }
}
