use super::*;
use std::cell::RefCell;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counter {
    last: u64,
}

impl Document for Counter {
    const FILE: &'static str = "generations.json";
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Floor {
    floor: u64,
}

impl Document for Floor {
    const FILE: &'static str = "clock.json";
}

/// Beside the set, written by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alone {
    keys: Vec<String>,
}

impl Document for Alone {
    const FILE: &'static str = "keys.json";
}

#[derive(Debug, Clone, Default)]
struct Pair {
    generations: Arc<Counter>,
    clock: Arc<Floor>,
}

impl DocumentSet for Pair {
    fn texts(&self, before: Option<&Self>) -> serde_json::Result<Texts> {
        let mut texts = Texts::default();
        texts.put_changed(&self.generations, before.map(|before| &before.generations))?;
        texts.put_changed(&self.clock, before.map(|before| &before.clock))?;
        Ok(texts)
    }
}

impl Pair {
    fn load(store: &Store) -> Result<Self, StateError> {
        Ok(Self { generations: store.load().map(Arc::new)?, clock: store.load().map(Arc::new)? })
    }
}

fn first() -> Texts {
    let mut first = Pair::default().texts(None).unwrap();
    first.put(&Alone::default()).unwrap();
    first
}

/// A keystore that has one value at most.
#[derive(Default)]
struct Keeper(RefCell<Option<Vec<u8>>>);

impl KeyKeeper for Keeper {
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
        Ok(self.0.borrow().clone().map(Zeroizing::new))
    }

    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError> {
        *self.0.borrow_mut() = Some(key.to_vec());
        Ok(())
    }
}

fn open(folder: &Path, keeper: &Keeper) -> Result<Store, StateError> {
    Store::open(folder, &first(), keeper, None)
}

fn write(path: &Path, name: &str, key: &StateKey, version: u32, content: &str) {
    std::fs::write(path, key.write(name, version, content)).unwrap();
}

#[test]
fn damaged_state_is_an_error_that_names_the_file() {
    let (folder, keeper) = (tempfile::tempdir().unwrap(), Keeper::default());
    let store = open(folder.path(), &keeper).unwrap();
    assert_eq!(store.load::<Counter>().unwrap(), Counter::default());
    let before = Pair::default();
    let after = Pair { generations: Arc::new(Counter { last: 7 }), ..before.clone() };
    store.save_changed(&after, &before).unwrap();
    assert_eq!(store.load::<Counter>().unwrap().last, 7);

    let path = folder.path().join(Counter::FILE);
    let refused = |name: &str| {
        let error = store.load::<Counter>().unwrap_err();
        assert!(error.to_string().contains(Counter::FILE), "{name}: {error}");
        assert!(Pair::load(&store).is_err(), "{name}");
    };
    for (name, text) in [
        ("empty", ""),
        ("torn", r#"{"version":1,"content":{"la"#),
        ("without a proof", r#"{"version":1,"content":{"last":7}}"#),
        ("no version", r#"{"content":{"last":7}}"#),
        ("zeros", "\0\0\0\0\0\0\0\0"),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(name);
    }
    // Ours, and of another version of the program.
    for (name, version, content) in [
        ("unknown field", 1, r#"{"last":7,"next":8}"#),
        ("missing field", 1, "{}"),
        ("later version", 2, r#"{"last":7}"#),
        ("other type", 1, r#"{"last":"7"}"#),
    ] {
        write(&path, Counter::FILE, &store.key, version, content);
        refused(name);
    }
    std::fs::write(&path, vec![b' '; DOCUMENT_BYTES_MAX + 1]).unwrap();
    assert!(matches!(store.load::<Counter>(), Err(StateError::Read { .. })));
    std::fs::remove_file(&path).unwrap();
    refused("gone");
}

#[test]
fn only_what_changed_is_written() {
    use std::os::unix::fs::MetadataExt as _;
    let (folder, keeper) = (tempfile::tempdir().unwrap(), Keeper::default());
    let store = open(folder.path(), &keeper).unwrap();
    let inodes = || -> BTreeMap<_, _> {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().ino())).collect()
    };
    let first = inodes();
    let before = Pair::default();
    let mut after = before.clone();
    after.generations = Arc::new(Counter { last: 1 });
    store.save_changed(&after, &before).unwrap();
    let changed: Vec<_> = inodes().into_iter().filter(|(name, ino)| first.get(name) != Some(ino)).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(changed[0].0, Counter::FILE);
}

#[test]
fn a_journal_that_is_not_ours_is_refused() {
    let (folder, keeper) = (tempfile::tempdir().unwrap(), Keeper::default());
    let key = open(folder.path(), &keeper).unwrap().key;
    let path = folder.path().join(JOURNAL);
    let forged = r#"{"files":{"clock.json":"{\"version\":1,\"content\":{\"floor\":7}}"}}"#;
    for (name, text) in [
        ("empty", String::new()),
        ("torn", r#"{"version":1,"files":{"clock.json":"#.into()),
        ("without a proof", format!("{{\"version\":1,\"content\":{forged}}}")),
        ("another key", StateKey::new(&[7; KEY_BYTES]).write(JOURNAL, 1, forged)),
        ("another version", key.write(JOURNAL, 2, r#"{"files":{}}"#)),
        ("a document", key.write(Floor::FILE, 1, forged)),
        ("another file", key.write(JOURNAL, 1, r#"{"files":{"../../etc/passwd":"x"}}"#)),
        ("itself", key.write(JOURNAL, 1, r#"{"files":{"journal.json":"x"}}"#)),
        ("unknown field", key.write(JOURNAL, 1, r#"{"files":{},"more":1}"#)),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = open(folder.path(), &keeper).unwrap_err().to_string();
        assert!(error.contains(JOURNAL), "{name}: {error}");
    }
    let document = key.write(Floor::FILE, 1, r#"{"floor":7}"#);
    let files = [(Floor::FILE.to_owned(), document)].into();
    let journal = serde_json::to_string(&Journal { files }).unwrap();
    std::fs::write(&path, key.write(JOURNAL, 1, &journal)).unwrap();
    let store = open(folder.path(), &keeper).unwrap();
    assert_eq!(store.load::<Floor>().unwrap().floor, 7);
    assert!(!path.exists());
}

#[test]
fn documents_that_are_gone_or_have_no_key_are_not_taken_for_absent() {
    let (folder, keeper) = (tempfile::tempdir().unwrap(), Keeper::default());
    let new = open(folder.path(), &keeper).unwrap();
    assert!(new.is_new() && !open(folder.path(), &keeper).unwrap().is_new());
    for name in first().names() {
        let path = folder.path().join(name);
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = open(folder.path(), &keeper).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("state.untrusted"), "{error}");
        std::fs::write(&path, kept).unwrap();
    }
    let key = keeper.0.take();
    let error = open(folder.path(), &keeper).unwrap_err().to_string();
    assert!(error.contains("no key"), "{error}");
    keeper.0.replace(key);
    open(folder.path(), &keeper).unwrap();
    // All of them gone is a new beginning, in which none of the old ones counts.
    let old = std::fs::read(folder.path().join(Counter::FILE)).unwrap();
    for name in first().names() {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let store = open(folder.path(), &keeper).unwrap();
    assert!(store.is_new());
    std::fs::write(folder.path().join(Counter::FILE), old).unwrap();
    assert!(matches!(store.load::<Counter>(), Err(StateError::Untrusted { .. })));
}
