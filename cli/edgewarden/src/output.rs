//! Prints answers: a table for people, JSON for scripts.

use serde::Serialize;

use crate::exit::Problem;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// Certificates, of `svid fetch`.
    Pem,
}

/// One JSON document on one line.
pub fn json(value: &impl Serialize) -> Result<(), Problem> {
    println!("{}", serde_json::to_string(value).map_err(Problem::failed)?);
    Ok(())
}

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let print = |cells: &[String]| {
        let line: Vec<String> =
            cells.iter().enumerate().map(|(n, cell)| format!("{cell:<width$}", width = width(n))).collect();
        println!("{}", line.join("  ").trim_end());
    };
    print(&head.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
    for row in rows {
        print(row);
    }
}

/// `in 29 d`, `in 52 min`, `passed`.
pub fn until(then: edgewarden_names::UnixTime, now: edgewarden_names::UnixTime) -> String {
    let seconds = then.after(now).as_secs();
    match seconds {
        0 => "passed".into(),
        1..=119 => format!("in {seconds} s"),
        120..=7199 => format!("in {} min", seconds / 60),
        7200..=172_799 => format!("in {} h", seconds / 3600),
        _ => format!("in {} d", seconds / 86400),
    }
}

/// `2026-11-21 06:13:40Z`
pub fn at(time: edgewarden_names::UnixTime) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    let seconds = i64::try_from(time.0).ok();
    let moment = seconds.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.and_then(|moment| moment.format(FORM).ok()).unwrap_or_else(|| time.to_string())
}

/// Somebody else's text as a terminal may have it: what would move the cursor, change colours or titles, or turn the
/// direction of writing is shown and not done.
pub fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\t') || turns {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::for_terminal;

    #[test]
    fn a_terminal_gets_no_commands() {
        for (text, shown) in [
            ("plain, déjà vu, 血糖\tcolumn", "plain, déjà vu, 血糖\tcolumn"),
            ("\u{1b}[2J\u{1b}]0;root\u{7}", "\\u{1b}[2J\\u{1b}]0;root\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("good\rbad\u{8}\u{7f}", "good\\u{d}bad\\u{8}\\u{7f}"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("\0", "\\u{0}"),
        ] {
            assert_eq!(for_terminal(text), shown);
        }
    }
}
