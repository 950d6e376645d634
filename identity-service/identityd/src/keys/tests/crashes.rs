//! The process is killed at every step, on the disk and in the keystore: a key that was acknowledged is there and works,
//! one that was not is there whole or not at all, and nothing is left in the keystore or on the disk that no name stands
//! for.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_decisions::renewal::Tick;
use edgewarden_keystore::{Description, Health, KeyAttestation, Keystore, KeystoreError, Quote};
use edgewarden_names::{GatewayName, KeyName, ModuleName, Reason, TrustDomain, UnixTime};
use edgewarden_platform::crash_points::with_hook;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use edgewarden_workload_wire::keys::{Purpose, Use, Wanted};
use zeroize::Zeroizing;

use super::super::{Keys, OpenError, Who, index};
use super::store;
use crate::metrics::Metrics;

/// Counts steps, and fails from one on.
#[derive(Debug, Default)]
struct Power {
    steps: usize,
    cut_at: Option<usize>,
}

impl Power {
    fn step(&mut self) -> bool {
        let on = self.cut_at.is_none_or(|cut_at| self.steps < cut_at);
        self.steps += 1;
        on
    }
}

/// A keystore in memory that outlives the process that uses it.
#[derive(Default)]
pub(super) struct Memory {
    power: Arc<Mutex<Power>>,
    keys: Mutex<BTreeMap<String, EcdsaKeyPair>>,
    sealed: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Held by what a chip does.
    pub(super) chip: Mutex<()>,
}

impl Memory {
    /// A change in the store is one step: before it, and not during it, the process may die.
    fn step(&self) -> Result<(), KeystoreError> {
        let off = || KeystoreError::Unreachable { store: "memory".into(), detail: "the power is off".into() };
        if self.power.lock().unwrap().step() { Ok(()) } else { Err(off()) }
    }

    fn labels(&self) -> Vec<String> {
        let mut labels: Vec<_> = self.keys.lock().unwrap().keys().cloned().collect();
        labels.extend(self.sealed.lock().unwrap().keys().cloned());
        labels.sort();
        labels
    }
}

const NOT_HERE: KeystoreError = KeystoreError::Unsupported("a memory", "do that");

impl Keystore for Memory {
    fn describe(&self) -> Description {
        Description { text: "memory".into(), hardware: false, dangerous: true }
    }
    fn health(&self) -> Result<Health, KeystoreError> {
        Err(NOT_HERE)
    }
    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        Err(NOT_HERE)
    }
    fn prove(
        &self,
        _: &Challenge,
        _: &GatewayName,
        _: &TrustDomain,
        _: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        Err(NOT_HERE)
    }
    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_HERE)
    }
    fn ca_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_HERE)
    }
    fn quote(&self, _: &[u8], _: &[u8]) -> Result<Quote, KeystoreError> {
        Err(NOT_HERE)
    }
    fn device_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_HERE)
    }
    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError> {
        let _chip = self.chip.lock().unwrap();
        self.step()?;
        self.sealed.lock().unwrap().insert(name.into(), secret.into());
        Ok(())
    }
    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let sealed = self.sealed.lock().unwrap().get(name).cloned();
        sealed.map(Zeroizing::new).ok_or_else(|| KeystoreError::NotSealed(name.into()))
    }
    fn forget(&self, name: &str) -> Result<(), KeystoreError> {
        self.step()?;
        self.sealed.lock().unwrap().remove(name);
        Ok(())
    }
    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        self.step()?;
        let mut keys = self.keys.lock().unwrap();
        if keys.contains_key(name) {
            return Err(KeystoreError::KeyExists(name.into()));
        }
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let point = key.public_key().as_ref().to_vec();
        keys.insert(name.into(), key);
        Ok(point)
    }
    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let keys = self.keys.lock().unwrap();
        let key = keys.get(name).ok_or_else(|| KeystoreError::NoKey(name.into()))?;
        Ok(key.public_key().as_ref().to_vec())
    }
    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let keys = self.keys.lock().unwrap();
        let key = keys.get(name).ok_or_else(|| KeystoreError::NoKey(name.into()))?;
        Ok(key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
    }
    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(NOT_HERE)
    }
    fn delete_key(&self, name: &str) -> Result<(), KeystoreError> {
        self.step()?;
        self.keys.lock().unwrap().remove(name);
        Ok(())
    }
    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(NOT_HERE)
    }
    fn agree(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        Err(NOT_HERE)
    }
    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(NOT_HERE)
    }
}

pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) memory: Arc<Memory>,
    config: Config,
}

pub(super) const TICK: Tick = Tick { monotonic: Duration::from_secs(9), wall: UnixTime(1_000_000) };

fn module() -> ModuleName {
    ModuleName::parse("alerts").unwrap()
}

