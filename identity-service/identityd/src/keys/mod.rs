//! Resident keys: keys and secrets of modules that stay in the gateway's keystore (`edgewarden.keys.v1`).
//!
//! * [`Keys`]: all of it, under one roof · `source`: one instance's door, behind its Workload API socket
//! * `index`: which keys there are · `vault`: the keys · `budget`: what a module may ask for · `uses`: counts
//! * [`capability`], [`ciphertext`]: the two formats that callers carry for us
//!
//! Trusts the judge of callers, who says which instance of which module asks, and the keystore. Distrusts capabilities
//! and ciphertexts: both come back from a module. What the index says is on disk before the keystore is changed and
//! after, so that a crash leaves nothing behind that stands for nothing.

mod budget;
pub mod capability;
pub mod ciphertext;
mod fields;
mod index;
mod source;
#[cfg(test)]
mod tests;
mod uses;
mod vault;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_ca::spki;
use edgewarden_decisions::renewal::Tick;
use edgewarden_keystore::{KeyAttestation, Keystore};
use edgewarden_names::{
    ErrorChain, GatewayName, KeyName, ModuleName, Reason, Refusal, TrustDomain, UnixTime,
};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::ResidentKey;
use edgewarden_protocol::document::Shelf as _;
use edgewarden_state::{StateError, Store};
use edgewarden_workload_wire::keys::{Capability, Key, Operation, Purpose, Use, Wanted};
use zeroize::Zeroizing;

use self::budget::{Budget, Rate};
use self::capability::{Bound, Capabilities};
use self::ciphertext::{Belonging, DataKey, Of};
use self::index::{Entry, IndexFile, Kind, label};
use self::uses::Uses;
use self::vault::{Vault, VaultError};
use crate::metrics::Metrics;
use crate::refuse::internal;

pub(crate) use self::index::Index;
pub use self::index::{KEYS_MAX, MODULE_KEYS_MAX};
pub(crate) use self::source::{Door, InstanceKeys, write_uses};

/// Budgets kept at a time. Those that nobody uses make room.
const BUDGETS_MAX: usize = 256;

/// The caller: an instance that was judged to be one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    pub instance: &'a str,
    pub module: &'a ModuleName,
}

/// The resident keys of a gateway. Calls block.
pub(crate) struct Keys {
    domain: TrustDomain,
    gateway: GatewayName,
    capabilities: Capabilities,
    rate: Rate,
    vault: Vault,
    index: Mutex<IndexFile>,
    budgets: Mutex<BTreeMap<ModuleName, Arc<Budget>>>,
    uses: Mutex<Uses>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot use the folder `{}`", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("no random numbers: {0}")]
    Random(Refusal),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code below panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_such(key: &KeyName) -> Refusal {
    Refusal::new(Reason::KeyUnknown, key, "this module has no key of that name")
}

impl Keys {
    /// Opens the index, and destroys what a crash left in the keystore that no name stands for.
    pub fn open(
        config: &Config,
        keystore: Arc<dyn Keystore>,
        metrics: Arc<Metrics>,
        store: Arc<Store>,
        state: &Path,
    ) -> Result<Self, OpenError> {
        let folder = |source| OpenError::Folder { path: Vault::folder(state), source };
        let vault = Vault::open(keystore, metrics, state).map_err(folder)?;
        let keys = Self {
            domain: config.gateway.trust_domain.clone(),
            gateway: config.gateway.name.clone(),
            capabilities: Capabilities::new().map_err(OpenError::Random)?,
            rate: Rate::of_store(&config.keystore),
            vault,
            index: Mutex::new(IndexFile::new(store.load()?, store)),
            budgets: Mutex::default(),
            uses: Mutex::default(),
        };
        keys.settle(None);
        Ok(keys)
    }

    /// Writes nothing more.
    pub fn close(&self) {
        self.index().close();
    }

    fn index(&self) -> MutexGuard<'_, IndexFile> {
        lock(&self.index)
    }

