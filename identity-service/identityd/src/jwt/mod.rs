//! JWT-SVIDs of this gateway: the keys that sign them, and the tokens.
//!
//! A private key is born in memory, at each start and again in time, and never written down. Its public half is on disk
//! ([`PublishedKeys`]) and in everybody's bundle before it signs, and stays there until the last token that it may have
//! signed has expired: so tokens outlive a restart of `identityd`, and keys do not. The next key is published
//! [`LEAD`] before its turn, so that who learns of it late has it in time; only the first key of a run signs at once,
//! because there is no other.
//!
//! * `keys`: which key signs, and when the next is due · [`edgewarden_decisions::jwt_keys`]: the public halves · `tokens`: what one socket's
//!   caller was given lately · `statement`: the public halves, vouched for by the gateway CA's key
//!
//! A token ends with the gateway CA's certificate at the latest, like every certificate below it.

mod keys;
mod statement;
mod tokens;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_decisions::authority::Input;
use edgewarden_decisions::jwt_keys::{PublishedKey, PublishedKeys};
use edgewarden_names::{GatewayName, Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::config::{Identity, seconds};
use edgewarden_svid::jwt::{Audience, JwtKey, JwtKeys, PublicKey, SigningKey};
use edgewarden_svid::{Bundles, JwtSvid};
use tokio::sync::{mpsc, watch};

use self::keys::{Keys, Lifetimes};
pub(crate) use self::tokens::Tokens;
use crate::issuance::Issuance;
use crate::ledger::Ledger;
use crate::refuse::internal;

/// Time that a key is in the bundle before it signs: five refreshes. At most a quarter of its life.
pub const LEAD: Duration = Duration::from_secs(5 * 300);
/// Hint of the interval at which to poll for bundles (SPIFFE Trust Domain and Bundle, section 4.1.2).
const REFRESH_HINT_SECONDS: u32 = 300;
/// Entries for the audit log that wait to be written. Beyond it they are only logged.
const EVENTS_MAX: usize = 256;

pub(crate) struct JwtAuthority {
    domain: TrustDomain,
    gateway: SpiffeId,
    keys: Mutex<Keys>,
    bundles: watch::Sender<Arc<Bundles>>,
    events: mpsc::Sender<Event>,
    written: Mutex<Option<mpsc::Receiver<Event>>>,
    /// The statement about the published keys of this sequence.
    statement: Mutex<Option<(u64, Bytes)>>,
}

impl std::fmt::Debug for JwtAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtAuthority").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl JwtAuthority {
    /// No keys yet: the first is made when it is due.
    pub fn new(domain: &TrustDomain, gateway: &GatewayName, lifetimes: &Identity) -> Self {
        let key = seconds(lifetimes.jwt_key_lifetime_seconds);
        let lifetimes =
            Lifetimes { token: seconds(lifetimes.jwt_svid_lifetime_seconds), key, lead: LEAD.min(key / 4) };
        let (events, written) = mpsc::channel(EVENTS_MAX);
        Self {
            domain: domain.clone(),
            gateway: SpiffeId::gateway(domain, gateway),
            keys: Mutex::new(Keys::new(lifetimes)),
            bundles: watch::Sender::new(Arc::default()),
            events,
            written: Mutex::new(Some(written)),
            statement: Mutex::default(),
        }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway's own bundles, now and later.
    pub fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.bundles.subscribe()
    }

    /// Puts the keys that are on disk into everybody's bundle.
    pub fn show(&self, published: &PublishedKeys) {
        let jwt = JwtKeys {
            keys: published.keys().iter().filter_map(|key| self.public(key)).map(Arc::new).collect(),
            sequence: published.sequence(),
            refresh_hint_seconds: Some(REFRESH_HINT_SECONDS),
        };
        self.bundles.send_if_modified(|bundles| {
            if bundles.jwt.get(&self.domain).is_some_and(|held| **held == jwt) {
                return false;
            }
            let mut all = (*bundles.jwt).clone();
            all.insert(self.domain.clone(), Arc::new(jwt));
            *bundles = Arc::new(Bundles { jwt: Arc::new(all), ..Bundles::clone(bundles) });
            true
        });
    }

    fn public(&self, key: &PublishedKey) -> Option<JwtKey> {
        // The document was checked when it was read.
        let public = PublicKey::p256(key.point()?)?;
        Some(JwtKey { kid: key.kid.clone(), public, beneath: Some(self.gateway.clone()) })
    }

    fn tell(&self, event: Event) {
        if let Err(error) = self.events.try_send(event) {
            let event = error.into_inner();
            tracing::warn!(event = event.kind, subject = event.subject, "not written to the audit log");
        }
    }
}

impl JwtAuthority {
    /// Makes a new key for JWT-SVIDs when it is due. Blocks on the disk.
    pub fn renew(&self, ledger: &Ledger, now: UnixTime) -> Result<(), Refusal> {
        let due = self.keys().due(now);
        let Some(due) = due else { return Ok(()) };
        let key = SigningKey::generate().map_err(|error| internal("JWT key", &error))?;
        let published = PublishedKey::new(&key, due.not_after, due.token_seconds);
        // On disk and in the bundles first.
        ledger.transact(Input::JwtKeyPublished { key: published, alone: due.alone })?;
        self.keys().put(key, &due);
        Ok(())
    }

    /// A JWT-SVID for the instance behind a socket; its caller was judged before. Signs without a lock and without a disk.
    pub fn issue(
        &self,
        (ledger, issuance): (&Ledger, &Issuance),
        tokens: &Tokens,
        instance: &str,
        audience: &Audience,
        id: Option<&SpiffeId>,
    ) -> Result<JwtSvid, Refusal> {
        let now = ledger.now();
        let ceiling = ledger.current().documents().enrolment.may_issue(now)?.not_after;
        // Who has a certificate in use has an identity, and nobody else.
        let current = issuance.subscribe(instance, now)?;
        let own = current.borrow().as_ref().map(|context| context.id.clone());
        let unavailable = |rule| Refusal::new(Reason::IdentityUnavailable, instance, rule);
        let own = own.ok_or_else(|| unavailable("the instance has ended"))?;
        if id.is_some_and(|id| *id != own) {
            return Err(Refusal::new(
                Reason::IdentityForeign,
                "spiffe_id",
                "this module has another identity",
            ));
        }
        let asked = audience.sorted();
        if let Some(token) = tokens.fresh(&asked, now) {
            ledger.metrics.jwt_svid(false);
            return Ok(JwtSvid { id: own, token });
        }
        let (key, expires) = {
            let mut keys = self.keys();
            keys.signer(now).ok_or_else(|| unavailable("there is no key for JWT-SVIDs yet"))?
        };
        let expires = expires.min(ceiling);
        let token = key.issue(&own, audience, now, expires).map_err(|error| internal("JWT-SVID", &error))?;
        ledger.metrics.jwt_svid(true);
        if let Some(event) = tokens.keep(asked, &token, now, expires, &own) {
            self.tell(event);
        }
        Ok(JwtSvid { id: own, token })
    }
}

/// Writes to the audit log what was told while tokens went out.
pub(crate) async fn write_down(ledger: &Arc<Ledger>, jwt: &JwtAuthority) {
    let written = jwt.written.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut events) = written else { return std::future::pending().await };
    while let Some(event) = events.recv().await {
        let ledger = Arc::clone(ledger);
        if let Err(error) = tokio::task::spawn_blocking(move || ledger.record(&event)).await {
            tracing::error!(%error, "an event of JWT-SVIDs was not written down");
        }
    }
}
