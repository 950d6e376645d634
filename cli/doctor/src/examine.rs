//! All checks put to what is known of a gateway, and the list of them.

use std::fmt::Write as _;

use serde::Serialize;

use crate::check::{Check, Outcome};
use crate::checks::CHECKS;
use crate::facts::Facts;

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
