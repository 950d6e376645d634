//! The broker driven by hand: no runtime, no sockets, time as an argument.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_mqtt::broker::durable::{Document, Restored, Saved, SavedRetained};
use edgewarden_mqtt::broker::*;
use edgewarden_mqtt::decode::decode;
use edgewarden_mqtt::packet::*;
use edgewarden_mqtt::topic::{TopicFilter, TopicName};
use edgewarden_names::{Reason, Refusal};

/// Allows everything but what is listed, as `client action object`.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub denied: HashSet<String>,
    pub durable: HashSet<&'static str>,
    /// Clients that lose the whole session when they lag.
    pub strict: HashSet<&'static str>,
    pub bytes_max: Option<usize>,
}

pub const EXPIRY: Duration = Duration::from_secs(3600);

impl Rules {
    pub fn deny(mut self, rule: &str) -> Self {
        self.denied.insert(rule.into());
        self
    }
    pub fn check(&self, rule: &str) -> Result<(), Refusal> {
        if self.denied.contains(rule) {
            Err(Refusal::new(Reason::PolicyDenied, rule, "test"))
        } else {
            Ok(())
        }
    }
}

impl Authority for Rules {
    type Client = &'static str;
    fn client_id<'a>(&self, client: &'a &'static str) -> &'a str {
        client
    }
    fn may_connect(&self, client: &&'static str) -> Result<(), Refusal> {
        self.check(&format!("{client} connect"))
    }
    fn may_publish(&self, client: &&'static str, topic: &TopicName) -> Result<Terms, Refusal> {
        self.check(&format!("{client} publish {topic}"))?;
        let keep = if self.durable.contains(topic.as_str()) { Keep::Durable } else { Keep::Local };
        Ok(Terms { keep, bytes_max: self.bytes_max.unwrap_or(usize::MAX) })
    }
    fn lagging(&self, client: &&'static str) -> Lagging {
        if self.strict.contains(client) { Lagging::LosesSession } else { Lagging::LosesOldest }
    }
    fn session_expiry(&self, _: &&'static str) -> Duration {
        EXPIRY
    }
    fn may_subscribe(&self, client: &&'static str, filter: &TopicFilter) -> Result<(), Refusal> {
        self.check(&format!("{client} subscribe {filter}"))
    }
    fn may_receive(&self, client: &&'static str, topic: &TopicName) -> bool {
        self.check(&format!("{client} receive {topic}")).is_ok()
    }
    fn decides(&self) -> bool {
        !self.denied.contains("decide")
    }
    fn has_left(&self, client: &&'static str) -> Option<Refusal> {
        self.check(&format!("{client} stay")).err()
    }
}

pub struct Bench {
    pub broker: Broker<Rules>,
    pub now: Duration,
    pub ids: HashMap<&'static str, ConnectionId>,
    pub next: u64,
    pub closed: Vec<(ConnectionId, Vec<Packet>)>,
    pub stores: Vec<(Ticket, String)>,
    pub refusals: Vec<Reason>,
    pub told: Vec<Refusal>,
    pub credit: usize,
    pub disk: Disk,
}

