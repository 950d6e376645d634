//! Documents that a daemon keeps for itself, as text.
//!
//! Their place, and the proof when they are read again, are the matter of whoever writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A document with a file of its own.
pub trait Document: Serialize + DeserializeOwned + Default + PartialEq {
    const FILE: &'static str;
    const VERSION: u32 = 1;

    /// Checks beyond the shape. `Err` is a text for people.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Documents that change together.
pub trait DocumentSet: Sized {
    /// Those that differ from `before`; without one, all.
    fn texts(&self, before: Option<&Self>) -> serde_json::Result<Texts>;
}

/// A place that documents are read from.
pub trait Shelf {
    type Error;

    fn load<D: Document>(&self) -> Result<D, Self::Error>;
}

/// A document as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub version: u32,
    pub content: String,
}

/// Documents as text, by the names of their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(BTreeMap<&'static str, Text>);

impl Texts {
    /// Adds a document as JSON, or puts it in the place of the one with its name.
    pub fn put<D: Document>(&mut self, document: &D) -> serde_json::Result<()> {
        let text = Text { version: D::VERSION, content: serde_json::to_string(document)? };
        self.0.insert(D::FILE, text);
        Ok(())
    }

    /// The same, if it differs from `before`. One and the same document is not looked into.
    pub fn put_changed<D: Document>(
        &mut self,
        document: &Arc<D>,
        before: Option<&Arc<D>>,
    ) -> serde_json::Result<()> {
        match before {
            Some(before) if Arc::ptr_eq(document, before) || document == before => Ok(()),
            _ => self.put(&**document),
        }
    }

    /// `true` when nothing was put.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// File names of the documents, in their order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// File name and text of each document, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Text)> {
        self.0.iter().map(|(name, text)| (*name, text))
    }
}
