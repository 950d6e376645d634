//! Counts of each key's uses, for the audit log, the list of keys and the metrics.
//!
//! A signature each second would fill the log with entries of which none says more than the one before. So uses are
//! counted, and once a minute one entry a key says how often it was used and for what; what was counted and not written
//! when the process is killed is lost.

use std::collections::BTreeMap;

use edgewarden_names::{KeyName, ModuleName};
use edgewarden_workload_wire::keys::Operation;

#[derive(Debug, Default, Clone)]
struct Count {
    total: u64,
    unwritten: BTreeMap<Operation, u64>,
}

/// By module and key: as many as there are keys.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<(ModuleName, KeyName), Count>);

impl Uses {
    /// Counts one use.
    pub fn count(&mut self, module: &ModuleName, key: &KeyName, operation: Operation) {
        let count = self.0.entry((module.clone(), key.clone())).or_default();
        count.total = count.total.saturating_add(1);
        let times = count.unwritten.entry(operation).or_default();
        *times = times.saturating_add(1);
    }

    /// Since the start of the process.
    pub fn total(&self, module: &ModuleName, key: &KeyName) -> u64 {
        self.0.get(&(module.clone(), key.clone())).map_or(0, |count| count.total)
    }

    /// Uses that have not been written down yet: module and `key: sign 12, certify 1`.
    pub fn take_unwritten(&mut self) -> Vec<(ModuleName, String)> {
        let mut taken = Vec::new();
        for ((module, key), count) in &mut self.0 {
            let unwritten = std::mem::take(&mut count.unwritten);
            let words: Vec<_> = unwritten
                .iter()
                .map(|(operation, times)| format!("{} {times}", operation.as_str()))
                .collect();
            if !words.is_empty() {
                taken.push((module.clone(), format!("{key}: {}", words.join(", "))));
            }
        }
        taken
    }

    /// Keeps the keys that are there.
    pub fn retain(&mut self, is_there: impl Fn(&ModuleName, &KeyName) -> bool) {
        self.0.retain(|(module, key), _| is_there(module, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_written_once_and_counted_for_ever() {
        let (module, key) = (ModuleName::parse("alerts").unwrap(), KeyName::parse("k").unwrap());
        let mut uses = Uses::default();
        for operation in [Operation::Sign, Operation::Certify, Operation::Sign] {
            uses.count(&module, &key, operation);
        }
        assert_eq!(uses.take_unwritten(), [(module.clone(), "k: sign 2, certify 1".to_owned())]);
        assert!(uses.take_unwritten().is_empty());
        assert_eq!(uses.total(&module, &key), 3);
        uses.retain(|_, _| false);
        assert_eq!(uses.total(&module, &key), 0);
    }
}
