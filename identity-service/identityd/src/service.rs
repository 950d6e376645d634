//! The process's parts together: what more than one feature has a hand in, and what goes on by itself.

use std::sync::{Arc, Mutex, PoisonError};

use edgewarden_audit::{AuditError, Head, fingerprint, statement};
use edgewarden_decisions::authority::{Authority, Input};
use edgewarden_decisions::clock::Change;
use edgewarden_keystore::{Keystore, KeystoreError};
use edgewarden_names::{ErrorChain, ModuleName, Reason, Refusal};
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::config::Config;
use tokio::sync::{Notify, mpsc};

use crate::clock::Ration;
use crate::issuance::Issuance;
use crate::jwt::JwtAuthority;
use crate::kept::KeptSecrets;
use crate::keys::{self, Keys};
use crate::leaf_renewal::Renewals;
use crate::ledger::{self, Follower, Ledger};
use crate::metrics::Operation;
use crate::runtime_log::Keeper;
use crate::secrets::{self, Vault};
use crate::sockets::Sockets;
use crate::{federation, iotedge, site};

/// All parts of `identityd`, wired.
pub struct Service {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) config: Config,
    pub(crate) keystore: Arc<dyn Keystore>,
    pub(crate) issuance: Arc<Issuance>,
    pub(crate) jwt: Arc<JwtAuthority>,
    pub(crate) federation: Arc<federation::Shown>,
    pub(crate) federation_troubles: Arc<federation::Troubles>,
    pub(crate) sockets: Sockets,
    pub(crate) keys: Arc<Keys>,
    /// Part of the service that the sockets of instances have.
    pub(crate) key_door: Arc<keys::Door>,
    pub(crate) secrets: Arc<secrets::Desk>,
    pub(crate) iotedge: Arc<iotedge::Desk>,
    pub(crate) site: Arc<site::Desk>,
    pub(crate) leaf_renewals: Renewals,
    /// Ration of the notes on doubts of the clock, and on other beliefs in the time.
    doubts_told: Mutex<Ration>,
    beliefs_told: Mutex<Ration>,
    /// One renewal at a time: the last one always sees the latest state.
    renewal: Mutex<()>,
    pub(crate) kept: Arc<KeptSecrets>,
    /// Wakes the task that renews.
    pub(crate) renewal_due: Notify,
    /// `None` when the keystore has no PCRs.
    pub(crate) runtime_log: Option<Arc<Keeper>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Error of signing the head of the audit log. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SignHeadError {
    #[error("the newest entry has no hash")]
    Statement,
    #[error("the keystore does not sign")]
    Keystore(#[source] KeystoreError),
    #[error("the signed head is not stored")]
    Audit(#[source] AuditError),
}

/// The parts of a [`Service`].
pub struct Parts {
    pub ledger: ledger::Parts,
    pub config: Config,
    pub keystore: Arc<dyn Keystore>,
    pub sockets: Sockets,
    pub vault: Vault,
    pub keys: Keys,
}

/// Bundles of all kinds, pushed to callers when what is in force says otherwise than before.
struct Pushed {
    jwt: Arc<JwtAuthority>,
    federation: Arc<federation::Shown>,
}

impl Follower for Pushed {
    fn in_force(&self, authority: &Authority) {
        self.jwt.show(&authority.documents().jwt_keys);
        self.federation.update(&self.jwt.bundles().borrow(), authority);
    }
}

impl Service {
    /// Also returns where the refusals of callers come that are to be written down.
    pub fn new(parts: Parts) -> (Self, mpsc::Receiver<Event>) {
        let Parts { ledger, config, keystore, sockets, vault, keys } = parts;
        let gateway = &config.gateway;
        let runtime_log = Keeper::new(&config, &ledger.context.layout).map(Arc::new);
        let metrics = Arc::clone(&ledger.metrics);
        let issuance = Arc::new(Issuance::new(
            gateway.trust_domain.clone(),
            gateway.name.clone(),
            &config.identity,
            Arc::clone(&metrics),
        ));
        let jwt = Arc::new(JwtAuthority::new(&gateway.trust_domain, &gateway.name, &config.identity));
        let federation = Arc::new(federation::Shown::default());
        let pushed = Pushed { jwt: Arc::clone(&jwt), federation: Arc::clone(&federation) };
        let federation_troubles = Arc::new(federation::Troubles::default());
        let mut followers: Vec<Arc<dyn Follower>> = vec![
            Arc::new(pushed),
            Arc::clone(&issuance) as Arc<dyn Follower>,
            Arc::clone(&federation_troubles) as Arc<dyn Follower>,
        ];
        followers.extend(runtime_log.iter().map(|keeper| Arc::clone(keeper) as Arc<dyn Follower>));
        let (ledger, refused) = Ledger::new(ledger, followers);
        let (ledger, keys) = (Arc::new(ledger), Arc::new(keys));
        let kept = Arc::new(KeptSecrets::new(Arc::clone(&keystore), metrics));
        let key_door = keys::Door {
            ledger: Arc::clone(&ledger),
            keys: Arc::clone(&keys),
            issuance: Arc::clone(&issuance),
        };
        let secrets = secrets::Desk {
            ledger: Arc::clone(&ledger),
            keystore: Arc::clone(&keystore),
            keys: Arc::clone(&keys),
            vault,
        };
        let iotedge = iotedge::Desk {
            ledger: Arc::clone(&ledger),
            issuance: Arc::clone(&issuance),
            kept: Arc::clone(&kept),
        };
        let site = site::Desk { ledger: Arc::clone(&ledger), keystore: Arc::clone(&keystore) };
        let service = Self {
            ledger,
            keystore,
            issuance,
            jwt,
            federation,
            federation_troubles,
            sockets,
            keys,
            key_door: Arc::new(key_door),
            secrets: Arc::new(secrets),
            iotedge: Arc::new(iotedge),
            site: Arc::new(site),
            leaf_renewals: Renewals::default(),
            doubts_told: Mutex::new(Ration::new()),
            beliefs_told: Mutex::new(Ration::new()),
            renewal: Mutex::new(()),
            kept,
            renewal_due: Notify::new(),
            runtime_log,
            config,
        };
        (service, refused)
    }

    /// Looks at the clocks of the machine. Blocks on the disk when another time is believed.
    pub fn look_at_clocks(&self) {
        let changes = self.ledger.clock.look(&self.ledger.current().known_of_time());
        self.time_changed(changes);
    }

    /// Takes in the fleet's word on the time.
    pub fn hear_time(&self, offset_millis: i64) -> Result<(), Refusal> {
        let changes = self.ledger.clock.hear(offset_millis, &self.ledger.current().known_of_time())?;
        self.time_changed(changes);
        Ok(())
    }

    /// Takes the wall clock's time by the operator's word.
    pub fn accept_time(&self) -> Result<(), Refusal> {
        let changes = self.ledger.clock.accept(&self.ledger.current().known_of_time())?;
        self.time_changed(changes);
        Ok(())
    }

    fn time_changed(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            match change {
                Change::Doubted { shows, believed } => {
                    self.ledger.metrics.clock_stepped();
                    let detail = format!("it shows {shows}, {believed} is believed");
                    if let Some(detail) = self.told(&self.doubts_told, detail) {
                        tracing::warn!(%shows, %believed, "the system clock leapt and is not believed");
                        self.ledger.record(&Event::new("clock.doubted", "system clock", detail));
                    }
                }
                Change::Believed { before, now, by } => {
                    tracing::warn!(%before, %now, ?by, "another time is believed; certificates are looked at again");
                    let detail = format!("{before} before, {now} by {}", by.text());
                    let told = self.told(&self.beliefs_told, detail);
                    self.keep_time(told.map(|detail| Event::new("clock.believed", "time", detail)));
                }
                Change::Followed => {}
            }
        }
        // The other daemons are told at once, and what a false time had issued is issued anew.
        self.ledger.revise();
        self.renewal_due.notify_one();
    }

    fn told(&self, kind: &Mutex<Ration>, detail: String) -> Option<String> {
        let since_boot = self.ledger.clock.since_boot();
        kind.lock().unwrap_or_else(PoisonError::into_inner).tell(since_boot, detail)
    }

    /// Puts on disk what is believed, so that a restart believes nothing else. A disk that is full changes no belief.
    pub fn keep_time(&self, event: Option<Event>) {
        let input = Input::TimeBelieved { belief: self.ledger.clock.belief(), event };
        if let Err(refusal) = self.ledger.transact(input) {
            tracing::error!(%refusal, "what is believed of the time is not on disk");
        }
    }

    /// Brings the runtime log up to date. Blocks on the disk and the TPM. False when it is to be tried again.
    pub fn follow_runtime_log(&self) -> bool {
        self.runtime_log.as_ref().is_none_or(|keeper| keeper.follow(&*self.ledger, &*self.keystore))
    }

    /// Writes nothing more to the state, from any thread. Waits for a decision that is being written.
    pub fn close(&self) {
        self.keys.close();
        self.ledger.close();
        if let Some(keeper) = &self.runtime_log {
            keeper.close();
        }
    }

    /// Signs the head of the audit log, if there is anything new in it. Blocks on the keystore, without the log's lock.
    pub fn sign_head(&self) -> Result<(), SignHeadError> {
        let Some((sequence, hash)) = self.ledger.head_to_sign() else { return Ok(()) };
        let (gateway, at) = (self.config.gateway.name.clone(), self.ledger.now());
        let statement = statement(&gateway, sequence, &hash, at).ok_or(SignHeadError::Statement)?;
        let signed = self.ledger.metrics.keystore(Operation::CaSign, || {
            Ok((self.keystore.ca_public()?, self.keystore.ca_sign(&statement)?))
        });
        let (point, signature) = signed.map_err(SignHeadError::Keystore)?;
        let (key, signature) = (fingerprint(&point), hex::encode(signature));
        let head = Head { gateway, sequence, hash, at, key, signature };
        self.ledger.put_head(at, &head).map_err(SignHeadError::Audit)?;
        if let Some(keeper) = &self.runtime_log {
            keeper.due.notify_one();
        }
        Ok(())
    }

    /// Brings the issuing CA and all certificates up to date with the state. Blocks on the keystore.
    pub fn renew(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew_alone()
    }

    /// Gives new certificates now: to one module's instances, or to all.
    pub fn rotate(&self, module: Option<&ModuleName>) -> Result<(), Refusal> {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.issuance.rotate(module);
        if let Some(module) = module.filter(|_| count == 0) {
            return Err(Refusal::new(Reason::RequestInvalid, module, "no instance of it is live"));
        }
        self.renew_alone()
    }

    /// Gives an instance an identity from now on, and where its key is to stay in the keystore, the roots.
    pub fn begin_identity(&self, instance: &str, module: &ModuleName, dns: Vec<String>) {
        self.issuance.begin(instance, module, dns, || self.ledger.current().wants_resident_key(module));
        self.keep_keys_resident();
    }

    /// Sees to it that no certificate in memory is in use where the deployment wants the key in the keystore. Quick.
    fn keep_keys_resident(&self) {
        self.issuance.set_resident(|| {
            let authority = self.ledger.current();
            let bundle = authority.documents().enrolment.trusted().ok()?.bundle();
            Some((move |module: &ModuleName| authority.wants_resident_key(module), bundle))
        });
    }

    fn renew_alone(&self) -> Result<(), Refusal> {
        let authority = self.ledger.current();
        let tick = self.ledger.tick();
        let now = tick.wall;
        self.issuance.expire(now);
        if authority.documents().enrolment.trusted().is_err() {
            self.issuance.withdraw();
        }
        self.keep_keys_resident();
        let accepted = authority.documents().enrolment.may_issue(now)?;
        if self.issuance.wants_birth(accepted, tick) {
            match self.issuance.give_birth(&*self.keystore, accepted, tick) {
                Ok(event) => self.ledger.record(&event),
                // The one held, if any, goes on signing as long as it is valid.
                Err(error) => tracing::error!(error = %ErrorChain(&error), "no new issuing certificate"),
            }
        }
        for (id, error) in self.issuance.issue_due(tick, |event| self.ledger.record(event)) {
            tracing::error!(%id, error = %ErrorChain(&error), "no new certificate");
        }
        let jwt = self.jwt.renew(&self.ledger, now);
        self.issuance.problems().into_iter().next().map_or(jwt, Err)
    }
}
