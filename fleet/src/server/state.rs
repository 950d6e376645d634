//! State that all requests share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use edgewarden_names::{Digest, GatewayName, TrustDomain};
use edgewarden_transport::log_limit::LogLimit;
use tokio::sync::{Semaphore, watch};

use super::catalogue::{Catalogue, Deployments};
use super::reports::Reports;
use super::room::Room;
use super::waiting::Waiting;
use crate::data_dir::Secret;
use crate::enrol::{Enrolment, token_hash};
use crate::metrics::Metrics;
use crate::selection::Carry;
use crate::store::messages::Retention;
use crate::store::{Store, StoreError};

/// Large bodies of gateways that are read at once, so that many slow senders cannot fill the memory. Strangers have a
/// room of their own: who enrols, or pretends to, holds no telemetry up.
const LARGE_BODIES_MAX: usize = 16;
/// Of one gateway. Its others wait outside: however slowly it sends, there is room for the rest of the fleet.
const LARGE_BODIES_OF_GATEWAY_MAX: usize = 2;

/// A gateway that still has not put in force what it was sent is sent it again after this long, not at once.
pub const RESEND_AFTER: Duration = Duration::from_secs(5);

/// State that all requests share: store, limits, tokens, caches, metrics. One for each server.
#[derive(Debug)]
pub struct Shared {
    pub store: Store,
    pub domain: TrustDomain,
    pub enrolment: Enrolment,
    pub carry: Carry,
    pub retention: Retention,
    pub strangers_bodies: Room,
    /// For what strangers are refused.
    pub refusals_logged: LogLimit,
    pub gateways_bodies: Semaphore,
    /// For what gateways cause. Strangers use up none of its lines.
    pub gateways_logged: LogLimit,
    bodies: Mutex<HashMap<GatewayName, Arc<Semaphore>>>,
    pub web: Option<SocketAddr>,
    pub admin: AccessToken,
    pub web_token: Secret,
    pub deployments: Catalogue,
    /// One deployment is judged and stored at a time, so that of two with one version the second is refused.
    pub deploying: tokio::sync::Mutex<()>,
    pub reports: Reports,
    pub metrics: Metrics,
    /// Held syncs.
    pub waiting: Waiting,
    /// Set once, when the server is about to stop.
    pub stopping: watch::Receiver<bool>,
    sent: Mutex<HashMap<GatewayName, Sent>>,
    /// The secrets that were sent together last, and when.
    secrets_sent: Mutex<HashMap<GatewayName, (Digest, Instant)>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Sent {
    digest: Digest,
    have: Option<Digest>,
    at: Instant,
}

impl Shared {
    /// State of a server that begins: caches and counts are empty.
    #[expect(clippy::too_many_arguments, reason = "called once, where the server is put together")]
    pub fn new(
        store: Store,
        domain: TrustDomain,
        enrolment: Enrolment,
        carry: Carry,
        reports: Reports,
        web: Option<SocketAddr>,
        admin: &Secret,
        web_token: Secret,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            domain,
            enrolment,
            carry,
            retention: Retention::default(),
            strangers_bodies: Room::default(),
            refusals_logged: LogLimit::default(),
            gateways_bodies: Semaphore::new(LARGE_BODIES_MAX),
            gateways_logged: LogLimit::default(),
            bodies: Mutex::default(),
            web,
            admin: AccessToken::new(admin),
            web_token,
            deployments: Catalogue::new(carry),
            deploying: tokio::sync::Mutex::default(),
            reports,
            metrics: Metrics::default(),
            waiting: Waiting::default(),
            stopping,
            sent: Mutex::default(),
            secrets_sent: Mutex::default(),
        })
    }

    /// The deployments that are stored now.
    pub async fn deployments(&self) -> Result<Arc<Deployments>, StoreError> {
        self.deployments.now(&self.store).await
    }

    /// Earliest time to send `digest` again to a gateway that has `have`; `None` when this was not what it was sent
    /// last, and may go at once.
    pub fn send_at(&self, gateway: &GatewayName, digest: &Digest, have: Option<&Digest>) -> Option<Instant> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let last = sent.get(gateway)?;
        (last.digest == *digest && last.have.as_ref() == have).then(|| last.at + RESEND_AFTER)
    }

    /// Notes the deployment that a gateway is sent now. Called for enrolled gateways only, which bounds the map.
    pub fn note_sent(&self, gateway: &GatewayName, digest: &Digest, have: Option<&Digest>) {
        let sent = Sent { digest: digest.clone(), have: have.cloned(), at: Instant::now() };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(gateway.clone(), sent);
    }

    /// Earliest time to send these secrets to a gateway again; `None` when they are not what it was sent last, and may
    /// go at once.
    pub fn secrets_send_at(&self, gateway: &GatewayName, batch: &Digest) -> Option<Instant> {
        let sent = self.secrets_sent.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, at) = sent.get(gateway)?;
        (last == batch).then(|| *at + RESEND_AFTER)
    }

    /// Notes the secrets that a gateway is sent now. Called for enrolled gateways only, which bounds the map.
    pub fn note_secrets_sent(&self, gateway: &GatewayName, batch: Digest) {
        let mut sent = self.secrets_sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.insert(gateway.clone(), (batch, Instant::now()));
    }

    /// The gate that a gateway's large bodies pass before [`Shared::gateways_bodies`]. Called for enrolled gateways
    /// only, which bounds the map.
    pub fn bodies_of(&self, gateway: &GatewayName) -> Arc<Semaphore> {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let own = bodies.entry(gateway.clone());
        Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(LARGE_BODIES_OF_GATEWAY_MAX))))
    }

    /// Forgets a gateway in [`Shared::note_sent`], [`Shared::note_secrets_sent`] and [`Shared::bodies_of`].
    pub fn forget_sent(&self, gateway: &GatewayName) {
        self.secrets_sent.lock().unwrap_or_else(PoisonError::into_inner).remove(gateway);
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).remove(gateway);
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(gateway);
    }
}

/// The hash of a token that callers must show. Hashes are compared, in constant time, so that neither the length nor
/// a common beginning of a guess can be told.
pub struct AccessToken([u8; 32]);

impl AccessToken {
    /// The hash of `token`; the text is not kept.
    pub fn new(token: &Secret) -> Self {
        Self(token_hash(token))
    }

    /// True when `offered` is the token. The hashes are compared in constant time.
    pub fn matches(&self, offered: &str) -> bool {
        verify_slices_are_equal(&self.0, &token_hash(offered)).is_ok()
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(..)")
    }
}
