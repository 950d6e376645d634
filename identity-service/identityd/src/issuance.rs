//! Certificates in use: the issuing CA, and one current certificate for each live instance.
//!
//! The issuing CA is born in memory when the gateway is enrolled, at each start, and again before it is too old to sign
//! what is asked of it. An instance's certificate is held in a `watch`: every stream of the instance sees the same one.
//! It is replaced at half its life, give or take a tenth so that instances do not renew in step. When renewal fails, the
//! held certificate stays in use until it expires.
//!
//! Keys of certificates exist here and in the module that they were made for, and are never written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_ca::{CaError, Issued, IssuingCa, Svid};
use edgewarden_keystore::{CaKey, Keystore};
use edgewarden_names::{GatewayName, ModuleName, Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_protocol::config::{Identity, seconds};
use edgewarden_protocol::control::IdentityStatus;
use edgewarden_workload_api::X509Context;
use edgewarden_workload_api::source::Current;
use tokio::sync::watch;

use crate::audit::Event;
use crate::enrolment::Accepted;

/// Time until the next try after an issuance that failed.
const RETRY: Duration = Duration::from_secs(5);

pub struct Issuance {
    domain: TrustDomain,
    gateway: GatewayName,
    svid_lifetime: Duration,
    leaf_lifetime: Duration,
    ca_lifetime: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    authority: Option<Authority>,
    holders: BTreeMap<String, Holder>,
}

/// The issuing CA with what it was born from.
struct Authority {
    ca: Arc<IssuingCa>,
    root: Vec<u8>,
    gateway_ca: Vec<u8>,
    gateway_ca_ends: UnixTime,
    born: UnixTime,
}

struct Holder {
    module: ModuleName,
    id: SpiffeId,
    dns: Vec<String>,
    current: watch::Sender<Option<Arc<X509Context>>>,
    expires: UnixTime,
    /// When to issue the next certificate.
    due: UnixTime,
    issued: u64,
    streams: u32,
}

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
    pub fn new(domain: TrustDomain, gateway: GatewayName, lifetimes: &Identity) -> Self {
        Self {
            domain,
            gateway,
            svid_lifetime: seconds(lifetimes.svid_lifetime_seconds),
            leaf_lifetime: seconds(lifetimes.leaf_lifetime_seconds),
            ca_lifetime: seconds(lifetimes.issuing_ca_lifetime_seconds),
            inner: Mutex::default(),
        }
    }

    /// No code below panics while it holds the lock; if some did, each holder is still whole by itself.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an instance an identity from now on. Its certificate comes with the next [`Issuance::issue_due`].
    pub fn begin(&self, instance: &str, module: &ModuleName, dns: Vec<String>) {
        let holder = Holder {
            module: module.clone(),
            id: SpiffeId::module(&self.domain, &self.gateway, module),
            dns,
            current: watch::Sender::new(None),
            expires: UnixTime(0),
            due: UnixTime(0),
            issued: 0,
            streams: 0,
        };
        self.lock().holders.insert(instance.into(), holder);
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
        inner.authority = None;
        for holder in inner.holders.values_mut() {
            holder.withdraw();
        }
    }

    pub fn subscribe(&self, instance: &str) -> Result<Current, Refusal> {
        let unavailable = |rule| Refusal::new(Reason::IdentityUnavailable, instance, rule);
        let inner = self.lock();
        let holder =
            inner.holders.get(instance).ok_or_else(|| unavailable("the instance has no identity"))?;
        let current = holder.current.subscribe();
        if current.borrow().is_none() {
            return Err(unavailable("no certificate has been issued yet"));
        }
        Ok(current)
    }

    pub fn stream_opened(&self, instance: &str) {
        if let Some(holder) = self.lock().holders.get_mut(instance) {
            holder.streams = holder.streams.saturating_add(1);
        }
    }

    pub fn stream_closed(&self, instance: &str) {
        if let Some(holder) = self.lock().holders.get_mut(instance) {
            holder.streams = holder.streams.saturating_sub(1);
        }
    }

    /// Is the issuing CA missing, born from another certificate, or too old for what it must sign?
    pub fn wants_birth(&self, accepted: &Accepted, now: UnixTime) -> bool {
        let inner = self.lock();
        let Some(held) = &inner.authority else { return true };
        if held.gateway_ca != accepted.gateway_ca.as_slice() || held.root != accepted.root.as_slice() {
            return true;
        }
        let ends = held.ca.not_after();
        let short = ends <= now.plus(self.svid_lifetime.max(self.leaf_lifetime));
        // A new one would not live longer, or was just made: birth asks the keystore, which may be a slow chip.
        let longer = ends < held.gateway_ca_ends;
        let rested = held.born.plus(ends.after(held.born) / 16) <= now;
        short && longer && rested
    }

    /// Makes a new issuing CA. Blocks as long as the keystore does. Held certificates stay in use: they chain to the
    /// same gateway CA.
    pub fn give_birth(
        &self,
        keystore: &dyn Keystore,
        accepted: &Accepted,
        now: UnixTime,
    ) -> Result<Event, CaError> {
        let ca = IssuingCa::create(
            &CaKey(keystore),
            accepted.gateway_ca.as_slice(),
            &self.domain,
            &self.gateway,
            self.ca_lifetime,
            now,
        )?;
        let event = Event::new("issuing_ca.born", &self.gateway, format!("until {}", ca.not_after()));
        self.lock().authority = Some(Authority {
            ca: Arc::new(ca),
            root: accepted.root.0.clone(),
            gateway_ca: accepted.gateway_ca.0.clone(),
            gateway_ca_ends: accepted.not_after,
            born: now,
        });
        Ok(event)
    }

    /// Makes certificates due at once: of one module's instances, or of all. Returns how many.
    pub fn rotate(&self, module: Option<&ModuleName>) -> usize {
        let mut inner = self.lock();
        let chosen = inner.holders.values_mut().filter(|holder| module.is_none_or(|m| *m == holder.module));
        chosen.map(|holder| holder.due = UnixTime(0)).count()
    }

    /// Issues what is due. `record` is called before a certificate goes out. Returns the failures.
    ///
    /// Callers of the Workload API do not wait for it: keys, signatures and the disk are used without the lock.
    pub fn issue_due(&self, now: UnixTime, mut record: impl FnMut(&Event)) -> Vec<(SpiffeId, CaError)> {
        let Some((ca, root, due)) = self.due(now) else { return Vec::new() };
        let mut failures = Vec::new();
        for Due { instance, id, dns } in due {
            let issued = ca.issue_svid(&id, &dns, self.svid_lifetime, now);
            if let Ok(svid) = &issued {
                let detail = format!("{instance}, serial {}, until {}", svid.serial, svid.not_after);
                record(&Event::new("svid.issued", &id, detail));
            }
            let mut inner = self.lock();
            let Inner { authority, holders } = &mut *inner;
            // Meanwhile the instance may have ended, or every certificate been withdrawn.
            if !authority.as_ref().is_some_and(|authority| Arc::ptr_eq(&authority.ca, &ca)) {
                return failures;
            }
            let Some(holder) = holders.get_mut(&instance) else { continue };
            match issued {
                Ok(svid) => holder.put(svid, &root, &self.domain, now),
                Err(error) => {
                    holder.due = now.plus(RETRY);
                    failures.push((id, error));
                }
            }
        }
        failures
    }

    /// The issuing CA with the root, and whose certificates are due.
    fn due(&self, now: UnixTime) -> Option<(Arc<IssuingCa>, Vec<u8>, Vec<Due>)> {
        let inner = self.lock();
        let authority = inner.authority.as_ref()?;
        let due = inner.holders.iter().filter(|(_, holder)| holder.due <= now);
        let due = due.map(|(instance, holder)| Due {
            instance: instance.clone(),
            id: holder.id.clone(),
            dns: holder.dns.clone(),
        });
        Some((Arc::clone(&authority.ca), authority.root.clone(), due.collect()))
    }

    /// Takes expired certificates out of use.
    pub fn expire(&self, now: UnixTime) {
        for holder in self.lock().holders.values_mut().filter(|holder| holder.expires <= now) {
            if holder.current.borrow().is_some() {
                holder.withdraw();
            }
        }
    }

    /// When the next certificate is due, if any.
    pub fn next_due(&self) -> Option<UnixTime> {
        self.lock().holders.values().map(|holder| holder.due).min()
    }

    /// A certificate for a leaf device's own key.
    pub fn issue_leaf(&self, id: &SpiffeId, csr: &[u8], now: UnixTime) -> Result<(Issued, Vec<u8>), Refusal> {
        let (ca, root) = {
            let inner = self.lock();
            let authority = inner.authority.as_ref().ok_or_else(|| {
                Refusal::new(Reason::IdentityUnavailable, id, "the gateway has no issuing certificate")
            })?;
            (Arc::clone(&authority.ca), authority.root.clone())
        };
        let issued =
            ca.issue_for_csr(id, csr, self.leaf_lifetime, now).map_err(|error| error.refusal(id.as_str()))?;
        Ok((issued, root))
    }

    pub fn issuing_ca_expires(&self) -> Option<UnixTime> {
        self.lock().authority.as_ref().map(|authority| authority.ca.not_after())
    }

    pub fn status(&self) -> Vec<IdentityStatus> {
        let inner = self.lock();
        let one = |(instance, holder): (&String, &Holder)| IdentityStatus {
            id: holder.id.clone(),
            instance: instance.clone(),
            expires: holder.current.borrow().is_some().then_some(holder.expires),
            issued: holder.issued,
            streams: holder.streams,
        };
        inner.holders.iter().map(one).collect()
    }
}

