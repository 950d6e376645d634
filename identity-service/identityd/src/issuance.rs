//! Certificates in use: the issuing CA, and one current certificate for each live instance.
//!
//! The issuing CA is born in memory when the gateway is enrolled, at each start, and again before it is too old to sign
//! what is asked of it. An instance's certificate is held in a `watch`: every stream of the instance sees the same one.
//! [`edgewarden_decisions::renewal`] says when it is replaced; here it is done. When renewal fails, the held
//! certificate stays in use until it expires. Key and certificate are swapped together, by one pointer.
//!
//! Keys of certificates exist here and in the module that they were made for, and are never written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use edgewarden_ca::{CaError, Issued, IssuingCa, Svid};
use edgewarden_decisions::enrolment::Accepted;
use edgewarden_decisions::renewal::{Failure, HeldCertificate, Parent, Plan, Renewal, Tick};
use edgewarden_keystore::{CaKey, Keystore};
use edgewarden_names::{GatewayName, ModuleName, Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_protocol::config::{Identity, seconds};
use edgewarden_protocol::control::IdentityStatus;
use edgewarden_svid::X509Context;
use edgewarden_workload_server::Current;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::ledger::Follower;
use crate::metrics::{Certificate, Metrics, Operation};

/// As far as `edgewarden_ca` reaches back.
const BACKDATE: Duration = Duration::from_secs(60);

/// Certificates of the live instances, and the issuing CA that signs them.
pub struct Issuance {
    domain: TrustDomain,
    gateway: GatewayName,
    svid_lifetime: Duration,
    leaf_lifetime: Duration,
    ca_lifetime: Duration,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The gateway CA that issuance rests on, and how many there have been.
    above: Option<Above>,
    aboves: u64,
    issuer: Option<Issuer>,
    renewal: Renewal,
    /// The reason that there is no new issuing CA.
    problem: Option<Refusal>,
    holders: BTreeMap<String, Holder>,
}

/// The gateway CA's certificate with the roots.
struct Above {
    bundle: Vec<Vec<u8>>,
    gateway_ca: Vec<u8>,
    parent: Parent,
}

/// The issuing CA with the roots, first the one that it hangs from.
struct Issuer {
    ca: Arc<IssuingCa>,
    bundle: Arc<[Vec<u8>]>,
    parent: Parent,
}

struct Holder {
    module: ModuleName,
    id: SpiffeId,
    dns: Vec<String>,
    current: watch::Sender<Option<Arc<X509Context>>>,
    renewal: Renewal,
    /// The reason that there is no new certificate.
    problem: Option<Refusal>,
    streams: u32,
    /// The module's key stays in the keystore: what is held here are the roots alone.
    resident: bool,
    /// Certificates for resident keys: how many, and the end of the newest.
    certified: (u64, Option<UnixTime>),
}

/// The issuing CA, the roots, the issuing CA as an issuer, and what is due.
type DueNow = (Arc<IssuingCa>, Arc<[Vec<u8>]>, Parent, Vec<Due>);

/// A certificate to be issued.
struct Due {
    instance: String,
    id: SpiffeId,
    dns: Vec<String>,
}

impl std::fmt::Debug for Issuance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuance").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl Issuance {
    /// Nothing is issued before a gateway CA is there.
    pub fn new(
        domain: TrustDomain,
        gateway: GatewayName,
        lifetimes: &Identity,
        metrics: Arc<Metrics>,
    ) -> Self {
        let svid_lifetime = seconds(lifetimes.svid_lifetime_seconds);
        let leaf_lifetime = seconds(lifetimes.leaf_lifetime_seconds);
        let inner = Inner {
            above: None,
            aboves: 0,
            issuer: None,
            renewal: Renewal::new(Plan::Issuer { longest: svid_lifetime.max(leaf_lifetime) }),
            problem: None,
            holders: BTreeMap::new(),
        };
        Self {
            domain,
            gateway,
            svid_lifetime,
            leaf_lifetime,
            ca_lifetime: seconds(lifetimes.issuing_ca_lifetime_seconds),
            metrics,
            inner: Mutex::new(inner),
        }
    }

    /// No code below panics while it holds the lock; if some did, each holder is still whole by itself.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an instance an identity from now on. Its certificate comes with the next [`Issuance::issue_due`]; the roots
    /// of one whose key stays in the keystore with the next [`Issuance::set_resident`].
    pub fn begin(
        &self,
        instance: &str,
        module: &ModuleName,
        dns: Vec<String>,
        is_resident: impl FnOnce() -> bool,
    ) {
        let mut inner = self.lock();
        let holder = Holder {
            module: module.clone(),
            id: SpiffeId::module(&self.domain, &self.gateway, module),
            dns,
            current: watch::Sender::new(None),
            renewal: Renewal::new(Plan::HalfLife),
            problem: None,
            streams: 0,
            // Asked for under the lock, as in `set_resident`.
            resident: is_resident(),
            certified: (0, None),
        };
        inner.holders.insert(instance.into(), holder);
    }

    /// Ends the identity of an instance and with it its streams.
    pub fn end(&self, instance: &str) {
        if let Some(holder) = self.lock().holders.remove(instance) {
            holder.current.send_replace(None);
        }
    }

    /// Takes every certificate out of use: streams end, and the issuing CA is forgotten.
    pub fn withdraw(&self) {
        let mut inner = self.lock();
        inner.issuer = None;
        inner.renewal.withdraw();
        for holder in inner.holders.values_mut() {
            holder.withdraw();
        }
    }

    /// The identity of an instance, now and later. Fails while there is no valid certificate.
    pub fn subscribe(&self, instance: &str, now: UnixTime) -> Result<Current, Refusal> {
        let unavailable = |rule| Refusal::new(Reason::IdentityUnavailable, instance, rule);
        let inner = self.lock();
        let holder =
            inner.holders.get(instance).ok_or_else(|| unavailable("the instance has no identity"))?;
        let current = holder.current.subscribe();
        if current.borrow().is_none() {
            return Err(unavailable("no certificate has been issued yet"));
        }
        if holder.renewal.has_expired(now) {
            return Err(unavailable("the certificate has expired and there is no new one yet"));
        }
        Ok(current)
    }

    /// Counts a stream that an instance has opened.
    pub fn stream_opened(&self, instance: &str) {
        if let Some(holder) = self.lock().holders.get_mut(instance) {
            holder.streams = holder.streams.saturating_add(1);
        }
    }

    /// Counts a stream that has ended.
    pub fn stream_closed(&self, instance: &str) {
        if let Some(holder) = self.lock().holders.get_mut(instance) {
            holder.streams = holder.streams.saturating_sub(1);
        }
    }

    /// Should an issuing CA be born now, under this gateway CA?
    pub fn wants_birth(&self, accepted: &Accepted, tick: Tick) -> bool {
        let mut inner = self.lock();
        let parent = inner.parent(accepted);
        inner.renewal.wants(tick, &parent)
    }

    /// Makes a new issuing CA. Blocks as long as the keystore does. Held certificates stay in use: they chain to the
    /// same gateway CA, or to the one before, which is as valid as it was.
    pub fn give_birth(
        &self,
        keystore: &dyn Keystore,
        accepted: &Accepted,
        tick: Tick,
    ) -> Result<Event, CaError> {
        let parent = self.lock().parent(accepted);
        let created = self.metrics.timed(Certificate::IssuingCa, || {
            self.metrics.keystore(Operation::CaSign, || {
                IssuingCa::create(
                    &CaKey(keystore),
                    accepted.gateway_ca.as_slice(),
                    &self.domain,
                    &self.gateway,
                    self.ca_lifetime,
                    tick.wall,
                )
            })
        });
        let mut inner = self.lock();
        let ca = match created {
            Ok(ca) => ca.beneath(accepted.above()),
            Err(error) => {
                inner.renewal.failed(tick, parent.generation, failure(&error), jitter());
                inner.problem = Some(error.refusal("issuing CA"));
                return Err(error);
            }
        };
        let ends = ca.not_after();
        // Like every child, it ends with its parent at the latest.
        let wanted = tick.wall.plus(self.ca_lifetime);
        let clipped =
            if ends < wanted { format!(", clipped from {wanted} by the gateway CA") } else { String::new() };
        let event = Event::new("issuing_ca.born", &self.gateway, format!("until {ends}{clipped}"));
        let not_before = parent.not_before.max(tick.wall.minus(BACKDATE));
        let held = HeldCertificate { parent: parent.generation, not_before, not_after: ends };
        inner.renewal.issued(tick, held, jitter());
        inner.problem = None;
        let generation = inner.renewal.generation();
        inner.issuer = Some(Issuer {
            ca: Arc::new(ca),
            bundle: accepted.bundle().into(),
            parent: Parent { generation, not_before, not_after: ends },
        });
        Ok(event.with_key(KeyUse::GatewayCa))
    }

    /// Makes certificates due at once: of one module's instances, or of all. Returns how many.
    pub fn rotate(&self, module: Option<&ModuleName>) -> usize {
        let mut inner = self.lock();
        let chosen = inner.holders.values_mut().filter(|holder| module.is_none_or(|m| *m == holder.module));
        chosen.map(|holder| holder.renewal.force()).count()
    }

    /// Issues what is due. `record` is called before a certificate goes out. Returns the failures.
    ///
    /// Callers of the Workload API do not wait for it: keys, signatures and the disk are used without the lock.
    pub fn issue_due(&self, tick: Tick, mut record: impl FnMut(&Event)) -> Vec<(SpiffeId, CaError)> {
        let Some((ca, bundle, parent, due)) = self.due(tick) else { return Vec::new() };
        let mut failures = Vec::new();
        for Due { instance, id, dns } in due {
            let issued = self
                .metrics
                .timed(Certificate::Svid, || ca.issue_svid(&id, &dns, self.svid_lifetime, tick.wall));
            if let Ok(svid) = &issued {
                let detail = format!("{instance}, serial {}, until {}", svid.serial, svid.not_after);
                record(&Event::new("svid.issued", &id, detail).with_key(KeyUse::IssuingCa));
            }
            let mut inner = self.lock();
            let Inner { issuer, holders, .. } = &mut *inner;
            // Meanwhile the instance may have ended, or every certificate been withdrawn.
            if !issuer.as_ref().is_some_and(|issuer| Arc::ptr_eq(&issuer.ca, &ca)) {
                return failures;
            }
            // Or a deployment have taken force that wants its key in the keystore.
            let Some(holder) = holders.get_mut(&instance).filter(|holder| !holder.resident) else { continue };
            match issued {
                Ok(svid) => holder.put(svid, &bundle, &self.domain, tick, parent.generation),
                Err(error) => {
                    holder.renewal.failed(tick, parent.generation, failure(&error), jitter());
                    holder.problem = Some(error.refusal(id.as_str()));
                    failures.push((id, error));
                }
            }
        }
        failures
    }

    /// The issuing CA with the roots, and whose certificates are due.
    fn due(&self, tick: Tick) -> Option<DueNow> {
        let inner = self.lock();
        let issuer = inner.issuer.as_ref()?;
        let due = inner
            .holders
            .iter()
            .filter(|(_, holder)| !holder.resident && holder.renewal.wants(tick, &issuer.parent));
        let due = due.map(|(instance, holder)| Due {
            instance: instance.clone(),
            id: holder.id.clone(),
            dns: holder.dns.clone(),
        });
        Some((Arc::clone(&issuer.ca), Arc::clone(&issuer.bundle), issuer.parent, due.collect()))
    }

    /// Takes expired certificates out of use.
    pub fn expire(&self, now: UnixTime) {
        for holder in self.lock().holders.values_mut().filter(|holder| holder.renewal.has_expired(now)) {
            holder.withdraw();
        }
    }

    /// Time for which nothing is due, unless something changes.
    pub fn wake(&self, tick: Tick) -> Option<Duration> {
        let inner = self.lock();
        let parent = inner.issuer.as_ref().map(|issuer| &issuer.parent);
        let holders = inner.holders.values().filter(|holder| !holder.resident);
        let holders = holders.filter_map(|holder| holder.renewal.wake(tick, parent));
        holders.chain(inner.renewal.wake(tick, inner.above.as_ref().map(|above| &above.parent))).min()
    }

    /// Refusals of issuance that stand, and are tried again.
    pub fn problems(&self) -> Vec<Refusal> {
        let inner = self.lock();
        let holders = inner.holders.values().filter_map(|holder| holder.problem.clone());
        inner.problem.iter().cloned().chain(holders).collect()
    }

    /// A certificate for a leaf device's own key.
    pub fn issue_leaf(&self, id: &SpiffeId, csr: &[u8], now: UnixTime) -> Result<(Issued, Vec<u8>), Refusal> {
        let (ca, root) = {
            let inner = self.lock();
            let missing = |rule| Refusal::new(Reason::IdentityUnavailable, id, rule);
            let issuer = inner.issuer.as_ref();
            let issuer = issuer.ok_or_else(|| missing("the gateway has no issuing certificate"))?;
            let root = issuer.bundle.first().cloned();
            (Arc::clone(&issuer.ca), root.ok_or_else(|| missing("the gateway has no root"))?)
        };
        let issued = self
            .metrics
            .timed(Certificate::Leaf, || ca.issue_for_csr(id, csr, self.leaf_lifetime, now))
            .map_err(|error| error.refusal(id.as_str()))?;
        Ok((issued, root))
    }

    /// A certificate besides the one that an instance holds, for at most as long.
    pub fn issue_extra(
        &self,
        id: &SpiffeId,
        dns: &[String],
        lifetime: Option<Duration>,
        now: UnixTime,
    ) -> Result<Svid, Refusal> {
        let ca = self.lock().issuer.as_ref().map(|issuer| Arc::clone(&issuer.ca));
        let ca = ca.ok_or_else(|| {
            Refusal::new(Reason::IdentityUnavailable, id, "the gateway has no issuing certificate")
        })?;
        let lifetime = lifetime.map_or(self.svid_lifetime, |wanted| wanted.min(self.svid_lifetime));
        self.metrics
            .timed(Certificate::Svid, || ca.issue_svid(id, dns, lifetime, now))
            .map_err(|error| error.refusal(id.as_str()))
    }

    /// Takes certificates with their keys from modules whose keys stay in the keystore, and gives them the roots alone.
    /// `in_force` says which modules, and the roots; `None` while nothing may be given.
    pub fn set_resident<F: Fn(&ModuleName) -> bool>(
        &self,
        in_force: impl FnOnce() -> Option<(F, Vec<Vec<u8>>)>,
    ) {
        let mut inner = self.lock();
        // Asked for under the lock: of two that take force one after the other, the later one's word stays.
        let Some((is_resident, bundle)) = in_force() else { return };
        for holder in inner.holders.values_mut() {
            let resident = is_resident(&holder.module);
            if resident != holder.resident {
                holder.withdraw();
                holder.problem = None;
                holder.resident = resident;
            }
            if resident && !holder.gives(&bundle) {
                holder.current.send_replace(Some(Arc::new(X509Context {
                    id: holder.id.clone(),
                    chain_der: Vec::new(),
                    key_pkcs8: Zeroizing::new(Vec::new()),
                    bundle_der: bundle.clone(),
                    trust_domain: self.domain.clone(),
                })));
            }
        }
    }

    /// A certificate of an instance for a key of its module in the keystore. Its point is the keystore's word.
    pub fn certify(
        &self,
        instance: &str,
        point: &[u8],
        now: UnixTime,
    ) -> Result<(SpiffeId, Issued, Vec<Vec<u8>>), Refusal> {
        let unavailable = |rule| Refusal::new(Reason::IdentityUnavailable, instance, rule);
        let (ca, bundle, id, dns) = {
            let inner = self.lock();
            let issuer = inner.issuer.as_ref();
            let issuer = issuer.ok_or_else(|| unavailable("the gateway has no issuing certificate"))?;
            let holder = inner.holders.get(instance);
            let holder = holder.ok_or_else(|| unavailable("the instance has no identity"))?;
            (Arc::clone(&issuer.ca), issuer.bundle.to_vec(), holder.id.clone(), holder.dns.clone())
        };
        let issued = self
            .metrics
            .timed(Certificate::Svid, || ca.issue_for_point(&id, &dns, point, self.svid_lifetime, now))
            .map_err(|error| error.refusal(id.as_str()))?;
        let mut inner = self.lock();
        // Meanwhile every certificate may have been withdrawn, or the instance have ended.
        if !inner.issuer.as_ref().is_some_and(|issuer| Arc::ptr_eq(&issuer.ca, &ca)) {
            return Err(unavailable("the issuing certificate was replaced meanwhile; try again"));
        }
        let holder = inner.holders.get_mut(instance);
        let holder = holder.ok_or_else(|| unavailable("the instance has ended"))?;
        holder.certified = (holder.certified.0.saturating_add(1), Some(issued.not_after));
        Ok((id, issued, bundle))
    }

    /// End of the issuing CA's certificate. `None` while there is none.
    pub fn issuing_ca_expires(&self) -> Option<UnixTime> {
        self.lock().issuer.as_ref().map(|issuer| issuer.ca.not_after())
    }

    /// State of each instance's certificate.
    pub fn status(&self) -> Vec<IdentityStatus> {
        self.status_by_module().into_iter().map(|(_, status)| status).collect()
    }

    /// State of each instance's certificate, with its module.
    pub fn status_by_module(&self) -> Vec<(ModuleName, IdentityStatus)> {
        let inner = self.lock();
        let one = |(instance, holder): (&String, &Holder)| {
            let status = IdentityStatus {
                id: holder.id.clone(),
                instance: instance.clone(),
                expires: holder.renewal.held().map(|held| held.not_after).or(holder.certified.1),
                issued: holder.renewal.generation().saturating_add(holder.certified.0),
                streams: holder.streams,
                resident_key: holder.resident,
            };
            (holder.module.clone(), status)
        };
        inner.holders.iter().map(one).collect()
    }
}

