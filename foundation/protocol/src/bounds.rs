//! Bounds of lists and texts in signed documents; the error is the rule that is broken.

use std::collections::BTreeSet;

/// Longest text, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;

pub(crate) fn at_most(what: &str, count: usize, max: usize) -> Result<(), String> {
    if count > max { Err(format!("{count} {what} are over the limit of {max}")) } else { Ok(()) }
}

pub(crate) fn text(what: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(format!("a {what} is empty, too long or holds control characters"));
    }
    Ok(())
}

pub(crate) fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("the {what} `{name}` is there twice"));
        }
    }
    Ok(())
}
