//! Messages of the journal that are still for somebody, or retained, and their places. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use edgewarden_mqtt::TopicName;
use edgewarden_mqtt::broker::durable::{Document, Saved, SavedRetained};
use edgewarden_names::Principal;

use super::record::Record;

#[derive(Debug)]
struct Live {
    /// Its record's sequence number, or one that is not above it while the record is on its way to the disk.
    place: u64,
    placed: bool,
    bytes: u64,
    receivers: BTreeSet<Principal>,
    /// Topic that it is retained for, or whose retained message it ends.
    topic: Option<TopicName>,
    ends: bool,
}

/// Messages of the journal that somebody needs, by number and by place.
#[derive(Debug, Default)]
pub(crate) struct Index {
    live: BTreeMap<u64, Live>,
    places: BTreeSet<(u64, u64)>,
    bytes: u64,
    /// The retained message of each topic, once it is on disk.
    retained: HashMap<TopicName, u64>,
    /// Number of retained messages of each topic that are on the way there.
    retaining: HashMap<TopicName, usize>,
    /// The highest sequence number that is known.
    newest: u64,
}

impl Index {
    /// A message that is on its way to the disk.
    pub(crate) fn submitted(&mut self, number: u64, receivers: &[Principal], bytes: usize) {
        let bytes = bytes as u64;
        let place = self.newest.saturating_add(1);
        let receivers = receivers.iter().cloned().collect();
        self.insert(number, Live { place, placed: false, bytes, receivers, topic: None, ends: false });
    }

    /// A retained message that is on its way to the disk, or the word that there is none.
    pub(crate) fn retain(&mut self, number: u64, topic: &TopicName, ends: bool, bytes: usize) {
        let bytes = bytes as u64;
        let place = self.newest.saturating_add(1);
        let topic = topic.clone();
        *self.retaining.entry(topic.clone()).or_default() += 1;
        let receivers = BTreeSet::new();
        self.insert(number, Live { place, placed: false, bytes, receivers, topic: Some(topic), ends });
    }