/// The deployment in force says which modules' keys stay resident.
impl Follower for Issuance {
    fn in_force(&self, authority: &edgewarden_decisions::authority::Authority) {
        self.set_resident(|| {
            let bundle = authority.documents().enrolment.trusted().ok()?.bundle();
            Some((|module: &ModuleName| authority.wants_resident_key(module), bundle))
        });
    }
}

impl Inner {
    /// The gateway CA as an issuer. Another certificate is another issuer.
    fn parent(&mut self, accepted: &Accepted) -> Parent {
        let (bundle, gateway_ca) = (accepted.bundle(), accepted.gateway_ca.as_slice());
        if let Some(above) = &self.above
            && above.bundle == bundle
            && above.gateway_ca == gateway_ca
        {
            return above.parent;
        }
        self.aboves = self.aboves.saturating_add(1);
        let parent = Parent {
            generation: self.aboves,
            not_before: accepted.not_before,
            not_after: accepted.not_after,
        };
        self.above = Some(Above { bundle, gateway_ca: gateway_ca.to_vec(), parent });
        parent
    }
}

impl Holder {
    fn put(&mut self, svid: Svid, bundle: &[Vec<u8>], domain: &TrustDomain, tick: Tick, parent: u64) {
        let held = HeldCertificate { parent, not_before: svid.not_before, not_after: svid.not_after };
        self.renewal.issued(tick, held, jitter());
        self.problem = None;
        self.current.send_replace(Some(Arc::new(X509Context {
            id: svid.id,
            chain_der: svid.chain_der,
            key_pkcs8: svid.key_pkcs8,
            bundle_der: bundle.to_vec(),
            trust_domain: domain.clone(),
        })));
    }

    fn gives(&self, bundle: &[Vec<u8>]) -> bool {
        let held = self.current.borrow();
        held.as_ref().is_some_and(|held| held.bundle_der == bundle)
    }

    fn withdraw(&mut self) {
        self.current.send_replace(None);
        self.renewal.withdraw();
    }
}

/// Kind of a failure: what can heal by waiting is transient.
fn failure(error: &CaError) -> Failure {
    match error {
        CaError::IssuerExpired { .. }
        | CaError::IssuerNotYetValid { .. }
        | CaError::Signer(_)
        | CaError::Random => Failure::Transient,
        CaError::ForeignId(_)
        | CaError::DnsName(_)
        | CaError::Request(_)
        | CaError::Certificate(_)
        | CaError::Key(_)
        | CaError::Pem(_)
        | CaError::Lifetime
        | CaError::Build(_) => Failure::Fatal,
    }
}

/// Spreads renewals. Nothing secret depends on it: without randomness they go in step.
fn jitter() -> u32 {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).map_or(0, |()| u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
