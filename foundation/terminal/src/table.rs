//! Tables for people.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Row, Table};

use crate::text::shortened;

const CELL_CHARACTERS_MAX: usize = 400;

/// Lines of columns without borders, two spaces between them, each as wide as its widest cell is on a terminal. What
/// somebody else has written in a cell stays on its line and does nothing.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    table.add_rows(rows.iter().map(|cells| row(cells)));
    laid_out(table)
}

/// Lines of `name  value`.
pub fn facts(facts: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.add_rows(facts.iter().map(|(name, value)| row(&[(*name).to_owned(), value.clone()])));
    laid_out(table)
}

fn row(cells: &[String]) -> Row {
    let cell = |text: &String| Cell::new_owned(shortened(text, CELL_CHARACTERS_MAX));
    Row::from(cells.iter().map(cell))
}

fn laid_out(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(&["A", "LONG"], &[row(&["é", "x"]), row(&["abc", ""]), row(&["", "\u{1b}"])]);
        assert_eq!(text, "A    LONG\né    x\nabc\n     \\u{1b}\n");
        assert_eq!(table(&["A", "B"], &[row(&["血糖", "x"])]), "A     B\n血糖  x\n");
        assert_eq!(table(&["A", "B"], &[]), "A  B\n");
        assert_eq!(
            facts(&[("name", "gw-1".into()), ("at", "two\nlines".into())]),
            "name  gw-1\nat    two\\nlines\n"
        );
    }

    /// Rows beyond what one that looks through all of them for each cell ends within.
    #[test]
    fn a_long_table_is_laid_out_row_by_row() {
        let rows: Vec<Vec<String>> = (0..100_000).map(|n| vec![n.to_string(); 8]).collect();
        assert_eq!(table(&["A"; 8], &rows).lines().count(), 100_001);
    }
}
