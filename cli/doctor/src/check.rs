//! One question about a gateway, and its answer.

use std::fmt::Write as _;

use serde::Serialize;

use crate::checks::CHECKS;
use crate::facts::Facts;

/// How a check came out, from good to bad.
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub outcome: Outcome,
    /// What was found, in plain words.
    pub said: String,
    /// In place of the check's own remedy, when it can be more precise.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn pass(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Pass, said: said.into(), remedy: None }
    }
    pub fn skip(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skip, said: said.into(), remedy: None }
    }
    pub fn warn(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warn, said: said.into(), remedy: None }
    }
    pub fn fail(said: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, said: said.into(), remedy: None }
    }
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// `area.name`, never renamed: scripts and alerts match on it.
    pub id: &'static str,
    /// What holds when it passes.
    pub title: &'static str,
    /// What to do when it does not; a command where one helps.
    pub remedy: &'static str,
    pub run: fn(&Facts) -> Finding,
}

impl Check {
    pub fn area(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(area, _)| area)
    }
}

/// A check with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    pub id: &'static str,
    pub area: &'static str,
    pub title: &'static str,
    pub outcome: Outcome,
    pub said: String,
    /// For a warning or a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Every area, in the order of the checks.
pub fn areas() -> Vec<&'static str> {
    let mut areas: Vec<&'static str> = CHECKS.iter().map(Check::area).collect();
    areas.dedup();
    areas
}

/// Puts every check, or those of one area, to the facts.
pub fn examine(facts: &Facts, only: Option<&str>) -> Vec<Examined> {
    let asked = CHECKS.iter().filter(|check| only.is_none_or(|area| check.area() == area));
    let examined = asked.map(|check| {
        let finding = (check.run)(facts);
        let bad = matches!(finding.outcome, Outcome::Warn | Outcome::Fail);
        Examined {
            id: check.id,
            area: check.area(),
            title: check.title,
            outcome: finding.outcome,
            said: finding.said,
            remedy: bad.then(|| finding.remedy.unwrap_or_else(|| check.remedy.to_owned())),
        }
    });
    examined.collect()
}

/// The checks as a Markdown table, as it stands in docs/doctor.md.
pub fn table() -> String {
    let mut text = String::from("| check | what holds | if it does not |\n|---|---|---|\n");
    for check in CHECKS.iter() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {} |", check.id, check.title, check.remedy.replace('|', "\\|"));
    }
    text
}