/// The broker's documents and journal; written at once unless the test does it by hand.
#[derive(Debug, Default)]
pub struct Disk {
    pub by_hand: bool,
    pub documents: Vec<(&'static str, u64, Option<Document<&'static str>>)>,
    pub journal: Vec<Saved<&'static str>>,
    pub settled: Vec<(&'static str, u64)>,
    pub forgotten: Vec<&'static str>,
    pub retained: Vec<SavedRetained<&'static str>>,
}

pub fn packets(mut bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some((packet, used)) = decode(bytes, PACKET_BYTES_MAX).unwrap() {
        packets.push(packet);
        bytes = &bytes[used..];
    }
    assert!(bytes.is_empty());
    packets
}

impl Bench {
    pub fn new(rules: Rules, limits: Limits) -> Self {
        Self::restored(rules, limits, Vec::new(), Vec::new(), Vec::new())
    }
    pub fn restored(
        rules: Rules,
        limits: Limits,
        sessions: Vec<(&'static str, Document<&'static str>)>,
        messages: Vec<Saved<&'static str>>,
        retained: Vec<SavedRetained<&'static str>>,
    ) -> Self {
        let mut broker = Broker::new(rules, limits);
        broker.restore(Restored { sessions, messages, retained, next_number: 100 }, Duration::ZERO);
        Self {
            broker,
            disk: Disk::default(),
            now: Duration::ZERO,
            ids: HashMap::new(),
            next: 0,
            closed: Vec::new(),
            stores: Vec::new(),
            refusals: Vec::new(),
            told: Vec::new(),
            credit: 0,
        }
    }
    pub fn act(&mut self) {
        for action in self.broker.take_actions() {
            match action {
                Action::Output(_) => {}
                Action::Close { connection, last } => self.closed.push((connection, packets(&last))),
                Action::Credit { bytes, .. } => self.credit += bytes,
                Action::Store { ticket, client, topic, .. } => {
                    self.stores.push((ticket, format!("{client} {topic}")));
                }
                Action::Refused { refusal, .. } => {
                    self.refusals.push(refusal.reason);
                    self.told.push(refusal);
                }
                Action::Document { client, version, document } => {
                    self.disk.documents.push((client, version, document));
                }
                Action::Journal(saved) => self.disk.journal.push(saved),
                Action::Settled { client, number } => self.disk.settled.push((client, number)),
                Action::Forgotten { client } => self.disk.forgotten.push(client),
                Action::Retain(saved) => self.disk.retained.push(saved),
            }
        }
        let disk = &self.disk;
        let nothing = disk.documents.is_empty() && disk.journal.is_empty() && disk.retained.is_empty();
        if !disk.by_hand && !nothing {
            self.write(&Ok(()));
        }
    }
    /// Everything that is to be put on disk now is, or is not.
    pub fn write(&mut self, outcome: &Result<(), Refusal>) {
        let disk = std::mem::take(&mut self.disk);
        self.disk.by_hand = disk.by_hand;
        self.disk.settled = disk.settled;
        self.disk.forgotten = disk.forgotten;
        for (client, version, _) in disk.documents {
            self.broker.documented(&client, version, outcome.clone(), self.now);
        }
        for saved in disk.journal {
            self.broker.journaled(saved.number, outcome.clone(), self.now);
        }
        for saved in disk.retained {
            self.broker.journaled(saved.number, outcome.clone(), self.now);
        }
        self.act();
    }
    pub fn accept(&mut self, client: &'static str) {
        self.next += 1;
        self.ids.insert(client, ConnectionId(self.next));
        self.broker.accept(ConnectionId(self.next), client, self.now);
    }
    pub fn send(&mut self, client: &'static str, packet: Packet) {
        self.broker.receive(self.ids[client], packet, 1, self.now);
        self.act();
    }
    pub fn got(&mut self, client: &'static str) -> Vec<Packet> {
        let mut all = Vec::new();
        loop {
            let out = self.broker.take_output(self.ids[client], self.now);
            self.act();
            if out.is_empty() {
                return all;
            }
            all.extend(packets(&out));
        }
    }
    pub fn connect(&mut self, client: &'static str, clean: bool) -> Vec<Packet> {
        self.accept(client);
        self.send(client, hello(client, clean));
        self.got(client)
    }
    /// Connects to the persistent session, and leaves unread what comes.
    pub fn come(&mut self, client: &'static str) {
        self.accept(client);
        self.send(client, hello(client, false));
    }
    pub fn subscribe(&mut self, client: &'static str, filter: &str, qos: Qos) -> Vec<Packet> {
        let filters = vec![(TopicFilter::parse(filter).unwrap(), qos)];
        self.send(client, Packet::Subscribe(Subscribe { id: id(1), filters }));
        self.got(client)
    }
    pub fn lose(&mut self, client: &'static str) {
        self.broker.lost(self.ids[client], self.now);
        self.act();
    }
    pub fn tick(&mut self, later: Duration) {
        self.now += later;
        self.broker.tick(self.now);
        self.act();
    }
    pub fn policy(&mut self, rules: Rules) {
        self.broker.set_authority(rules, Vec::new(), self.now);
        self.act();
    }
    /// Payloads that the client has been sent, acknowledged one by one.
    pub fn take_all(&mut self, client: &'static str) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        loop {
            let packets = self.got(client);
            if packets.is_empty() {
                return payloads;
            }
            for packet in packets {
                if let Packet::Publish(Publish { payload, delivery: Delivery::AtLeastOnce(id), .. }) = packet
                {
                    payloads.push(payload.to_vec());
                    self.send(client, Packet::PubAck(id));
                }
            }
        }
    }
    pub fn is_open(&self, client: &'static str) -> bool {
        !self.closed.iter().any(|(id, _)| *id == self.ids[client])
    }
}

pub fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

pub fn hello(client: &str, clean: bool) -> Packet {
    Packet::Connect(Box::new(Connect {
        client_id: client.into(),
        clean_session: clean,
        keep_alive_seconds: 60,
        will: None,
        user_name: None,
        password: None,
    }))
}

pub fn with_will(client: &str, qos: Qos, retain: bool) -> Packet {
    let Packet::Connect(mut connect) = hello(client, true) else { unreachable!() };
    connect.will =
        Some(Will { topic: TopicName::parse("will").unwrap(), payload: vec![1].into(), qos, retain });
    Packet::Connect(connect)
}

pub fn message(topic: &str, payload: &[u8], qos1: Option<u16>) -> Packet {
    publish(topic, payload, qos1, false, false)
}

pub fn publish(topic: &str, payload: &[u8], qos1: Option<u16>, dup: bool, retain: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        retain,
        delivery: qos1.map_or(Delivery::AtMostOnce, |n| Delivery::AtLeastOnce(id(n))),
        topic: TopicName::parse(topic).unwrap(),
        payload: Arc::from(payload),
    })
}

pub const ACCEPTED: Packet = Packet::ConnAck { session_present: false, code: ConnectCode::Accepted };

pub fn refused(code: ConnectCode) -> Vec<Packet> {
    vec![Packet::ConnAck { session_present: false, code }]
}

/// A publisher `p` and a subscriber `s` to `t/#` with QoS 1 and a persistent session.
pub fn pair(rules: Rules, limits: Limits) -> Bench {
    let mut bench = Bench::new(rules, limits);
    assert_eq!(bench.connect("p", true), [ACCEPTED]);
    assert_eq!(bench.connect("s", false), [ACCEPTED]);
    bench.subscribe("s", "t/#", Qos::ExactlyOnce);
    bench
}