fn name(text: &str) -> KeyName {
    KeyName::parse(text).unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n[keystore]\nkind = \"software\"\npassphrase_file = \"/x\"\n";
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        Self { folder, memory: Arc::default(), config }
    }

    fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    pub(super) fn open(&self) -> Result<Keys, OpenError> {
        let state = self.state();
        edgewarden_platform::durable::sweep(&state)
            .map_err(|source| OpenError::Folder { path: state.clone(), source })?;
        let store = Arc::new(store(&state)?);
        let keystore: Arc<dyn Keystore> = Arc::clone(&self.memory) as _;
        Keys::open(&self.config, keystore, Arc::new(Metrics::default()), store, &state)
    }

    /// Runs `body` and kills it before step `cut_at`. True when it came so far.
    fn cut<T>(&self, cut_at: Option<usize>, body: impl FnOnce() -> T) -> (T, bool) {
        let power = Arc::clone(&self.memory.power);
        *power.lock().unwrap() = Power { steps: 0, cut_at };
        let hook = move |_: edgewarden_platform::crash_points::Step<'_>| {
            if power.lock().unwrap().step() { Ok(()) } else { Err(io::Error::other("the power is off")) }
        };
        let out = with_hook(hook, body);
        let steps = self.memory.power.lock().unwrap().steps;
        *self.memory.power.lock().unwrap() = Power::default();
        (out, cut_at.is_some_and(|cut_at| steps > cut_at))
    }

    /// Every name stands for something that works, and nothing else is there.
    fn check(&self, keys: &Keys, place: &str) -> BTreeMap<String, Vec<u8>> {
        let module = module();
        let who = Who { instance: "alerts-1", module: &module };
        let (mut labels, mut files, mut found) = (Vec::new(), Vec::new(), BTreeMap::new());
        for key in keys.list(&module) {
            let (_, right) = keys.grant(who, &key.name, Wanted::default(), TICK).unwrap();
            let by = Use { key: key.name.clone(), capability: right.token };
            let label = index::label(&module, &key.name, key.generation);
            let value = match key.purpose {
                Purpose::Sign => {
                    keys.sign(who, &by, b"message", TICK).unwrap_or_else(|error| panic!("{place}: {error}"));
                    Vec::new()
                }
                Purpose::Encrypt => {
                    let sealed = keys.encrypt(who, &by, b"data", b"", TICK).unwrap();
                    assert_eq!(keys.decrypt(who, &by, &sealed, b"", TICK).unwrap().as_slice(), b"data");
                    Vec::new()
                }
                Purpose::Secret => {
                    files.push(label.clone());
                    let opened = keys.unseal(who, &by, TICK);
                    opened.unwrap_or_else(|error| panic!("{place}: {error}")).to_vec()
                }
            };
            labels.push(label);
            found.insert(key.name.to_string(), value);
        }
        labels.sort();
        files.sort();
        assert_eq!(self.memory.labels(), labels, "{place}: what the keystore holds");
        assert_eq!(names(&self.state().join("resident-secrets")), files, "{place}: what the folder holds");
        found
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

type Done = Result<(), edgewarden_names::Refusal>;
type Action = fn(&Keys, Who<'_>) -> Done;

pub(super) fn right(keys: &Keys, who: Who<'_>, key: &str) -> Use {
    let (_, right) = keys.grant(who, &name(key), Wanted::default(), TICK).unwrap();
    Use { key: name(key), capability: right.token }
}

fn no_right(key: &str) -> Use {
    Use { key: name(key), capability: Vec::new() }
}

pub(super) fn create(keys: &Keys, who: Who<'_>, key: &str, purpose: Purpose) -> Done {
    keys.create(who, &name(key), purpose, Wanted::default(), TICK).map(drop)
}

#[test]
fn a_kill_at_any_step_leaves_keys_whole_and_nothing_besides() {
    let module = module();
    let who = Who { instance: "alerts-1", module: &module };
    let actions: [(&str, &str, Action); 7] = [
        ("create a signing key", "new", |keys, who| create(keys, who, "new", Purpose::Sign)),
        ("create a data key", "new", |keys, who| create(keys, who, "new", Purpose::Encrypt)),
        ("seal", "new", |keys, who| {
            keys.seal(who, &no_right("new"), b"new", Wanted::default(), TICK).map(drop)
        }),
        ("replace a secret", "secret", |keys, who| {
            keys.seal(who, &right(keys, who, "secret"), b"new", Wanted::default(), TICK).map(drop)
        }),
        ("delete a signing key", "sign", |keys, who| {
            keys.delete(who, &right(keys, who, "sign"), TICK).map(drop)
        }),
        ("delete a data key", "data", |keys, who| {
            keys.delete(who, &right(keys, who, "data"), TICK).map(drop)
        }),
        ("delete a secret", "secret", |keys, who| {
            keys.delete(who, &right(keys, who, "secret"), TICK).map(drop)
        }),
    ];
    for (what, key, action) in actions {
        let mut cuts = 0;
        for cut_at in 0.. {
            let world = World::new();
            let keys = world.open().unwrap();
            create(&keys, who, "sign", Purpose::Sign).unwrap();
            create(&keys, who, "data", Purpose::Encrypt).unwrap();
            keys.seal(who, &no_right("secret"), b"old", Wanted::default(), TICK).unwrap();
            let before = world.check(&keys, what);
            let (outcome, came) = world.cut(Some(cut_at), || action(&keys, who));
            drop(keys);
            let place = format!("{what}, killed before step {cut_at}");
            if came {
                cuts += 1;
                // The start after it may be killed too, anywhere, and what it did not get done is done by the next.
                for again in 0.. {
                    let (opened, came) = world.cut(Some(again), || world.open().map(drop).is_ok());
                    if !came {
                        assert!(opened, "{place}: the next start");
                        break;
                    }
                }
            } else {
                outcome.clone().unwrap();
            }
            let keys = world.open().unwrap_or_else(|error| panic!("{place}: {error}"));
            let after = world.check(&keys, &place);
            let changed = after != before;
            assert!(changed || outcome.is_err(), "{place}: what was acknowledged is lost");
            let others = |found: &BTreeMap<String, Vec<u8>>| {
                found
                    .iter()
                    .filter(|(name, _)| *name != key)
                    .map(|(n, v)| (n.clone(), v.clone()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(others(&after), others(&before), "{place}: the others");
            // Whatever it left can be gone on with.
            if key == "new" && !changed {
                action(&keys, who).unwrap_or_else(|error| panic!("{place}: again: {error}"));
            }
            if !came {
                break;
            }
        }
        assert!(cuts >= 8, "{what}: {cuts} cuts");
    }
}

#[test]
fn what_the_keystore_has_lost_is_said_and_can_be_made_again() {
    let module = module();
    let who = Who { instance: "alerts-1", module: &module };
    let world = World::new();
    let keys = world.open().unwrap();
    create(&keys, who, "sign", Purpose::Sign).unwrap();
    keys.seal(who, &no_right("secret"), b"old", Wanted::default(), TICK).unwrap();
    let (by, secret) = (right(&keys, who, "sign"), right(&keys, who, "secret"));
    assert_eq!(create(&keys, who, "sign", Purpose::Sign).unwrap_err().reason, Reason::KeyExists);
    world.memory.keys.lock().unwrap().clear();
    world.memory.sealed.lock().unwrap().clear();
    assert_eq!(keys.sign(who, &by, b"m", TICK).unwrap_err().reason, Reason::KeyUnknown);
    assert_eq!(keys.unseal(who, &secret, TICK).unwrap_err().reason, Reason::KeyUnknown);
    create(&keys, who, "sign", Purpose::Sign).unwrap();
    keys.seal(who, &no_right("secret"), b"new", Wanted::default(), TICK).unwrap();
    // The right was for the key that is lost.
    assert_eq!(keys.sign(who, &by, b"m", TICK).unwrap_err().reason, Reason::KeyCapability);
    assert_eq!(world.check(&keys, "made again")["secret"], b"new");
}

/// A backup of the index gives generations a second time; the keystore has keys of them already.
#[test]
fn an_index_from_a_backup_takes_no_key_that_it_did_not_make() {
    let module = module();
    let who = Who { instance: "alerts-1", module: &module };
    let world = World::new();
    let keys = world.open().unwrap();
    let index = world.state().join("resident-keys.json");
    let backup = std::fs::read(&index).unwrap();
    create(&keys, who, "sign", Purpose::Sign).unwrap();
    let before = keys.public_key(who, &name("sign"), TICK).unwrap();
    drop(keys);
    std::fs::write(&index, backup).unwrap();
    let keys = world.open().unwrap();
    create(&keys, who, "sign", Purpose::Sign).unwrap();
    assert_ne!(keys.public_key(who, &name("sign"), TICK).unwrap(), before);
    world.check(&keys, "a backup");
}

#[test]
fn a_file_of_a_secret_that_was_changed_or_swapped_is_refused() {
    let module = module();
    let who = Who { instance: "alerts-1", module: &module };
    let world = World::new();
    let keys = world.open().unwrap();
    for (key, secret) in [("one", b"first"), ("two", b"other")] {
        keys.seal(who, &no_right(key), secret, Wanted::default(), TICK).unwrap();
    }
    let folder = world.state().join("resident-secrets");
    let [one, two] = names(&folder).try_into().unwrap();
    let (one, two) = (folder.join(one), folder.join(two));
    let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
    for changed in [second.as_slice(), &first[..first.len() - 1], &[], &[first.as_slice(), b"x"].concat()] {
        std::fs::write(&one, changed).unwrap();
        let refused =
            ["one", "two"].iter().filter(|key| keys.unseal(who, &right(&keys, who, key), TICK).is_err());
        assert_eq!(refused.count(), 1);
    }
    std::fs::write(&one, &first).unwrap();
    assert!(keys.unseal(who, &right(&keys, who, "one"), TICK).is_ok());
}
