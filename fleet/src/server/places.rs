//! Places for connections: their holders, and the order in which they make room. Pure: time is an argument.
//!
//! Each connection begins as a stranger's, counted by address (IPv4) or line (an IPv6 /64), until its peer has proven
//! more: a gateway by its certificate, an operator by its token. Each of the three kinds has places of its own, so that
//! strangers take none of an operator's or a gateway's, and each line and each process of a gateway has a share.
//!
//! A stranger that comes to taken places gets one all the same when somebody of a more crowded line, or somebody that
//! has been there for a while without proving anything, can make room. Who has said nothing goes first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgewarden_names::SpiffeId;

use crate::enrol::sessions::whole_network;

/// Time that a stranger may be silent before it makes room for another of its line.
const SILENT_FOR: Duration = Duration::from_millis(250);
/// The same for one that speaks: longer than a handshake takes among many.
const UNPROVEN_FOR: Duration = Duration::from_secs(2);

/// The most connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub strangers: usize,
    /// Of one line.
    pub strangers_per_source: usize,
    pub operators: usize,
    pub gateways: usize,
    /// Of one process of a gateway.
    pub per_gateway: usize,
}

#[derive(Debug)]
enum Holder {
    Stranger(IpAddr),
    Operator,
    Gateway(SpiffeId),
}

#[derive(Debug)]
struct Stranger {
    since: Instant,
    spoke: bool,
}

/// Places for connections by kind and source. `T` ends a connection; whose it is that is returned has to go.
#[derive(Debug)]
pub struct Places<T> {
    limits: Limits,
    next: u64,
    held: HashMap<u64, (Holder, T)>,
    /// By line, the oldest first.
    strangers: HashMap<IpAddr, BTreeMap<u64, Stranger>>,
    strangers_count: usize,
    /// The oldest first, as below.
    operators: BTreeSet<u64>,
    gateways: HashMap<SpiffeId, BTreeSet<u64>>,
    gateways_count: usize,
}

/// Counts of the connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    pub strangers: usize,
    pub operators: usize,
    pub gateways: usize,
}

/// Refusal of a place: all are taken. The number is the most there are.
#[derive(Debug, PartialEq, Eq)]
pub struct Full(pub usize);