    /// The retained message has left its way to the disk: it takes the place of its topic's, or there is none any more.
    fn retained_placed(&mut self, number: u64, topic: &TopicName, ends: bool, on_disk: bool) {
        if let Some(count) = self.retaining.get_mut(topic) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.retaining.remove(topic);
            }
        }
        if !on_disk {
            return;
        }
        let old =
            if ends { self.retained.remove(topic) } else { self.retained.insert(topic.clone(), number) };
        for done in old.into_iter().chain(ends.then_some(number)) {
            self.remove(done);
        }
    }

    /// `true` while a newer one of this topic is on its way.
    pub(crate) fn is_retaining(&self, topic: &TopicName) -> bool {
        self.retaining.contains_key(topic)
    }

    /// `true` when the record is that of a retained message.
    pub(crate) fn is_retained(&self, number: u64, sequence: u64) -> bool {
        self.live
            .get(&number)
            .is_some_and(|live| live.topic.is_some() && live.placed && live.place == sequence)
    }

    fn insert(&mut self, number: u64, live: Live) {
        self.bytes = self.bytes.saturating_add(live.bytes);
        self.places.insert((live.place, number));
        if let Some(old) = self.live.insert(number, live) {
            self.bytes = self.bytes.saturating_sub(old.bytes);
            self.places.remove(&(old.place, number));
        }
    }

    fn remove(&mut self, number: u64) -> Option<Live> {
        let live = self.live.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(live.bytes);
        self.places.remove(&(live.place, number));
        Some(live)
    }

    /// The record is on disk under this sequence number, or nowhere.
    pub(crate) fn placed(&mut self, number: u64, sequence: Option<u64>) {
        self.newest = self.newest.max(sequence.unwrap_or(0));
        // A copy that cleaning has made is placed again, and nothing else.
        let first = self.live.get(&number).filter(|live| !live.placed);
        let retained = first.and_then(|live| Some((live.topic.clone()?, live.ends)));
        match sequence {
            Some(sequence) => {
                if let Some(live) = self.live.get_mut(&number) {
                    self.places.remove(&(live.place, number));
                    (live.place, live.placed) = (sequence, true);
                    self.places.insert((sequence, number));
                }
            }
            None => drop(self.remove(number)),
        }
        if let Some((topic, ends)) = retained {
            self.retained_placed(number, &topic, ends, sequence.is_some());
        }
    }

    /// A record that is for nobody has this sequence number.
    pub(crate) fn passed(&mut self, sequence: u64) {
        self.newest = self.newest.max(sequence);
    }

    /// One receiver needs the message no more. When it was for this receiver, returns its record's place, or the
    /// highest number there is while the place is not known.
    pub(crate) fn settled(&mut self, number: u64, client: &Principal) -> Option<u64> {
        let live = self.live.get_mut(&number)?;
        if !live.receivers.remove(client) {
            return None;
        }
        let place = if live.placed { live.place } else { u64::MAX };
        if live.receivers.is_empty() && live.placed {
            self.remove(number);
        }
        Some(place)
    }

    /// A message that lost its last receiver while it was on its way has nobody to wait for.
    pub(crate) fn drop_if_unwanted(&mut self, number: u64) {
        let unwanted = |live: &Live| live.receivers.is_empty() && live.topic.is_none() && live.placed;
        if self.live.get(&number).is_some_and(unwanted) {
            self.remove(number);
        }
    }

    pub(crate) fn forget(&mut self, client: &Principal) {
        let numbers: Vec<u64> = self.live.keys().copied().collect();
        for number in numbers {
            self.settled(number, client);
        }
    }

    /// All records up to this one are for nobody.
    pub(crate) fn done_through(&self) -> u64 {
        self.places.first().map_or(self.newest, |(place, _)| place.saturating_sub(1))
    }

    /// Receivers that still need the message whose record is this one.
    pub(crate) fn receivers(&self, number: u64, sequence: u64) -> Option<Vec<Principal>> {
        let live = self.live.get(&number)?;
        (live.placed && live.place == sequence).then(|| live.receivers.iter().cloned().collect())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// The index, messages and retained messages of an earlier process's journal that are still for somebody. Only
    /// sessions that have a document count, and of them only messages of this life of theirs.
    pub(crate) fn rebuild(
        records: Vec<(u64, Record, usize)>,
        sessions: &HashMap<Principal, Document<Principal>>,
    ) -> (Self, Vec<Saved<Principal>>, Vec<SavedRetained<Principal>>) {
        let mut index = Self::default();
        let mut messages: BTreeMap<u64, Saved<Principal>> = BTreeMap::new();
        let mut retained: BTreeMap<TopicName, SavedRetained<Principal>> = BTreeMap::new();
        for (sequence, record, bytes) in records {
            match record {
                Record::Message(mut message) => {
                    let number = message.number;
                    // A copy that cleaning has made names those that are left.
                    let before = messages.remove(&number);
                    message.receivers.retain(|client| {
                        sessions.get(client).is_some_and(|document| number >= document.since)
                            && before.as_ref().is_none_or(|before| before.receivers.contains(client))
                    });
                    index.submitted(number, &message.receivers, bytes);
                    index.placed(number, Some(sequence));
                    index.drop_if_unwanted(number);
                    if !message.receivers.is_empty() {
                        messages.insert(number, message);
                    }
                }
                Record::Retained(message) => {
                    index.passed(sequence);
                    let known = index.retained.get(&message.topic).copied();
                    if known == Some(message.number) {
                        // A copy that cleaning has made.
                        index.placed(message.number, Some(sequence));
                        continue;
                    }
                    let ends = message.payload.is_empty();
                    index.retain(message.number, &message.topic, ends, bytes);
                    index.placed(message.number, Some(sequence));
                    if ends {
                        retained.remove(&message.topic);
                    } else {
                        retained.insert(message.topic.clone(), message);
                    }
                }
                Record::Settled(settled) => {
                    index.passed(sequence);
                    for (number, client) in settled {
                        index.settled(number, &client);
                        if let Some(message) = messages.get_mut(&number) {
                            message.receivers.retain(|receiver| *receiver != client);
                            if message.receivers.is_empty() {
                                messages.remove(&number);
                            }
                        }
                    }
                }
            }
        }
        (index, messages.into_values().collect(), retained.into_values().collect())
    }
}
