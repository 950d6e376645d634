//! Refusals on their way to `identityd`'s audit log. Peers cause them, so they are rate limited, and nothing waits.
//!
//! Each origin has an allowance and a queue of its own, and each peer a share in it: a stranger's noise is never before
//! what a leaf device or a module was refused, and a peer that proved nothing is named by its address alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_metrics::{Counter, Counts};
use edgewarden_names::{Principal, Reason, Refusal};
use edgewarden_protocol::control::{Origin, questions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::control::Control;
use crate::listen::source;

/// The same refusal of the same thing is told once in this time.
const REPEAT: Duration = Duration::from_secs(10);
/// Refusals that one peer may cause at once, and the time until it may cause one more.
const PEER: (u32, Duration) = (10, Duration::from_secs(10));
/// Peers of one kind that are told apart, and refusals that are remembered as told. The oldest are forgotten.
const REMEMBERED_MAX: usize = 512;
/// Refusals of one kind that wait to be told.
const WAITING_MAX: usize = 64;

/// A group of origins that share an allowance and a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Own,
    Modules,
    Leaves,
    Strangers,
}

impl Kind {
    fn of(origin: &Origin) -> Self {
        match origin {
            Origin::Enforcer => Self::Own,
            Origin::Module { .. } => Self::Modules,
            Origin::Leaf { .. } => Self::Leaves,
            Origin::Stranger { .. } => Self::Strangers,
        }
    }

    /// Refusals at once, and how long it takes until there may be one more.
    fn allowance(self) -> (u32, Duration) {
        match self {
            Self::Own | Self::Modules | Self::Leaves => (50, Duration::from_millis(500)),
            Self::Strangers => (16, Duration::from_secs(5)),
        }
    }
}

/// The origin of what somebody did who has proven who it is.
pub(crate) fn proven(who: &Principal) -> Origin {
    match who {
        Principal::Module(module) => Origin::Module { module: module.clone() },
        Principal::Leaf(leaf) => Origin::Leaf { leaf: leaf.clone() },
    }
}

/// The origin of what somebody did who has proven nothing.
pub(crate) fn stranger(from: SocketAddr) -> Origin {
    Origin::Stranger { address: from.ip().to_canonical() }
}

/// The sending end, by which any part reports a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    counted: Arc<Counts<Reason, Counter>>,
    own: Sender,
    modules: Sender,
    leaves: Sender,
    strangers: Sender,
}

/// The receiving end: refusals that wait for [`serve`].
#[derive(Debug)]
pub(crate) struct Refusals {
    own: mpsc::Receiver<Told>,
    modules: mpsc::Receiver<Told>,
    leaves: mpsc::Receiver<Told>,
    strangers: mpsc::Receiver<Told>,
}

#[derive(Debug)]
struct Told {
    origin: Origin,
    refusal: Refusal,
    /// Refusals of the same kind, not told since the last one that was.
    untold: u64,
}

#[derive(Debug, Clone)]
struct Sender {
    limiter: Arc<Mutex<Limiter>>,
    queue: mpsc::Sender<Told>,
}

impl Sender {
    fn new(kind: Kind) -> (Self, mpsc::Receiver<Told>) {
        let (queue, receiver) = mpsc::channel(WAITING_MAX);
        let limiter = Arc::new(Mutex::new(Limiter::new(kind, Instant::now())));
        (Self { limiter, queue }, receiver)
    }

    fn send(&self, origin: Origin, refusal: Refusal) {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(place) = self.queue.try_reserve() else { return limiter.leave_out() };
        if let Some(untold) = limiter.admit(&origin, &refusal, Instant::now()) {
            place.send(Told { origin, refusal, untold });
        }
    }
}

impl Audit {
    /// The second half is served by [`serve`].
    pub(crate) fn new() -> (Self, Refusals) {
        let (own, own_told) = Sender::new(Kind::Own);
        let (modules, modules_told) = Sender::new(Kind::Modules);
        let (leaves, leaves_told) = Sender::new(Kind::Leaves);
        let (strangers, strangers_told) = Sender::new(Kind::Strangers);
        let told =
            Refusals { own: own_told, modules: modules_told, leaves: leaves_told, strangers: strangers_told };
        let counted = Arc::new(Counts::of(Reason::ALL));
        (Self { counted, own, modules, leaves, strangers }, told)
    }

    /// All refusals, told or not.
    pub(crate) fn counted(&self) -> Arc<Counts<Reason, Counter>> {
        Arc::clone(&self.counted)
    }

    pub(crate) fn refused(&self, origin: Origin, refusal: Refusal) {
        if let Some(count) = self.counted.get(&refusal.reason) {
            count.inc();
        }
        let sender = match Kind::of(&origin) {
            Kind::Own => &self.own,
            Kind::Modules => &self.modules,
            Kind::Leaves => &self.leaves,
            Kind::Strangers => &self.strangers,
        };
        let refusal = match &origin {
            // What it says it is would be believed by who reads the log.
            Origin::Stranger { address } => Refusal { subject: address.to_string(), ..refusal },
            _ => refusal,
        };
        sender.send(origin, refusal);
    }