impl<T> Places<T> {
    /// Empty places within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            held: HashMap::new(),
            strangers: HashMap::new(),
            strangers_count: 0,
            operators: BTreeSet::new(),
            gateways: HashMap::new(),
            gateways_count: 0,
        }
    }

    /// Connections that have a place now.
    pub fn count(&self) -> Occupancy {
        Occupancy {
            strangers: self.strangers_count,
            operators: self.operators.len(),
            gateways: self.gateways_count,
        }
    }

    /// A place for somebody new, and who made room for it.
    pub fn enter(&mut self, source: IpAddr, end: T, now: Instant) -> Result<(u64, Option<T>), Full> {
        let source = whole_network(source);
        let own = self.strangers.get(&source).map_or(0, BTreeMap::len);
        let victim = if own >= self.limits.strangers_per_source {
            let full = Full(self.limits.strangers_per_source);
            Some(self.makes_room(|line| *line == source, now).ok_or(full)?)
        } else if self.strangers_count >= self.limits.strangers {
            let crowd = self.strangers.values().map(BTreeMap::len).max().unwrap_or(0);
            // Between lines that are equally crowded only patience counts.
            let patience = if crowd > own + 1 { now + UNPROVEN_FOR } else { now };
            let crowded =
                |places: &Self, line: &IpAddr| places.strangers.get(line).map_or(0, BTreeMap::len) == crowd;
            let victim = self.makes_room(|line| crowded(self, line), patience);
            Some(victim.ok_or(Full(self.limits.strangers))?)
        } else {
            None
        };
        let gone = victim.and_then(|number| self.leave(number));
        let number = self.next;
        self.next += 1;
        self.held.insert(number, (Holder::Stranger(source), end));
        let stranger = Stranger { since: now, spoke: false };
        self.strangers.entry(source).or_default().insert(number, stranger);
        self.strangers_count += 1;
        Ok((number, gone))
    }

    /// The stranger of these lines that has to go first: silent before speaking, then the oldest. None while all of
    /// them have just come.
    fn makes_room(&self, of: impl Fn(&IpAddr) -> bool, now: Instant) -> Option<u64> {
        let due = |stranger: &Stranger| {
            let patience = if stranger.spoke { UNPROVEN_FOR } else { SILENT_FOR };
            now.saturating_duration_since(stranger.since) >= patience
        };
        self.strangers
            .iter()
            .filter(|(line, _)| of(line))
            .flat_map(|(_, strangers)| strangers)
            .filter(|(_, stranger)| due(stranger))
            .min_by_key(|(number, stranger)| (stranger.spoke, **number))
            .map(|(number, _)| *number)
    }

    /// Notes that the first byte of a stranger has come.
    pub fn spoke(&mut self, number: u64) {
        let Some((Holder::Stranger(source), _)) = self.held.get(&number) else { return };
        if let Some(stranger) = self.strangers.get_mut(source).and_then(|line| line.get_mut(&number)) {
            stranger.spoke = true;
        }
    }

    /// A stranger has shown the certificate of a gateway's process. Of too many of that process the oldest goes: it
    /// lost its connections without telling us.
    pub fn gateway(&mut self, number: u64, id: &SpiffeId) -> Result<Option<T>, Full> {
        if !matches!(self.held.get(&number), Some((Holder::Stranger(_), _))) {
            return Ok(None);
        }
        let own = self.gateways.get(id).filter(|own| own.len() >= self.limits.per_gateway);
        let oldest = own.and_then(|own| own.first()).copied();
        if oldest.is_none() && self.gateways_count >= self.limits.gateways {
            return Err(Full(self.limits.gateways));
        }
        let gone = oldest.and_then(|oldest| self.leave(oldest));
        if self.proven(number, Holder::Gateway(id.clone())) {
            self.gateways.entry(id.clone()).or_default().insert(number);
            self.gateways_count += 1;
        }
        Ok(gone)
    }

    /// A stranger has shown an operator's token. Of too many the oldest goes.
    pub fn operator(&mut self, number: u64) -> Option<T> {
        if !self.proven(number, Holder::Operator) {
            return None;
        }
        self.operators.insert(number);
        if self.operators.len() <= self.limits.operators {
            return None;
        }
        let oldest = self.operators.first().copied()?;
        self.leave(oldest)
    }

    /// Takes a connection out of the strangers. False when it is none (any more).
    fn proven(&mut self, number: u64, holder: Holder) -> bool {
        let Some((held, _)) = self.held.get_mut(&number) else { return false };
        let Holder::Stranger(source) = held else { return false };
        let source = *source;
        *held = holder;
        self.forget_stranger(number, source);
        true
    }

    fn forget_stranger(&mut self, number: u64, source: IpAddr) {
        if let Some(line) = self.strangers.get_mut(&source)
            && line.remove(&number).is_some()
        {
            self.strangers_count -= 1;
            if line.is_empty() {
                self.strangers.remove(&source);
            }
        }
    }

    /// Gives a place back. None when it has made room before.
    pub fn leave(&mut self, number: u64) -> Option<T> {
        let (holder, end) = self.held.remove(&number)?;
        match holder {
            Holder::Stranger(source) => self.forget_stranger(number, source),
            Holder::Operator => drop(self.operators.remove(&number)),
            Holder::Gateway(id) => {
                if let Some(own) = self.gateways.get_mut(&id)
                    && own.remove(&number)
                {
                    self.gateways_count -= 1;
                    if own.is_empty() {
                        self.gateways.remove(&id);
                    }
                }
            }
        }
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { strangers: 8, strangers_per_source: 4, operators: 2, gateways: 3, per_gateway: 2 };

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://plant.example/gateway/{text}/module/runtimed")).unwrap()
    }

    /// Enters many; each ends itself by its number.
    fn fill(places: &mut Places<u64>, from: IpAddr, count: usize, now: Instant) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let next = places.next;
                let (number, gone) = places.enter(from, next, now).unwrap();
                assert_eq!(gone, None);
                number
            })
            .collect()
    }

    #[test]
    fn the_silent_of_a_line_make_room_for_it_and_for_nobody_of_it_at_once() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        let own = fill(&mut places, source(1), 4, now);
        assert_eq!(places.enter(source(1), 9, now), Err(Full(4)));
        places.spoke(own[0]);
        assert_eq!(places.enter(source(1), 9, now + SILENT_FOR).unwrap().1, Some(own[1]));
        // Who speaks may stay while there are silent ones, and not for ever.
        for left in &own[2..] {
            places.spoke(*left);
        }
        places.spoke(4);
        assert_eq!(places.enter(source(1), 9, now + SILENT_FOR * 2), Err(Full(4)));
        assert_eq!(places.enter(source(1), 9, now + UNPROVEN_FOR).unwrap().1, Some(own[0]));
        // Another line was never concerned.
        assert_eq!(places.enter(source(2), 9, now).unwrap().1, None);
    }

    #[test]
    fn a_crowd_makes_room_for_every_other_line_at_once() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        let first = fill(&mut places, source(1), 4, now);
        let second = fill(&mut places, source(2), 4, now);
        for number in first.iter().chain(&second) {
            places.spoke(*number);
        }
        assert_eq!(places.enter(source(3), 9, now).unwrap().1, Some(first[0]));
        assert_eq!(places.enter(source(4), 9, now).unwrap().1, Some(second[0]));
        // A botnet of lines with a place each: patience decides.
        let mut places = Places::new(LIMITS);
        for n in 0..8 {
            fill(&mut places, source(n), 1, now);
        }
        assert_eq!(places.enter(source(100), 9, now), Err(Full(8)));
        assert_eq!(places.enter(source(100), 9, now + SILENT_FOR).unwrap().1, Some(0));
    }

    #[test]
    fn a_line_of_ipv6_is_one_source() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        for n in 0..4 {
            places.enter(format!("2001:db8::{n}").parse().unwrap(), n, now).unwrap();
        }
        assert_eq!(places.enter("2001:db8::ffff".parse().unwrap(), 9, now), Err(Full(4)));
        assert!(places.enter("2001:db8:0:1::1".parse().unwrap(), 9, now).is_ok());
    }

    #[test]
    fn who_has_proven_itself_makes_room_for_no_stranger() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        let proven = fill(&mut places, source(1), 4, now);
        assert_eq!(places.operator(proven[0]), None);
        for (number, gateway) in [(proven[1], "gw-1"), (proven[2], "gw-1"), (proven[3], "gw-2")] {
            assert_eq!(places.gateway(number, &id(gateway)), Ok(None));
        }
        // Long after, with all strangers' places taken: nobody of them goes.
        for n in 10..12 {
            fill(&mut places, source(n), 4, now);
        }
        for n in 20..40 {
            let (_, gone) = places.enter(source(n), 9, now + UNPROVEN_FOR * (100 + u32::from(n))).unwrap();
            assert!(gone.is_some_and(|gone| !proven.contains(&gone)), "{gone:?}");
        }
        // An operator's token said twice is one operator.
        assert_eq!(places.operator(proven[0]), None);
        assert_eq!(places.operators.len(), 1);
    }

    #[test]
    fn gateways_have_a_share_each_and_a_limit_in_all() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        let own = fill(&mut places, source(1), 4, now);
        places.gateway(own[0], &id("gw-1")).unwrap();
        places.gateway(own[1], &id("gw-1")).unwrap();
        assert_eq!(places.gateway(own[2], &id("gw-1")), Ok(Some(own[0])), "the oldest of its own");
        assert_eq!(places.gateway(own[3], &id("gw-2")), Ok(None));
        let more = fill(&mut places, source(1), 1, now);
        assert_eq!(places.gateway(more[0], &id("gw-3")), Err(Full(3)));
        // Who is refused is still a stranger, and gives its place back like one.
        assert_eq!(places.leave(more[0]), Some(more[0]));
        assert_eq!(places.leave(own[3]), Some(own[3]));
        let more = fill(&mut places, source(1), 1, now);
        assert_eq!(places.gateway(more[0], &id("gw-3")), Ok(None));
        assert_eq!(places.leave(own[0]), None, "it had to go before");
    }

    #[test]
    fn nothing_is_remembered() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        for round in 0..10_u8 {
            let own = fill(&mut places, source(round), 4, now);
            places.gateway(own[0], &id("gw-1")).unwrap();
            places.operator(own[1]);
            for number in own {
                places.leave(number);
            }
        }
        assert!(places.held.is_empty() && places.strangers.is_empty() && places.operators.is_empty());
        assert!(places.gateways.is_empty());
        assert_eq!((places.strangers_count, places.gateways_count), (0, 0));
    }
}
