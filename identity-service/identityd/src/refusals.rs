//! Latest refusals: for status, and for the audit log at a rate that a peer cannot drive up.
//!
//! Whose doing a refusal is decides which allowance it takes from and which place it is shown in. So nobody's noise
//! keeps another's refusals out of the log or out of sight, and least of all a stranger's those of an operator's work.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use edgewarden_names::{Refusal, UnixTime};
use edgewarden_protocol::audit::clip;
use edgewarden_protocol::control::{Enforcer, Origin};

/// The same refusal is written once in this time.
const REPEAT_SECONDS: u64 = 60;
/// The entries of one class that may be written at once, and of one peer of it, so that a noisy one does not keep
/// others' refusals out.
const PEER_BURST_MAX: u64 = 16;
const PEER_INTERVAL_SECONDS: u64 = 300;
/// Peers of one class that are told apart. Those who have not been refused for longest are forgotten.
const PEERS_MAX: usize = 256;
/// Places in status that all classes but strangers share, beside those that each has for itself.
const SHARED_MAX: usize = 5;

/// Class of refusals that share an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Deployments, images, attestation, secrets: what an operator waits for.
    Decisions,
    /// Callers of our own sockets.
    Callers,
    /// Work that an enforcer could not do.
    Runtimed,
    Gatewayd,
    /// Refusals of an enforcer to a module.
    RuntimedModules,
    GatewaydModules,
    /// Its refusals to a leaf device.
    Leaves,
    /// Its refusals to a peer that proved nothing.
    Strangers,
}

impl Class {
    const ALL: [Self; 8] = [
        Self::Decisions,
        Self::Callers,
        Self::Runtimed,
        Self::Gatewayd,
        Self::RuntimedModules,
        Self::GatewaydModules,
        Self::Leaves,
        Self::Strangers,
    ];

    /// Entries that may be written at once, and seconds until there is one more. The log is a few files that go round:
    /// what all classes together can put into it in a week must not be more than it holds.
    const fn allowance(self) -> (u64, u64) {
        match self {
            Self::Decisions => (60, 60),
            Self::Callers | Self::RuntimedModules | Self::GatewaydModules => (60, 150),
            Self::Runtimed | Self::Gatewayd | Self::Leaves => (32, 300),
            Self::Strangers => (16, 600),
        }
    }

    /// Places in status that are this class's alone.
    const fn places(self) -> usize {
        match self {
            Self::Decisions => 6,
            Self::Callers | Self::Strangers => 4,
            Self::Runtimed | Self::Gatewayd | Self::RuntimedModules | Self::GatewaydModules => 2,
            Self::Leaves => 1,
        }
    }
}

/// The refused party, within the class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub class: Class,
    /// Name of one peer: a name that is proven, or an address.
    peer: String,
}

impl From {
    /// A decision about the thing that the refusal names.
    pub fn decision(refusal: &Refusal) -> Self {
        Self { class: Class::Decisions, peer: clip(&refusal.subject) }
    }

    /// A caller of a socket of ours.
    pub fn caller(socket: &str) -> Self {
        Self { class: Class::Callers, peer: clip(socket) }
    }

    /// The origin by an enforcer's word. It is believed about its own peers only.
    pub fn reported(by: Enforcer, origin: &Origin) -> Self {
        match (origin, by) {
            (Origin::Stranger { address }, _) => {
                Self { class: Class::Strangers, peer: line(*address).to_string() }
            }
            (Origin::Leaf { leaf }, _) => Self { class: Class::Leaves, peer: leaf.to_string() },
            (Origin::Module { module }, Enforcer::Runtimed) => {
                Self { class: Class::RuntimedModules, peer: module.to_string() }
            }
            (Origin::Module { module }, Enforcer::Gatewayd) => {
                Self { class: Class::GatewaydModules, peer: module.to_string() }
            }
            (Origin::Enforcer, Enforcer::Runtimed) => Self { class: Class::Runtimed, peer: String::new() },
            (Origin::Enforcer, Enforcer::Gatewayd) => Self { class: Class::Gatewayd, peer: String::new() },
        }
    }
}