    fn budget(&self, module: &ModuleName) -> Arc<Budget> {
        let mut budgets = lock(&self.budgets);
        if budgets.len() >= BUDGETS_MAX && !budgets.contains_key(module) {
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        Arc::clone(budgets.entry(module.clone()).or_insert_with(|| Arc::new(Budget::new(self.rate))))
    }

    /// Destroys what no name stands for. What the keystore does not destroy now is tried again with the module's next
    /// change, or at the next start.
    fn settle(&self, module: Option<&ModuleName>) {
        let unsettled = self.index().unsettled(module);
        for (generation, one) in unsettled {
            let label = label(&one.module, &one.key, generation);
            if let Err(error) = self.vault.destroy(&label, generation, one.kind) {
                tracing::error!(module = %one.module, key = %one.key, error = %ErrorChain(&error), "a former key is not destroyed yet");
                continue;
            }
            if let Err(refusal) = self.index().settled(generation) {
                tracing::error!(%refusal, "the list of keys is not up to date");
            }
        }
    }

    fn entry(&self, who: Who<'_>, key: &KeyName) -> Result<Entry, Refusal> {
        self.index().get(who.module, key).cloned().ok_or_else(|| no_such(key))
    }

    /// The key, if this caller may do that with it now.
    fn permitted(&self, who: Who<'_>, by: &Use, operation: Operation, tick: Tick) -> Result<Entry, Refusal> {
        let entry = self.entry(who, &by.key)?;
        let bound = Bound { instance: who.instance, key: &by.key, generation: entry.generation };
        self.capabilities.verify(&by.capability, bound, operation, tick)?;
        Ok(entry)
    }

    fn belonging<'a>(&'a self, of: Of, who: Who<'a>, key: &'a KeyName, generation: u64) -> Belonging<'a> {
        Belonging { of, domain: &self.domain, gateway: &self.gateway, module: who.module, key, generation }
    }

    fn give(
        &self,
        who: Who<'_>,
        key: &KeyName,
        entry: &Entry,
        wanted: Wanted,
        tick: Tick,
    ) -> Result<Capability, Refusal> {
        let all = Purpose::from(entry.kind).operations();
        let operations = if wanted.operations.is_empty() { all } else { wanted.operations };
        if !operations.is_within(all) {
            let rule =
                format!("a key for `{}` is not for these operations", Purpose::from(entry.kind).as_str());
            return Err(Refusal::new(Reason::RequestInvalid, key, rule));
        }
        let bound = Bound { instance: who.instance, key, generation: entry.generation };
        Ok(self.capabilities.give(bound, operations, wanted.lifetime, tick))
    }

    fn used(&self, who: Who<'_>, key: &KeyName, operation: Operation) {
        lock(&self.uses).count(who.module, key, operation);
    }

    /// Is the name free? What the keystore has lost leaves its name free.
    fn check_free(&self, who: Who<'_>, key: &KeyName) -> Result<(), Refusal> {
        let Some(entry) = self.index().get(who.module, key).cloned() else { return Ok(()) };
        match self.vault.look(&label(who.module, key, entry.generation), entry.kind) {
            Err(error) if error.is_lost() => {
                tracing::warn!(module = %who.module, %key, "the keystore has lost a key; its name is given again");
                Ok(())
            }
            Err(error) => Err(told(key, &error)),
            Ok(()) => Err(Refusal::new(Reason::KeyExists, key, "this module has it already")),
        }
    }

    /// Makes a key and puts it in the place of what the name stands for, if anything.
    fn put<T>(
        &self,
        who: Who<'_>,
        key: &KeyName,
        kind: Kind,
        created: UnixTime,
        work: impl FnOnce(&str, u64) -> Result<T, VaultError>,
    ) -> Result<(Entry, T), Refusal> {
        let generation = self.index().begin(who.module, key, kind)?;
        let made = work(&label(who.module, key, generation), generation).map_err(|error| told(key, &error));
        let put = made.and_then(|made| Ok((self.index().commit(generation, created)?, made)));
        // What was replaced goes, or what was made in vain.
        self.settle(Some(who.module));
        put
    }

    /// A signing key comes with its public half, DER.
    pub fn create(
        &self,
        who: Who<'_>,
        key: &KeyName,
        purpose: Purpose,
        wanted: Wanted,
        tick: Tick,
    ) -> Result<(Key, Capability, Option<Vec<u8>>), Refusal> {
        let kind = Kind::from(purpose);
        let all = purpose.operations();
        if kind == Kind::Secret || !wanted.operations.is_within(all) {
            let rule = "a key is made for `sign` or `encrypt`, with operations of its purpose";
            return Err(Refusal::new(Reason::RequestInvalid, key, rule));
        }
        let budget = self.budget(who.module);
        budget.use_store(tick.monotonic)?;
        let _one_change_at_a_time = lock(&budget.changing);
        self.settle(Some(who.module));
        self.check_free(who, key)?;
        budget.change(tick.monotonic)?;
        let (entry, point) = self.put(who, key, kind, tick.wall, |label, _| match kind {
            Kind::Sign => self.vault.make_signing(label).map(Some),
            Kind::Encrypt | Kind::Secret => self.vault.make_data(label).map(|()| None),
        })?;
        let capability = self.give(who, key, &entry, wanted, tick)?;
        Ok((entry.key(key), capability, point.map(|point| public_der(key, &point)).transpose()?))
    }

    pub fn grant(
        &self,
        who: Who<'_>,
        key: &KeyName,
        wanted: Wanted,
        tick: Tick,
    ) -> Result<(Key, Capability), Refusal> {
        let entry = self.entry(who, key)?;
        let capability = self.give(who, key, &entry, wanted, tick)?;
        Ok((entry.key(key), capability))
    }

    /// The public half of a signing key, from the keystore: DER.
    pub fn public_key(&self, who: Who<'_>, key: &KeyName, tick: Tick) -> Result<Vec<u8>, Refusal> {
        let label = signing(who, key, &self.entry(who, key)?)?;
        self.budget(who.module).use_store(tick.monotonic)?;
        let point = self.vault.public(&label).map_err(|error| told(key, &error))?;
        public_der(key, &point)
    }

    pub fn sign(&self, who: Who<'_>, by: &Use, message: &[u8], tick: Tick) -> Result<Vec<u8>, Refusal> {
        let entry = self.permitted(who, by, Operation::Sign, tick)?;
        let label = signing(who, &by.key, &entry)?;
        self.budget(who.module).use_store(tick.monotonic)?;
        let signature = self.vault.sign(&label, message).map_err(|error| told(&by.key, &error))?;
        self.used(who, &by.key, Operation::Sign);
        Ok(signature)
    }

    /// The public point of a key that is to be certified, and the store's proof of it for a nonce.
    pub fn certify(
        &self,
        who: Who<'_>,
        by: &Use,
        nonce: &[u8],
        tick: Tick,
    ) -> Result<(Vec<u8>, Option<KeyAttestation>), Refusal> {
        let entry = self.permitted(who, by, Operation::Certify, tick)?;
        let label = signing(who, &by.key, &entry)?;
        let budget = self.budget(who.module);
        budget.change(tick.monotonic)?;
        budget.use_store(tick.monotonic)?;
        let attestation = match nonce {
            [] => None,
            nonce => {
                budget.use_store(tick.monotonic)?;
                Some(self.vault.certify(&label, nonce).map_err(|error| told(&by.key, &error))?)
            }
        };
        let point = self.vault.public(&label).map_err(|error| told(&by.key, &error))?;
        self.used(who, &by.key, Operation::Certify);
        Ok((point, attestation))
    }

    fn data_key(
        &self,
        who: Who<'_>,
        key: &KeyName,
        entry: &Entry,
        tick: Tick,
    ) -> Result<Arc<DataKey>, Refusal> {
        if entry.kind != Kind::Encrypt {
            return Err(Refusal::new(Reason::RequestInvalid, key, "it is not a key for data"));
        }
        if let Some(held) = self.vault.held(entry.generation, tick.monotonic) {
            return Ok(held);
        }
        self.budget(who.module).use_store(tick.monotonic)?;
        let label = label(who.module, key, entry.generation);
        self.vault.open_data(&label, entry.generation, tick.monotonic).map_err(|error| told(key, &error))
    }

    pub fn encrypt(
        &self,
        who: Who<'_>,
        by: &Use,
        plaintext: &[u8],
        context: &[u8],
        tick: Tick,
    ) -> Result<Vec<u8>, Refusal> {
        let entry = self.permitted(who, by, Operation::Encrypt, tick)?;
        let data_key = self.data_key(who, &by.key, &entry, tick)?;
        self.index().count_message(who.module, &by.key)?;
        let belonging = self.belonging(Of::Data, who, &by.key, entry.generation);
        let ciphertext = data_key
            .encrypt(&belonging, plaintext, context)
            .map_err(|error| internal(by.key.as_str(), &error))?;
        self.used(who, &by.key, Operation::Encrypt);
        Ok(ciphertext)
    }

    pub fn decrypt(
        &self,
        who: Who<'_>,
        by: &Use,
        ciphertext: &[u8],
        context: &[u8],
        tick: Tick,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let entry = self.permitted(who, by, Operation::Decrypt, tick)?;
        let data_key = self.data_key(who, &by.key, &entry, tick)?;
        let belonging = self.belonging(Of::Data, who, &by.key, entry.generation);
        let plaintext = data_key.decrypt(&belonging, ciphertext, context).ok_or_else(|| {
            let rule = "it was not made with this key and this context, or was changed";
            Refusal::new(Reason::KeyCiphertext, &by.key, rule)
        })?;
        self.used(who, &by.key, Operation::Decrypt);
        Ok(plaintext)
    }

    /// Keeps a secret: under a free name without a capability, over the one that is there with one.
    pub fn seal(
        &self,
        who: Who<'_>,
        by: &Use,
        secret: &[u8],
        wanted: Wanted,
        tick: Tick,
    ) -> Result<(Key, Capability), Refusal> {
        if secret.is_empty() || !wanted.operations.is_within(Purpose::Secret.operations()) {
            let rule = "a secret is not empty, and its operations are `seal`, `unseal` and `delete`";
            return Err(Refusal::new(Reason::RequestInvalid, &by.key, rule));
        }
        let budget = self.budget(who.module);
        let _one_change_at_a_time = lock(&budget.changing);
        if by.capability.is_empty() {
            budget.use_store(tick.monotonic)?;
            self.settle(Some(who.module));
            self.check_free(who, &by.key)?;
        } else {
            self.permitted(who, by, Operation::Seal, tick)?;
            budget.use_store(tick.monotonic)?;
            self.settle(Some(who.module));
        }
        budget.change(tick.monotonic)?;
        let (entry, ()) = self.put(who, &by.key, Kind::Secret, tick.wall, |label, generation| {
            let belonging = self.belonging(Of::Secret, who, &by.key, generation);
            self.vault.make_secret(label, &belonging, secret)
        })?;
        self.used(who, &by.key, Operation::Seal);
        let capability = self.give(who, &by.key, &entry, wanted, tick)?;
        Ok((entry.key(&by.key), capability))
    }

    pub fn unseal(&self, who: Who<'_>, by: &Use, tick: Tick) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let entry = self.permitted(who, by, Operation::Unseal, tick)?;
        self.budget(who.module).use_store(tick.monotonic)?;
        let belonging = self.belonging(Of::Secret, who, &by.key, entry.generation);
        let label = label(who.module, &by.key, entry.generation);
        let secret = self.vault.open_secret(&label, &belonging).map_err(|error| told(&by.key, &error))?;
        self.used(who, &by.key, Operation::Unseal);
        Ok(secret)
    }

    pub fn delete(&self, who: Who<'_>, by: &Use, tick: Tick) -> Result<Key, Refusal> {
        let budget = self.budget(who.module);
        let _one_change_at_a_time = lock(&budget.changing);
        let entry = self.permitted(who, by, Operation::Delete, tick)?;
        budget.use_store(tick.monotonic)?;
        budget.change(tick.monotonic)?;
        self.index().remove(who.module, &by.key)?;
        self.settle(Some(who.module));
        Ok(entry.key(&by.key))
    }

    /// A module is about to have so many deployment secrets opened, which is the same work for the store.
    pub fn open_secrets(&self, module: &ModuleName, count: usize, tick: Tick) -> Result<(), Refusal> {
        self.budget(module).open_secrets(count, tick.monotonic)
    }

    /// Destroys a key whosever it is.
    pub fn delete_by_operator(&self, module: &ModuleName, key: &KeyName) -> Result<Key, Refusal> {
        let budget = self.budget(module);
        let _one_change_at_a_time = lock(&budget.changing);
        let entry = self.index().get(module, key).cloned().ok_or_else(|| no_such(key))?;
        self.index().remove(module, key)?;
        self.settle(Some(module));
        Ok(entry.key(key))
    }

    pub fn list(&self, module: &ModuleName) -> Vec<Key> {
        self.index().of(module)
    }

    /// For the operator: all keys, by what may be known of them.
    pub fn all(&self) -> Vec<ResidentKey> {
        let all = self.index().all();
        let uses = lock(&self.uses);
        let one = |(module, key): (ModuleName, Key)| ResidentKey {
            uses: uses.total(&module, &key.name),
            module,
            name: key.name,
            purpose: key.purpose.as_str().into(),
            generation: key.generation,
            created: key.created,
        };
        all.into_iter().map(one).collect()
    }

    /// Forgets data keys that nobody uses, or all, and what was counted for keys that are gone.
    pub fn tidy(&self, now: Duration, forget_all: bool) {
        self.vault.forget(now, forget_all);
        let there = self.index().all();
        lock(&self.uses).retain(|module, key| there.iter().any(|(of, one)| of == module && one.name == *key));
    }

    /// Uses since the last time: module and words.
    pub fn take_uses(&self) -> Vec<(ModuleName, String)> {
        lock(&self.uses).take_unwritten()
    }
}

