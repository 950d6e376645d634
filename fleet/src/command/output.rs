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

/// One JSON document on one line.
pub fn json(value: &impl Serialize) -> Result<(), Stop> {
    say!("{}", serde_json::to_string(value).map_err(Stop::failed)?);
    Ok(())
}

/// Columns as wide as their widest cell. What gateways sent cannot command the terminal.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| shortened(cell, CELL_CHARACTERS_MAX)).collect())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let print = |cells: &[String]| {
        let line: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
            .collect();
        say!("{}", line.join("  ").trim_end());
    };
    print(&head.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
    for row in &rows {
        print(row);
    }
}

/// Lines of `name  value`.
pub fn facts(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        say!("{name:<width$}  {}", shortened(value, CELL_CHARACTERS_MAX));
    }
}