impl Holder {
    fn put(&mut self, svid: Svid, root: &[u8], domain: &TrustDomain, now: UnixTime) {
        self.expires = svid.not_after;
        self.due = now.plus(half_life(svid.not_after.after(now), &svid.serial));
        self.issued = self.issued.saturating_add(1);
        self.current.send_replace(Some(Arc::new(X509Context {
            id: svid.id,
            chain_der: svid.chain_der,
            key_pkcs8: svid.key_pkcs8,
            bundle_der: vec![root.to_vec()],
            trust_domain: domain.clone(),
        })));
    }

    fn withdraw(&mut self) {
        self.current.send_replace(None);
        self.due = UnixTime(0);
    }
}

/// Half of a life, give or take a tenth of it. The serial number is as random as a die would be.
fn half_life(life: Duration, serial: &str) -> Duration {
    let die = serial.bytes().fold(0_u32, |sum, digit| sum.wrapping_mul(31).wrapping_add(digit.into()));
    let percent = 40_u32.saturating_add(die % 21);
    life.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_of_life_give_or_take_a_tenth() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..1000_u32 {
            let part = half_life(Duration::from_secs(1000), &format!("{n:032x}")).as_secs();
            assert!((400..=600).contains(&part), "{part}");
            seen.insert(part);
        }
        assert_eq!(seen.len(), 21, "every step is used");
    }
}
