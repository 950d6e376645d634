//! Bundles of other trust domains (SPIFFE Federation): which are held, and which module gets which.
//!
//! `runtimed` asks the endpoints and hands over what they say; that it was the right endpoint is `runtimed`'s word, what
//! it says is judged here. Nothing of it touches our own trust domain: a foreign endpoint that is away, slow or lying
//! leaves the last good bundle where it is.
//!
//! * [`edgewarden_decisions::federation`]: what is on disk, and when a bundle takes the place of another
//! * `shown`: what modules are given

mod shown;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use edgewarden_decisions::authority::{Authority, Input};
use edgewarden_decisions::federation::{Fetched, name};
use edgewarden_names::{Digest, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_policy::federation::authorities;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::clip;
use edgewarden_protocol::federation::{
    BundleStatus, Endpoint, Federated, Profile, REFRESH_DEFAULT_SECONDS, REFRESH_SECONDS, ToldBy, Trouble,
};

pub(crate) use self::shown::Shown;
use crate::ledger::{Follower, Ledger};

/// Troubles of endpoints, since the last time that they answered as they should. In memory: they show again.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<TrustDomain, Trouble>>);

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, domain: &TrustDomain) {
        self.lock().remove(domain);
    }

    /// For trust domains of the deployment only, which bounds it. True when this is news.
    fn note(&self, domain: &TrustDomain, refusal: &Refusal, now: UnixTime) -> bool {
        let mut all = self.lock();
        let before = all.get(domain);
        let news = before.is_none_or(|before| before.refusal.reason != refusal.reason);
        let since = before.map_or(now, |before| before.since);
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        all.insert(domain.clone(), Trouble { since, failures, refusal: refusal.clone() });
        news
    }

    fn get(&self, domain: &TrustDomain) -> Option<Trouble> {
        self.lock().get(domain).cloned()
    }
}

/// Those of trust domains that the deployment in force does not name are forgotten.
impl Follower for Troubles {
    fn in_force(&self, authority: &Authority) {
        let in_force = authority.in_force().map(|in_force| in_force.deployment());
        let endpoints = in_force.map(|deployment| deployment.federation.as_slice()).unwrap_or_default();
        self.lock().retain(|domain, _| endpoints.iter().any(|endpoint| endpoint.trust_domain == *domain));
    }
}

/// Takes a bundle that the endpoint of this name gave. Blocks on the disk.
pub(crate) fn fetched(
    ledger: &Ledger,
    troubles: &Troubles,
    domain: &TrustDomain,
    endpoint: &Digest,
    bundle: &Bytes,
) -> Result<(), Refusal> {
    let taken = Fetched::parse(domain.clone(), endpoint.clone(), bundle.as_slice())
        .and_then(|fetched| ledger.attempt(Input::FederationFetched(Box::new(fetched))));
    taken.inspect_err(|refusal| trouble(ledger, troubles, domain, endpoint, refusal))?;
    troubles.forget(domain);
    Ok(())
}

/// Hears why that endpoint gave none. Blocks on the disk.
pub(crate) fn failed(
    ledger: &Ledger,
    troubles: &Troubles,
    domain: &TrustDomain,
    endpoint: &Digest,
    said: &Refusal,
) {
    let reason = match said.reason {
        Reason::FederationUntrusted | Reason::FederationBundle => said.reason,
        _ => Reason::FederationUnavailable,
    };
    trouble(ledger, troubles, domain, endpoint, &Refusal::new(reason, domain, clip(&said.rule)));
}

/// Shown as long as it lasts, written down once.
fn trouble(ledger: &Ledger, troubles: &Troubles, domain: &TrustDomain, endpoint: &Digest, refusal: &Refusal) {
    if ledger.current().endpoint(domain, endpoint).is_err() {
        return;
    }
    if troubles.note(domain, refusal, ledger.now()) {
        tracing::warn!(%refusal, "another trust domain's bundle; the last good one stays");
        ledger.note(refusal);
    }
}

/// The other trust domains of the deployment in force.
pub(crate) fn list(ledger: &Ledger, troubles: &Troubles) -> Vec<Federated> {
    let authority = ledger.current();
    let Some(in_force) = authority.in_force() else { return Vec::new() };
    let endpoints = &in_force.deployment().federation;
    let one = |endpoint: &Endpoint| {
        let domain = &endpoint.trust_domain;
        let held = authority.documents().federation.get(domain);
        let bundle = held.and_then(|held| held.parse(domain));
        let told_by = match &endpoint.profile {
            Profile::HttpsWeb { ca } => ToldBy::Web { authorities: authorities(ca).unwrap_or_default() },
            Profile::HttpsSpiffe { endpoint_spiffe_id, .. } => ToldBy::Spiffe {
                id: endpoint_spiffe_id.clone(),
                authorities: bundle.iter().flat_map(|bundle| &bundle.x509).cloned().map(Into::into).collect(),
            },
        };
        let hint = bundle.as_ref().and_then(|bundle| bundle.jwt.refresh_hint_seconds);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Federated {
            trust_domain: domain.clone(),
            url: endpoint.url.clone(),
            told_by,
            endpoint: name(endpoint),
            refresh_seconds: hint
                .unwrap_or(REFRESH_DEFAULT_SECONDS)
                .clamp(*REFRESH_SECONDS.start(), *REFRESH_SECONDS.end()),
            held: held.zip(bundle.as_ref()).map(|(held, bundle)| BundleStatus {
                sequence: bundle.jwt.sequence,
                x509_authorities: count(bundle.x509.len()),
                jwt_keys: count(bundle.jwt.keys.len()),
                changed: held.changed,
                confirmed: held.confirmed,
            }),
            trouble: troubles.get(domain),
        }
    };
    endpoints.iter().map(one).collect()
}