/// The line of an address: itself, or the network that IPv6 gives to one customer.
fn line(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Names a peer that proved nothing by its address: what it says it is would be believed by who reads the log.
pub fn by_address(origin: &Origin, refusal: Refusal) -> Refusal {
    match origin {
        Origin::Stranger { address } => Refusal { subject: address.to_string(), ..refusal },
        _ => refusal,
    }
}

/// Latest refusals by class, with their allowances.
#[derive(Debug)]
pub struct RefusalLog {
    /// By [`Class::ALL`].
    classes: [ClassLog; 8],
    /// Tells apart what came in the same second.
    next: u64,
}

#[derive(Debug)]
struct ClassLog {
    shown: VecDeque<Shown>,
    all: Allowance,
    peers: HashMap<String, Allowance>,
    suppressed: u64,
}

#[derive(Debug, Clone)]
struct Shown {
    number: u64,
    at: UnixTime,
    refusal: Refusal,
}

/// A token bucket by the wall clock; a clock that goes back gives nothing.
#[derive(Debug)]
pub struct Allowance {
    left: u64,
    most: u64,
    interval: u64,
    filled: UnixTime,
}

impl Allowance {
    /// Full, as of `now`.
    pub fn new((most, interval): (u64, u64), now: UnixTime) -> Self {
        Self { left: most, most, interval, filled: now }
    }

    /// `true` when something is left at `now`, after filling up.
    pub fn has(&mut self, now: UnixTime) -> bool {
        let more = now.0.saturating_sub(self.filled.0) / self.interval.max(1);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(self.most);
            // What is left of an interval counts for the next.
            self.filled = UnixTime(self.filled.0.saturating_add(more.saturating_mul(self.interval)));
        } else if now < self.filled {
            self.filled = now;
        }
        self.left > 0
    }

    /// Takes one.
    pub fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

/// Decision whether a refusal is written to the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// Write it, bounded; so many of its class were not written since the last one that was.
    Write {
        refusal: Refusal,
        suppressed: u64,
    },
    Suppressed,
}

impl ClassLog {
    fn note(&mut self, number: u64, now: UnixTime, peer: &str, refusal: Refusal) -> Noted {
        let repeated = self.shown.iter().any(|shown| {
            shown.refusal == refusal && now.0.saturating_sub(shown.at.0) < REPEAT_SECONDS && shown.at <= now
        });
        if repeated || !self.take(now, peer) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Noted::Suppressed;
        }
        if self.shown.len() >= Class::Decisions.places().saturating_add(SHARED_MAX) {
            self.shown.pop_front();
        }
        self.shown.push_back(Shown { number, at: now, refusal: refusal.clone() });
        Noted::Write { refusal, suppressed: std::mem::take(&mut self.suppressed) }
    }

    fn take(&mut self, now: UnixTime, peer: &str) -> bool {
        if !self.all.has(now) {
            return false;
        }
        if !self.peers.contains_key(peer) {
            if self.peers.len() >= PEERS_MAX {
                let oldest = self.peers.iter().min_by_key(|(_, allowance)| allowance.filled);
                if let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) {
                    self.peers.remove(&oldest);
                }
            }
            self.peers.insert(peer.into(), Allowance::new((PEER_BURST_MAX, PEER_INTERVAL_SECONDS), now));
        }
        let Some(allowance) = self.peers.get_mut(peer) else { return false };
        if !allowance.has(now) {
            return false;
        }
        allowance.take();
        self.all.take();
        true
    }
}

impl RefusalLog {
    /// Empty, with full allowances as of `now`.
    pub fn new(now: UnixTime) -> Self {
        let log = |class: Class| ClassLog {
            shown: VecDeque::new(),
            all: Allowance::new(class.allowance(), now),
            peers: HashMap::new(),
            suppressed: 0,
        };
        Self { classes: Class::ALL.map(log), next: 0 }
    }

    /// Takes a refusal in, with its text bounded.
    pub fn note(&mut self, now: UnixTime, from: &From, refusal: &Refusal) -> Noted {
        let refusal =
            Refusal { reason: refusal.reason, subject: clip(&refusal.subject), rule: clip(&refusal.rule) };
        self.next = self.next.saturating_add(1);
        let number = self.next;
        let logs = Class::ALL.iter().zip(&mut self.classes);
        let log = logs.into_iter().find(|(class, _)| **class == from.class);
        log.map_or(Noted::Suppressed, |(_, log)| log.note(number, now, &from.peer, refusal))
    }

