//! Prints answers: a table for people, JSON for scripts.

use std::io::Write as _;

use serde::Serialize;

use super::exit::Stop;

/// Form of answers on standard output, of the option `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// One line on standard output. Whoever reads it may stop reading: that is no failure of ours.
pub fn line(what: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{what}");
}

/// Text of several lines, at once: whoever reads it may stop reading.
pub fn text(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// One JSON document on one line.
pub fn json(value: &impl Serialize) -> Result<(), Stop> {
    say!("{}", serde_json::to_string(value).map_err(Stop::failed)?);
    Ok(())
}

/// One JSON array on one line, element by element, so that a long one need not be held.
#[derive(Debug, Default)]
pub struct JsonArray {
    begun: bool,
}

impl JsonArray {
    /// Writes further elements to standard output.
    pub fn add(&mut self, elements: &[impl Serialize]) -> Result<(), Stop> {
        let mut text = String::new();
        for element in elements {
            text.push(if self.begun { ',' } else { '[' });
            self.begun = true;
            text.push_str(&serde_json::to_string(element).map_err(Stop::failed)?);
        }
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }

    /// Closes the array; one without elements is `[]`.
    pub fn end(self) {
        say!("{}", if self.begun { "]" } else { "[]" });
    }
}

/// Prints a table with columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    text(&edgewarden_terminal::table(head, rows));
}

/// Prints lines of `name  value`.
pub fn facts(rows: &[(&str, String)]) {
    text(&edgewarden_terminal::facts(rows));
}
