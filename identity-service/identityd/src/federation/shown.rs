//! Bundles of other trust domains for each module: those that its deployment entry names, pushed when they change.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use edgewarden_decisions::authority::Authority;
use edgewarden_decisions::federation::FederatedBundles;
use edgewarden_names::{ModuleName, TrustDomain};
use edgewarden_svid::Bundles;
use edgewarden_svid::bundle::TrustBundle;
use tokio::sync::watch;

use crate::ledger::Ledger;

#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of which document `parsed` is.
    of: Arc<FederatedBundles>,
    parsed: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    /// One for each module that somebody looks at.
    modules: HashMap<ModuleName, watch::Sender<Arc<Bundles>>>,
}

impl State {
    fn read(&mut self, authority: &Authority) {
        let held = &authority.documents().federation;
        if Arc::ptr_eq(&self.of, held) {
            return;
        }
        self.of = Arc::clone(held);
        self.parsed = held
            .iter()
            .filter_map(|(domain, held)| Some((domain.clone(), Arc::new(held.parse(domain)?))))
            .collect();
    }

    /// Our own, and what the deployment in force allows this module.
    fn of_module(&self, module: &ModuleName, own: &Arc<Bundles>, authority: &Authority) -> Arc<Bundles> {
        let modules = authority.in_force().into_iter().flat_map(|in_force| &in_force.deployment().modules);
        let allowed =
            modules.into_iter().filter(|one| one.name == *module).flat_map(|one| &one.federates_with);
        let allowed: Vec<_> = allowed.filter_map(|domain| Some((domain, self.parsed.get(domain)?))).collect();
        if allowed.is_empty() {
            return Arc::clone(own);
        }
        let mut bundles = Bundles::clone(own);
        let (mut jwt, mut x509) = ((*bundles.jwt).clone(), (*bundles.foreign_x509).clone());
        for (domain, bundle) in allowed {
            // Never in the place of our own.
            if *domain != authority.context().target.trust_domain {
                jwt.insert(domain.clone(), Arc::new(bundle.jwt.clone()));
                x509.insert(domain.clone(), bundle.x509.clone());
            }
        }
        bundles.jwt = Arc::new(jwt);
        bundles.foreign_x509 = Arc::new(x509);
        Arc::new(bundles)
    }
}

impl Shown {
    /// Gives every module what it may have by now. Quick when nothing has changed.
    pub fn update(&self, own: &Arc<Bundles>, authority: &Authority) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.modules.retain(|_, sender| sender.receiver_count() > 0);
        state.read(authority);
        for (module, sender) in &state.modules {
            let next = state.of_module(module, own, authority);
            sender.send_if_modified(|held| {
                let changed = *held != next;
                if changed {
                    *held = next;
                }
                changed
            });
        }
    }

    fn subscribe(
        &self,
        module: &ModuleName,
        own: &Arc<Bundles>,
        authority: impl FnOnce() -> Arc<Authority>,
    ) -> watch::Receiver<Arc<Bundles>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: an update that comes after this looks at a later state.
        let authority = authority();
        state.read(&authority);
        let bundles = state.of_module(module, own, &authority);
        let sender = state.modules.entry(module.clone()).or_insert_with(|| watch::Sender::new(bundles));
        sender.subscribe()
    }

    /// The bundles for the callers of an instance's socket; `own` is what everybody is given.
    pub fn of_instance(
        &self,
        own: watch::Receiver<Arc<Bundles>>,
        ledger: &Ledger,
        instance: &str,
    ) -> watch::Receiver<Arc<Bundles>> {
        let authority = ledger.current();
        let Some(record) = authority.documents().records.get(instance) else { return own };
        let own = Arc::clone(&own.borrow());
        self.subscribe(&record.module, &own, || ledger.current())
    }
}
