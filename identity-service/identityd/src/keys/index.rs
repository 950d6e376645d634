//! Index of the keys: a document of its own, written before and after each change in the keystore.
//!
//! A key that is made, replaced or destroyed has its generation under `unsettled` while the keystore may hold it and no
//! name stands for it. So a crash at any point leaves a list of what is to be destroyed, which the next start does; and
//! what a name stands for changes in one write.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{KeyName, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_protocol::document::Document;
use edgewarden_state::Store;
use edgewarden_workload_wire::keys::{Key, Purpose};
use serde::{Deserialize, Serialize};

use super::ciphertext::MESSAGES_MAX;
use super::fields::encode;
use crate::refuse::internal;

/// Keys and secrets of one module.
pub const MODULE_KEYS_MAX: usize = 16;
/// Of all modules, also of those that are no longer deployed.
pub const KEYS_MAX: usize = 1024;
/// Of one module that the keystore has yet to destroy: when it does not, no more are made.
const UNSETTLED_MAX: usize = MODULE_KEYS_MAX;
/// Messages that are written down as used at a time: so many are lost, at most, by a crash.
const MESSAGES_BLOCK: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Sign,
    Encrypt,
    Secret,
}

impl From<Purpose> for Kind {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Sign => Self::Sign,
            Purpose::Encrypt => Self::Encrypt,
            Purpose::Secret => Self::Secret,
        }
    }
}

impl From<Kind> for Purpose {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Sign => Self::Sign,
            Kind::Encrypt => Self::Encrypt,
            Kind::Secret => Self::Secret,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub kind: Kind,
    pub generation: u64,
    pub created: UnixTime,
    /// Messages that it may have encrypted.
    #[serde(default)]
    pub messages: u64,
}

impl Entry {
    /// The facts that a module may know of its key.
    pub fn key(&self, name: &KeyName) -> Key {
        Key {
            name: name.clone(),
            purpose: self.kind.into(),
            generation: self.generation,
            created: self.created,
        }
    }
}

/// A key that the keystore may hold and no name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsettled {
    pub module: ModuleName,
    pub key: KeyName,
    pub kind: Kind,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    /// The generation that was given last. Never falls.
    last: u64,
    keys: BTreeMap<ModuleName, BTreeMap<KeyName, Entry>>,
    /// By generation.
    unsettled: BTreeMap<u64, Unsettled>,
}

impl Document for Index {
    const FILE: &'static str = "resident-keys.json";

    fn check(&self) -> Result<(), String> {
        let entries = || self.keys.values().flat_map(BTreeMap::values);
        if entries().count() > KEYS_MAX || self.unsettled.len() > KEYS_MAX + MODULE_KEYS_MAX {
            return Err(format!("more than {KEYS_MAX} keys"));
        }
        let generations = || entries().map(|entry| entry.generation).chain(self.unsettled.keys().copied());
        let distinct: std::collections::BTreeSet<u64> = generations().collect();
        if distinct.len() != generations().count() || distinct.last().is_some_and(|last| *last > self.last) {
            return Err("a generation is there twice, or above the last".into());
        }
        Ok(())
    }
}

/// Name of a key in the keystore: nothing that a module can choose, and no two alike.
pub(super) fn label(module: &ModuleName, key: &KeyName, generation: u64) -> String {
    let fields: [&[u8]; 4] = [
        b"edgewarden-resident-key-v1",
        module.as_str().as_bytes(),
        key.as_str().as_bytes(),
        &generation.to_be_bytes(),
    ];
    let hash = hex::encode(digest(&SHA256, &encode(&fields)));
    format!("k-{}", hash.chars().take(40).collect::<String>())
}

/// The index in memory and on disk.
#[derive(Debug)]
pub(super) struct IndexFile {
    index: Index,
    store: Arc<Store>,
    closed: bool,
    /// Messages that keys have encrypted, by generation, as far as this run knows better than the disk.
    used: BTreeMap<u64, u64>,
}

impl IndexFile {
    /// Over an index that was read.
    pub fn new(index: Index, store: Arc<Store>) -> Self {
        Self { index, store, closed: false, used: BTreeMap::new() }
    }

    /// Nothing is written any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The entry of a key.
    pub fn get(&self, module: &ModuleName, key: &KeyName) -> Option<&Entry> {
        self.index.keys.get(module)?.get(key)
    }

    /// The keys of a module.
    pub fn of(&self, module: &ModuleName) -> Vec<Key> {
        let keys = self.index.keys.get(module).into_iter().flatten();
        keys.map(|(name, entry)| entry.key(name)).collect()
    }

    /// The keys of all modules.
    pub fn all(&self) -> Vec<(ModuleName, Key)> {
        let one = |(module, keys): (&ModuleName, &BTreeMap<KeyName, Entry>)| {
            keys.iter().map(|(name, entry)| (module.clone(), entry.key(name))).collect::<Vec<_>>()
        };
        self.index.keys.iter().flat_map(one).collect()
    }

