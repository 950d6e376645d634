//! One question about a gateway, and its answer.

use serde::Serialize;

use crate::facts::Facts;

/// Outcome of a check, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Pass,
    /// The question does not arise, or cannot be answered before another check passes.
    Skip,
    /// It works, and somebody should look at it.
    Warn,
    Fail,
}

/// Answer of one check, with its words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub outcome: Outcome,
    /// The finding in plain words.
    pub said: String,
    /// In place of the check's own remedy, when it can be more precise.
    pub remedy: Option<String>,
}

impl Finding {
    /// A good answer.
    pub fn pass(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Pass, said: said.into(), remedy: None }
    }

    /// An answer to a question that does not arise, or cannot be answered yet.
    pub fn skip(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skip, said: said.into(), remedy: None }
    }

    /// An answer that works, and that somebody should look at.
    pub fn warn(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warn, said: said.into(), remedy: None }
    }

    /// A bad answer.
    pub fn fail(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, said: said.into(), remedy: None }
    }

    /// The same finding with a more precise remedy than the check's own.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One question about a gateway: a pure function of [`Facts`], with its name and its remedy.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// `area.name`, never renamed: scripts and alerts match on it.
    pub id: &'static str,
    /// The statement that holds when the check passes.
    pub title: &'static str,
    /// Advice for when it does not pass; a command where one helps.
    pub remedy: &'static str,
    pub run: fn(&Facts) -> Finding,
}

impl Check {
    /// Part of the id before the dot, such as `keystore`.
    pub fn area(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(area, _)| area)
    }
}
