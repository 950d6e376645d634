//! Prints answers: a table for people, JSON for scripts.

use std::io::Write as _;

use serde::Serialize;

use super::exit::Stop;
use crate::text::shortened;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

const CELL_CHARACTERS_MAX: usize = 400;

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

    pub fn end(self) {
        say!("{}", if self.begun { "]" } else { "[]" });
    }
}

/// Columns as wide as their widest cell. What gateways sent cannot command the terminal.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    text(&laid_out(head, rows));
}

fn laid_out(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let short = |row: &Vec<String>| -> Vec<String> {
        row.iter().map(|cell| shortened(cell, CELL_CHARACTERS_MAX)).collect()
    };
    let rows: Vec<Vec<String>> = std::iter::once(&head).chain(rows).map(short).collect();
    // Each cell is measured once.
    let mut widths = vec![0; head.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let begun = text.len();
        for (cell, width) in row.iter().zip(&widths) {
            if text.len() > begun {
                text.push_str("  ");
            }
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        text.truncate(text.trim_end().len().max(begun));
        text.push('\n');
    }
    text
}

/// Lines of `name  value`.
pub fn facts(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        say!("{name:<width$}  {}", shortened(value, CELL_CHARACTERS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = laid_out(&["A", "LONG"], &[row(&["é", "x"]), row(&["abc", ""]), row(&["", "\u{1b}"])]);
        assert_eq!(text, "A    LONG\né    x\nabc\n     \\u{1b}\n");
    }

    /// Rows beyond what one that looks through all of them for each cell ends within.
    #[test]
    fn a_long_table_is_laid_out_row_by_row() {
        let rows: Vec<Vec<String>> = (0..100_000).map(|n| vec![n.to_string(); 8]).collect();
        assert_eq!(laid_out(&["A"; 8], &rows).lines().count(), 100_001);
    }
}