    /// The newest of all whose doing is known, oldest first: of each class as many as it has places, then whichever are
    /// newest.
    pub fn shown(&self) -> Vec<(UnixTime, Refusal)> {
        let (mut picked, mut others) = (Vec::new(), Vec::new());
        for (class, log) in Class::ALL.iter().zip(&self.classes) {
            if *class != Class::Strangers {
                let (own, rest): (Vec<_>, Vec<_>) =
                    log.shown.iter().rev().enumerate().partition(|(nth, _)| *nth < class.places());
                picked.extend(own.into_iter().map(|(_, shown)| shown));
                others.extend(rest.into_iter().map(|(_, shown)| shown));
            }
        }
        others.sort_unstable_by_key(|shown| std::cmp::Reverse(shown.number));
        picked.extend(others.into_iter().take(SHARED_MAX));
        in_order(picked)
    }

    /// The newest of peers that proved nothing.
    pub fn strangers(&self) -> Vec<(UnixTime, Refusal)> {
        let logs = Class::ALL.iter().zip(&self.classes);
        let strangers = logs.filter(|(class, _)| **class == Class::Strangers);
        let newest = strangers.flat_map(|(class, log)| log.shown.iter().rev().take(class.places()));
        in_order(newest.collect())
    }
}

fn in_order(mut shown: Vec<&Shown>) -> Vec<(UnixTime, Refusal)> {
    shown.sort_unstable_by_key(|shown| shown.number);
    shown.into_iter().map(|shown| (shown.at, shown.refusal.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_audit::folder::{FILE_BYTES_MAX, FILES_MAX};
    use edgewarden_names::{LeafName, ModuleName, Reason};
    use edgewarden_protocol::control::REFUSALS_MAX;

    fn refusal(subject: &str) -> Refusal {
        Refusal::new(Reason::PolicyDenied, subject, "no rule allows it")
    }

    fn leaf(name: &str) -> From {
        From::reported(Enforcer::Gatewayd, &Origin::Leaf { leaf: LeafName::parse(name).unwrap() })
    }

    fn stranger(number: u32) -> From {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into();
        From::reported(Enforcer::Gatewayd, &Origin::Stranger { address })
    }

    fn is_written(noted: &Noted) -> bool {
        *noted != Noted::Suppressed
    }

    #[test]
    fn repetition_is_counted_and_not_written() {
        let mut log = RefusalLog::new(UnixTime(100));
        for (at, subject, expected) in [
            (100, "a", Some(0)),
            (100, "a", None),
            (159, "a", None),
            (159, "b", Some(2)),
            (160, "a", Some(0)),
            // The clock went back: better twice than not at all.
            (10, "b", Some(0)),
        ] {
            let noted = match log.note(UnixTime(at), &leaf("sensor"), &refusal(subject)) {
                Noted::Write { suppressed, .. } => Some(suppressed),
                Noted::Suppressed => None,
            };
            assert_eq!(noted, expected, "{at} {subject}");
        }
    }

    #[test]
    fn a_flood_is_written_at_a_bounded_rate() {
        let mut log = RefusalLog::new(UnixTime(0));
        let written = |log: &mut RefusalLog, at: u64| {
            let mut one = |n: &u32| log.note(UnixTime(at), &stranger(*n), &refusal(&format!("{at} {n}")));
            (0..1000).filter(|n| is_written(&one(n))).count()
        };
        assert_eq!(written(&mut log, 0), 16);
        assert_eq!(written(&mut log, 599), 0);
        assert_eq!(written(&mut log, 600), 1);
        assert_eq!(written(&mut log, 3600), 5);
        assert_eq!(written(&mut log, 1_000_000), 16);
        for class in &log.classes {
            assert!(class.peers.len() <= PEERS_MAX && class.shown.len() < REFUSALS_MAX);
        }
    }

    #[test]
    fn no_origin_keeps_anothers_refusals_out_or_out_of_sight() {
        let module = |by| From::reported(by, &Origin::Module { module: ModuleName::parse("m").unwrap() });
        let sources: [(&str, &dyn Fn(u32) -> From); 8] = [
            ("decisions", &|n| From::decision(&refusal(&format!("deployment {n}")))),
            ("callers", &|n| From::caller(&format!("m-{n}"))),
            ("runtimed", &|_| From::reported(Enforcer::Runtimed, &Origin::Enforcer)),
            ("gatewayd", &|_| From::reported(Enforcer::Gatewayd, &Origin::Enforcer)),
            ("modules at runtimed", &|_| module(Enforcer::Runtimed)),
            ("modules at gatewayd", &|_| module(Enforcer::Gatewayd)),
            ("leaves", &|n| leaf(&format!("leaf-{n}"))),
            ("strangers", &stranger),
        ];
        for (noisy, flood) in &sources {
            let mut log = RefusalLog::new(UnixTime(0));
            let everywhere = |log: &mut RefusalLog, at: u64| {
                for n in 0..1000 {
                    log.note(UnixTime(at), &flood(n), &refusal(&format!("noise {at} {n}")));
                }
            };
            everywhere(&mut log, 0);
            for (name, from) in &sources {
                let text = format!("one of {name}");
                let noted = log.note(UnixTime(1), &from(7), &refusal(&text));
                assert_eq!(is_written(&noted), name != noisy, "{noisy} against {name}");
            }
            everywhere(&mut log, 5000);
            let seen: Vec<_> = log.shown().into_iter().chain(log.strangers()).collect();
            assert!(seen.len() <= REFUSALS_MAX - 4, "{} places", seen.len());
            for (name, _) in sources.iter().filter(|(name, _)| name != noisy) {
                let text = format!("one of {name}");
                assert!(seen.iter().any(|(_, shown)| shown.subject == text), "{noisy} hides {name}");
            }
        }
    }

    #[test]
    fn addresses_of_one_line_share_an_allowance() {
        let mut log = RefusalLog::new(UnixTime(0));
        let from = |address: &str| {
            From::reported(Enforcer::Gatewayd, &Origin::Stranger { address: address.parse().unwrap() })
        };
        assert_eq!(from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9"));
        assert_ne!(from("2001:db8:1:2::1"), from("2001:db8:1:3::1"));
        assert_eq!(from("::ffff:192.0.2.7"), from("192.0.2.7"));
        for n in 0..100 {
            log.note(UnixTime(0), &from(&format!("2001:db8::{n:x}")), &refusal(&n.to_string()));
        }
        assert_eq!(log.classes.iter().map(|class| class.peers.len()).sum::<usize>(), 1);
        let origin = Origin::Stranger { address: "192.0.2.7".parse().unwrap() };
        assert_eq!(by_address(&origin, refusal("spiffe://plant.example/fleet")).subject, "192.0.2.7");
    }

    /// A process that is started anew for each refused call has another text each time.
    #[test]
    fn a_noisy_caller_keeps_nobody_elses_refusals_out() {
        let mut log = RefusalLog::new(UnixTime(0));
        let week = 7 * 24 * 3600;
        let mut others = 0;
        for at in (0..week).step_by(10) {
            for n in 0..20 {
                let rule = format!("process {at} {n} is none of the module's");
                let one = Refusal::new(Reason::CallerNotModule, "noisy-1", rule);
                log.note(UnixTime(at), &From::caller("noisy-1"), &one);
            }
            if at % 3600 == 0 {
                let noted = log.note(UnixTime(at), &From::caller("quiet-1"), &refusal("quiet-1"));
                others += u64::from(is_written(&noted));
            }
        }
        assert_eq!(others, week / 3600);
    }

    #[test]
    fn all_of_them_together_do_not_fill_the_log_in_a_week() {
        const ENTRY_BYTES: u64 = 512;
        let week = 7 * 24 * 3600;
        let entries: u64 = Class::ALL
            .iter()
            .map(|class| {
                let (burst, interval) = class.allowance();
                burst + week / interval
            })
            .sum();
        let held = FILE_BYTES_MAX * u64::try_from(FILES_MAX).unwrap();
        assert!(entries * ENTRY_BYTES < held, "{entries} entries");
    }
}