    /// The keys that are to be destroyed: of one module, or of all.
    pub fn unsettled(&self, module: Option<&ModuleName>) -> Vec<(u64, Unsettled)> {
        let of = self.index.unsettled.iter().filter(|(_, one)| module.is_none_or(|m| *m == one.module));
        of.map(|(generation, one)| (*generation, one.clone())).collect()
    }

    /// On disk first, then in force.
    fn put(&mut self, next: Index) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::new(Reason::Busy, "identityd", "it is stopping"));
        }
        self.store.save(&next).map_err(|error| internal("resident keys", &error))?;
        self.index = next;
        Ok(())
    }

    /// A generation for a key that is about to be made.
    pub fn begin(&mut self, module: &ModuleName, key: &KeyName, kind: Kind) -> Result<u64, Refusal> {
        let limit = |rule: String| Err(Refusal::new(Reason::KeyLimit, key, rule));
        let own = self.index.keys.get(module);
        let is_new = own.is_none_or(|own| !own.contains_key(key));
        if is_new && own.map_or(0, BTreeMap::len) >= MODULE_KEYS_MAX {
            return limit(format!("a module has {MODULE_KEYS_MAX} keys and secrets at most"));
        }
        if is_new && self.index.keys.values().map(BTreeMap::len).sum::<usize>() >= KEYS_MAX {
            return limit(format!("a gateway has {KEYS_MAX} keys and secrets at most"));
        }
        if self.unsettled(Some(module)).len() >= UNSETTLED_MAX || self.index.unsettled.len() >= KEYS_MAX {
            return limit("the keystore has yet to destroy former keys".into());
        }
        let mut next = self.index.clone();
        next.last = next.last.saturating_add(1);
        let unsettled = Unsettled { module: module.clone(), key: key.clone(), kind };
        next.unsettled.insert(next.last, unsettled);
        let generation = next.last;
        self.put(next)?;
        Ok(generation)
    }

    /// The key is in the keystore: from now on the name stands for it, and what the name stood for before is to be
    /// destroyed.
    pub fn commit(&mut self, generation: u64, created: UnixTime) -> Result<Entry, Refusal> {
        let mut next = self.index.clone();
        let Some(Unsettled { module, key, kind }) = next.unsettled.remove(&generation) else {
            return Err(Refusal::new(Reason::Internal, "key", "it was not begun"));
        };
        let entry = Entry { kind, generation, created, messages: 0 };
        let own = next.keys.entry(module.clone()).or_default();
        if let Some(before) = own.insert(key.clone(), entry.clone()) {
            next.unsettled.insert(before.generation, Unsettled { module, key, kind: before.kind });
        }
        self.put(next)?;
        Ok(entry)
    }

    /// The name stands for nothing any more; the key is to be destroyed.
    pub fn remove(&mut self, module: &ModuleName, key: &KeyName) -> Result<(), Refusal> {
        let mut next = self.index.clone();
        let Some(own) = next.keys.get_mut(module) else { return Ok(()) };
        let Some(before) = own.remove(key) else { return Ok(()) };
        if own.is_empty() {
            next.keys.remove(module);
        }
        let unsettled = Unsettled { module: module.clone(), key: key.clone(), kind: before.kind };
        next.unsettled.insert(before.generation, unsettled);
        self.put(next)
    }

    /// The keystore holds it no more.
    pub fn settled(&mut self, generation: u64) -> Result<(), Refusal> {
        self.used.remove(&generation);
        let mut next = self.index.clone();
        next.unsettled.remove(&generation);
        self.put(next)
    }

    /// Room for one more message under a key.
    pub fn count_message(&mut self, module: &ModuleName, key: &KeyName) -> Result<(), Refusal> {
        let Some(entry) = self.get(module, key) else {
            return Err(Refusal::new(Reason::KeyUnknown, key, "there is no such key"));
        };
        let (generation, written) = (entry.generation, entry.messages);
        let used = self.used.get(&generation).copied().unwrap_or(written);
        if used >= MESSAGES_MAX {
            return Err(Refusal::new(Reason::KeyExhausted, key, "it has encrypted 2^32 messages"));
        }
        if used >= written {
            let mut next = self.index.clone();
            if let Some(entry) = next.keys.get_mut(module).and_then(|own| own.get_mut(key)) {
                entry.messages = used.saturating_add(MESSAGES_BLOCK).min(MESSAGES_MAX);
            }
            self.put(next)?;
        }
        self.used.insert(generation, used.saturating_add(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_protocol::document::Shelf as _;

    fn module(text: &str) -> ModuleName {
        ModuleName::parse(text).unwrap()
    }

    fn key(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    fn open(folder: &std::path::Path) -> IndexFile {
        let store = Arc::new(super::super::tests::store(folder).unwrap());
        IndexFile::new(store.load().unwrap(), store)
    }

    #[test]
    fn labels_are_labels_and_no_two_are_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for (m, k, generation) in
            [("a", "bc", 1), ("ab", "c", 1), ("a", "bc", 2), ("bc", "a", 1), ("k", "k", 1)]
        {
            let label = label(&module(m), &key(k), generation);
            assert!(ModuleName::parse(&label).is_ok() && label.len() == 42, "{label}");
            assert!(seen.insert(label));
        }
    }

    #[test]
    fn a_name_stands_for_one_generation_and_the_others_are_to_be_destroyed() {
        let folder = tempfile::tempdir().unwrap();
        let (m, k) = (module("alerts"), key("k"));
        let mut file = open(folder.path());
        let first = file.begin(&m, &k, Kind::Sign).unwrap();
        assert!(file.get(&m, &k).is_none());
        assert_eq!(open(folder.path()).unsettled(None).len(), 1, "on disk before the keystore is asked");
        file.commit(first, UnixTime(5)).unwrap();
        assert!(open(folder.path()).unsettled(None).is_empty());
        let second = file.begin(&m, &k, Kind::Encrypt).unwrap();
        file.commit(second, UnixTime(6)).unwrap();
        let again = open(folder.path());
        assert_eq!(again.get(&m, &k).unwrap().generation, second);
        assert_eq!(again.unsettled(Some(&m)).iter().map(|(one, _)| *one).collect::<Vec<_>>(), [first]);
        assert!(again.unsettled(Some(&module("other"))).is_empty());
        file.settled(first).unwrap();
        file.remove(&m, &k).unwrap();
        file.settled(second).unwrap();
        // Generations are not given twice.
        assert_eq!(open(folder.path()).begin(&m, &k, Kind::Sign).unwrap(), second + 1);
        file.close();
        assert_eq!(file.begin(&m, &k, Kind::Sign).unwrap_err().reason, Reason::Busy);
    }

    #[test]
    fn limits_hold_for_each_module_and_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path());
        let m = module("alerts");
        for n in 0..MODULE_KEYS_MAX {
            let generation = file.begin(&m, &key(&format!("k{n}")), Kind::Sign).unwrap();
            file.commit(generation, UnixTime(1)).unwrap();
        }
        assert_eq!(file.begin(&m, &key("more"), Kind::Sign).unwrap_err().reason, Reason::KeyLimit);
        // One that is there can be replaced, and another module is not concerned.
        for _ in 0..UNSETTLED_MAX {
            file.begin(&m, &key("k0"), Kind::Sign).unwrap();
        }
        assert_eq!(file.begin(&m, &key("k0"), Kind::Sign).unwrap_err().reason, Reason::KeyLimit);
        assert!(file.begin(&module("other"), &key("k"), Kind::Sign).is_ok());
        let mut index = file.index.clone();
        for n in 0..KEYS_MAX {
            let entry =
                Entry { kind: Kind::Sign, generation: 1000 + n as u64, created: UnixTime(1), messages: 0 };
            index
                .keys
                .entry(module(&format!("m{}", n / 16)))
                .or_default()
                .insert(key(&format!("k{n}")), entry);
        }
        file.index = index;
        assert_eq!(file.begin(&module("late"), &key("k"), Kind::Sign).unwrap_err().reason, Reason::KeyLimit);
    }

    #[test]
    fn messages_are_counted_across_restarts_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let (m, k) = (module("alerts"), key("k"));
        let mut file = open(folder.path());
        let generation = file.begin(&m, &k, Kind::Encrypt).unwrap();
        file.commit(generation, UnixTime(1)).unwrap();
        for _ in 0..=MESSAGES_BLOCK {
            file.count_message(&m, &k).unwrap();
        }
        assert_eq!(file.get(&m, &k).unwrap().messages, 2 * MESSAGES_BLOCK);
        let mut again = open(folder.path());
        again.count_message(&m, &k).unwrap();
        assert_eq!(again.get(&m, &k).unwrap().messages, 3 * MESSAGES_BLOCK, "never fewer than there were");
        let near = MESSAGES_MAX - 1;
        again.index.keys.get_mut(&m).unwrap().get_mut(&k).unwrap().messages = near;
        again.used.insert(generation, near);
        again.count_message(&m, &k).unwrap();
        assert_eq!(again.count_message(&m, &k).unwrap_err().reason, Reason::KeyExhausted);
        assert_eq!(open(folder.path()).count_message(&m, &k).unwrap_err().reason, Reason::KeyExhausted);
    }

    #[test]
    fn a_damaged_index_is_an_error() {
        let entry =
            |generation: u64| Entry { kind: Kind::Sign, generation, created: UnixTime(1), messages: 0 };
        let two = |one: u64, other: u64| BTreeMap::from([(key("a"), entry(one)), (key("b"), entry(other))]);
        let index =
            |last, keys| Index { last, keys: BTreeMap::from([(module("m"), keys)]), ..Index::default() };
        assert!(index(2, two(1, 2)).check().is_ok());
        assert!(index(2, two(1, 1)).check().is_err());
        assert!(index(2, two(1, 3)).check().is_err());
    }
}
