//! Query for entries. Pure.

use std::collections::VecDeque;

use edgewarden_names::{ModuleName, UnixTime};
use edgewarden_protocol::control::AuditEntry;

/// Most entries that one request may see.
pub const ENTRIES_MAX: usize = 1000;

/// The newest `last` of the entries that are about the module and not before `since`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub since: Option<UnixTime>,
    pub module: Option<ModuleName>,
    /// At most [`ENTRIES_MAX`].
    pub last: usize,
}

impl Query {
    /// `true` when the entry is in time and about the module.
    pub fn picks(&self, entry: &AuditEntry) -> bool {
        self.since.is_none_or(|since| since <= entry.at)
            && self
                .module
                .as_ref()
                .is_none_or(|module| is_about(&entry.subject, module) || is_about(&entry.detail, module))
    }

    pub(super) fn picked(&self) -> Picked<'_> {
        Picked { query: self, entries: VecDeque::new() }
    }
}

/// Does a text name the module: alone, as the end of its SPIFFE ID, or as one of its instances (`name-7`)?
fn is_about(text: &str, module: &ModuleName) -> bool {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter_map(|word| word.strip_prefix(module.as_str())).any(|rest| {
        let generation = rest.strip_prefix('-');
        rest.is_empty()
            || generation
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[derive(Debug)]
pub(super) struct Picked<'q> {
    query: &'q Query,
    entries: VecDeque<AuditEntry>,
}

impl Picked<'_> {
    /// Takes an entry in if the query picks it; the oldest of too many goes.
    pub fn offer(&mut self, entry: AuditEntry) {
        let last = self.query.last.min(ENTRIES_MAX);
        if last == 0 || !self.query.picks(&entry) {
            return;
        }
        if self.entries.len() >= last {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The entries that are left, oldest first.
    pub fn into_entries(self) -> Vec<AuditEntry> {
        self.entries.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_name_alone() {
        let module = ModuleName::parse("alerts").unwrap();
        for (text, expected) in [
            ("alerts", true),
            ("alerts-7", true),
            ("spiffe://plant.example/gateway/gw-1/module/alerts", true),
            ("process 7 belongs to alerts-12", true),
            ("alerts-7, serial ab", true),
            ("alerts-", false),
            ("alerts-7a", false),
            ("alerts-new-7", false),
            ("my-alerts", false),
            ("alert", false),
            ("alertsx", false),
            ("", false),
        ] {
            assert_eq!(is_about(text, &module), expected, "{text}");
        }
    }
}