    /// Reports a failure of this process itself.
    pub(crate) fn failed(&self, refusal: Refusal) {
        self.refused(Origin::Enforcer, refusal);
    }
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Bucket {
    fn new((most, _): (u32, Duration), now: Instant) -> Self {
        Self { left: most, filled: now }
    }

    fn has(&mut self, (most, each): (u32, Duration), now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis() / each.as_millis().max(1);
        if passed > 0 {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(most)).min(most);
            self.filled = now;
        }
        self.left > 0
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

/// The allowance of a kind, with a memory of what was told lately.
#[derive(Debug)]
struct Limiter {
    kind: Kind,
    all: Bucket,
    peers: HashMap<Origin, Bucket>,
    told: HashMap<(Reason, String), Instant>,
    untold: u64,
}

impl Limiter {
    fn new(kind: Kind, now: Instant) -> Self {
        let all = Bucket::new(kind.allowance(), now);
        Self { kind, all, peers: HashMap::new(), told: HashMap::new(), untold: 0 }
    }

    fn leave_out(&mut self) {
        self.untold = self.untold.saturating_add(1);
    }

    /// The number of refusals left out before this one; `None` when it is left out too.
    fn admit(&mut self, origin: &Origin, refusal: &Refusal, now: Instant) -> Option<u64> {
        let key = (refusal.reason, refusal.subject.clone());
        let lately = |at: &Instant| now.saturating_duration_since(*at) < REPEAT;
        if self.told.get(&key).is_some_and(lately) || !self.take(origin, now) {
            self.leave_out();
            return None;
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.retain(|_, at| lately(at));
        }
        // Beyond it the same is told twice: the allowance bounds it.
        if self.told.len() < REMEMBERED_MAX {
            self.told.insert(key, now);
        }
        Some(std::mem::take(&mut self.untold))
    }

    fn take(&mut self, origin: &Origin, now: Instant) -> bool {
        if !self.all.has(self.kind.allowance(), now) {
            return false;
        }
        let peer = match origin {
            Origin::Stranger { address } => Origin::Stranger { address: source(*address) },
            proven => proven.clone(),
        };
        // Our own work is one peer, and has the whole allowance.
        if peer != Origin::Enforcer {
            if !self.peers.contains_key(&peer) && self.peers.len() >= REMEMBERED_MAX {
                let oldest = self.peers.iter().min_by_key(|(_, bucket)| bucket.filled);
                if let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) {
                    self.peers.remove(&oldest);
                }
            }
            let share = self.peers.entry(peer).or_insert_with(|| Bucket::new(PEER, now));
            if !share.has(PEER, now) {
                return false;
            }
            share.take();
        }
        self.all.take();
        true
    }
}

/// Tells `identityd` and the log. Ends when every [`Audit`] is gone.
pub(crate) async fn serve(mut refusals: Refusals, control: Control) {
    loop {
        let told = tokio::select! {
            biased;
            Some(told) = refusals.own.recv() => told,
            Some(told) = refusals.modules.recv() => told,
            Some(told) = refusals.leaves.recv() => told,
            Some(told) = refusals.strangers.recv() => told,
            else => return,
        };
        let Told { origin, refusal, untold } = told;
        tracing::warn!(%refusal, untold, "refused");
        if let Err(error) = control.ask(questions::Refused { origin, refusal }).await {
            tracing::warn!(%error, "the audit log has not taken a refusal");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn origin(number: u32) -> Origin {
        Origin::Stranger { address: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)) }
    }

    #[test]
    fn what_is_refused_again_and_again_is_told_seldom() {
        let start = Instant::now();
        let mut limiter = Limiter::new(Kind::Strangers, start);
        let refusal = |n: u32| Refusal::new(Reason::PolicyDenied, n, "rule");
        assert_eq!(limiter.admit(&origin(0), &refusal(0), start), Some(0));
        assert_eq!(limiter.admit(&origin(0), &refusal(0), start + Duration::from_secs(9)), None);
        assert_eq!(limiter.admit(&origin(0), &refusal(0), start + Duration::from_secs(11)), Some(1));
        let later = start + Duration::from_secs(11);
        let admitted =
            (1..1000).filter(|n| limiter.admit(&origin(*n), &refusal(*n), later).is_some()).count();
        assert!(admitted <= 16, "{admitted}");
        assert!(limiter.admit(&origin(2000), &refusal(2000), start + Duration::from_secs(17)).is_some());
        assert!(limiter.peers.len() <= REMEMBERED_MAX && limiter.told.len() <= REMEMBERED_MAX);
    }

    /// One that changes what it claims to be with each try.
    #[tokio::test]
    async fn a_strangers_claims_are_neither_told_nor_before_anybody_else() {
        let (audit, mut told) = Audit::new();
        for n in 0..10_000 {
            let claim = format!("spiffe://plant.example/gateway/gw-1/leaf/invented-{n}");
            let from = SocketAddr::from(([10, 0, 0, 1], 1000));
            audit.refused(stranger(from), Refusal::new(Reason::PeerUnauthorized, claim, format!("rule {n}")));
        }
        let leaf = Principal::Leaf(edgewarden_names::LeafName::parse("sensor-1").unwrap());
        audit.refused(proven(&leaf), Refusal::new(Reason::PolicyDenied, &leaf, "no rule allows it"));
        audit.failed(Refusal::new(Reason::Internal, "upstream queue", "the disk is full"));
        let first = told.strangers.recv().await.unwrap();
        assert_eq!(first.refusal.subject, "10.0.0.1");
        assert!(told.strangers.try_recv().is_err(), "the same peer's other claims are repetitions");
        assert_eq!(told.leaves.recv().await.unwrap().refusal.reason, Reason::PolicyDenied);
        assert_eq!(told.own.recv().await.unwrap().refusal.reason, Reason::Internal);
    }
}