/// The label of a signing key.
fn signing(who: Who<'_>, key: &KeyName, entry: &Entry) -> Result<String, Refusal> {
    if entry.kind != Kind::Sign {
        return Err(Refusal::new(Reason::RequestInvalid, key, "it is not a signing key"));
    }
    Ok(label(who.module, key, entry.generation))
}

fn public_der(key: &KeyName, point: &[u8]) -> Result<Vec<u8>, Refusal> {
    spki::der(point).map_err(|error| internal(key.as_str(), &error))
}

/// The log learns why; the caller that it is lost, or may come again.
fn told(key: &KeyName, error: &VaultError) -> Refusal {
    if error.is_lost() {
        tracing::error!(%key, error = %ErrorChain(error), "the keystore has lost a resident key");
        return Refusal::new(Reason::KeyUnknown, key, "the keystore does not have it any more");
    }
    match error {
        VaultError::Keystore(edgewarden_keystore::KeystoreError::Unsupported(..)) => {
            let rule = "this gateway's keystore cannot do that; only a TPM proves where a key is";
            Refusal::new(Reason::RequestInvalid, key, rule)
        }
        VaultError::Keystore(error) => {
            tracing::error!(%key, error = %ErrorChain(error), "the keystore refused");
            error.refusal(key.as_str())
        }
        error => internal(key.as_str(), error),
    }
}
