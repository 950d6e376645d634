//! The small documents that `identityd` keeps on its disk, each written whole and durable.
//!
//! A document is `{"version": n, "content": …}`. Unknown fields, an unknown version and torn or foreign bytes are errors
//! that name the file: state that cannot be read is never taken for state that is not there, because forgetting a
//! version counter or a spent token is an attack. Trusts the folder (mode 0700, owner `ew-identity`).

use std::path::PathBuf;
use std::sync::Arc;

use edgewarden_platform::durable;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::TimeFloor;
use crate::deployments::Deployments;
use crate::enrolment::Enrolment;
use crate::leaves::LeafTokens;
use crate::permits::Counter;
use crate::records::Records;

/// Largest document: a deployment's envelope in base64 in base64, with room.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const FILE_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state file `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write the state file `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
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

/// The folder that holds the documents.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
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

    pub fn save<D: Document>(&self, document: &D) -> Result<(), StateError> {
        let path = self.path::<D>();
        let written = serde_json::to_vec(&Outgoing { version: D::VERSION, content: document })
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::write(&path, &bytes, FILE_MODE));
        written.map_err(|source| StateError::Write { path, source })
    }
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
}

impl Documents {
    pub fn load(store: &Store) -> Result<Self, StateError> {
        Ok(Self {
            enrolment: store.load().map(Arc::new)?,
            deployments: store.load().map(Arc::new)?,
            generations: store.load().map(Arc::new)?,
            leaves: store.load().map(Arc::new)?,
            records: store.load().map(Arc::new)?,
            clock: store.load().map(Arc::new)?,
        })
    }

    /// Writes what differs from `before`. Counters and spent tokens go first: a crash between two files then wastes a
    /// number and never gives one out twice.
    pub fn save_changed(&self, before: &Self, store: &Store) -> Result<(), StateError> {
        save(&self.generations, &before.generations, store)?;
        save(&self.leaves, &before.leaves, store)?;
        save(&self.clock, &before.clock, store)?;
        save(&self.enrolment, &before.enrolment, store)?;
        save(&self.deployments, &before.deployments, store)?;
        save(&self.records, &before.records, store)
    }
}

fn save<D: Document>(now: &Arc<D>, before: &Arc<D>, store: &Store) -> Result<(), StateError> {
    if Arc::ptr_eq(now, before) || now == before {
        return Ok(());
    }
    store.save(&**now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_state_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert_eq!(store.load::<Counter>().unwrap(), Counter::default());
        store.save(&Counter { last: 7 }).unwrap();
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
        let store = Store::new(folder.path());
        let before = Documents::default();
        let mut after = before.clone();
        after.generations = Arc::new(Counter { last: 1 });
        after.save_changed(&before, &store).unwrap();
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [Counter::FILE]);
    }
}
