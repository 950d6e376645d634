//! Layout of the journal's records.
//!
//! ```text
//! message  1:u8 number:u64 flags:u8 receivers:u16 name* from:name topic_length:u16 topic payload
//! settled  2:u8 (number:u64 name)*
//! retained 3:u8 and on as a message, without receivers      no payload: there is none on this topic any more
//! name     kind:u8 length:u8 text                          kind 0: module, 1: leaf device
//! ```
//!
//! Numbers are big-endian. What does not parse was written by another version: the journal authenticates its records.

use std::sync::Arc;

use edgewarden_mqtt::TopicName;
use edgewarden_mqtt::broker::durable::{Saved, SavedRetained};
use edgewarden_mqtt::packet::Qos;
use edgewarden_names::{LeafName, ModuleName, Principal};

const MESSAGE: u8 = 1;
const SETTLED: u8 = 2;
const RETAINED: u8 = 3;
const RETAIN: u8 = 1;
/// Of a retained message: to be delivered with QoS 1.
const QOS_1: u8 = 2;

/// A record of the journal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Message(Saved<Principal>),
    Settled(Vec<(u64, Principal)>),
    Retained(SavedRetained<Principal>),
}

/// `None` when a field is longer than its length prefix, which nothing that was parsed is.
pub(crate) fn encode(message: &Saved<Principal>) -> Option<Vec<u8>> {
    encode_as(MESSAGE, message, if message.retain { RETAIN } else { 0 })
}

pub(crate) fn encode_retained(retained: &SavedRetained<Principal>) -> Option<Vec<u8>> {
    let SavedRetained { number, from, topic, payload, qos } = retained.clone();
    let message = Saved { number, receivers: Vec::new(), from, topic, payload, retain: true };
    encode_as(RETAINED, &message, if qos == Qos::AtMostOnce { RETAIN } else { RETAIN | QOS_1 })
}

fn encode_as(kind: u8, message: &Saved<Principal>, flags: u8) -> Option<Vec<u8>> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&message.number.to_be_bytes());
    bytes.push(flags);
    bytes.extend_from_slice(&u16::try_from(message.receivers.len()).ok()?.to_be_bytes());
    for receiver in &message.receivers {
        put_name(&mut bytes, receiver)?;
    }
    put_name(&mut bytes, &message.from)?;
    let topic = message.topic.as_str().as_bytes();
    bytes.extend_from_slice(&u16::try_from(topic.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(topic);
    bytes.extend_from_slice(&message.payload);
    Some(bytes)
}

pub(crate) fn encode_settled(settled: &[(u64, Principal)]) -> Option<Vec<u8>> {
    let mut bytes = vec![SETTLED];
    for (number, client) in settled {
        bytes.extend_from_slice(&number.to_be_bytes());
        put_name(&mut bytes, client)?;
    }
    Some(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
    let mut reader = Reader(bytes);
    match reader.u8()? {
        MESSAGE => reader.message().map(|(message, _)| Record::Message(message)),
        SETTLED => {
            let mut settled = Vec::new();
            while !reader.0.is_empty() {
                settled.push((reader.u64()?, reader.name()?));
            }
            Some(Record::Settled(settled))
        }
        RETAINED => {
            let (Saved { number, receivers, from, topic, payload, .. }, flags) = reader.message()?;
            if !receivers.is_empty() {
                return None;
            }
            let qos = if flags & QOS_1 == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            Some(Record::Retained(SavedRetained { number, from, topic, payload, qos }))
        }
        _ => None,
    }
}

/// The document in which all retained messages were, one after the other with their lengths before them, until they
/// went into the journal. Their numbers are their places in it.
pub(crate) fn decode_retained(bytes: &[u8]) -> Option<Vec<SavedRetained<Principal>>> {
    let mut all = Reader(bytes);
    let mut messages = Vec::new();
    while !all.0.is_empty() {
        let length = usize::try_from(u32::from_be_bytes(all.array()?)).ok()?;
        let mut one = Reader(all.bytes(length)?);
        if one.u8()? != MESSAGE {
            return None;
        }
        let (Saved { from, topic, payload, .. }, flags) = one.message()?;
        let qos = if flags & QOS_1 == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
        let number = u64::try_from(messages.len()).ok()?;
        messages.push(SavedRetained { number, from, topic, payload, qos });
    }
    Some(messages)
}

fn put_name(bytes: &mut Vec<u8>, name: &Principal) -> Option<()> {
    let (kind, text) = match name {
        Principal::Module(name) => (0, name.as_str()),
        Principal::Leaf(name) => (1, name.as_str()),
    };
    bytes.push(kind);
    bytes.push(u8::try_from(text.len()).ok()?);
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(length)?).ok()
    }
    fn name(&mut self) -> Option<Principal> {
        let (kind, length) = (self.u8()?, self.u8()?);
        let text = self.text(length.into())?;
        match kind {
            0 => ModuleName::parse(text).ok().map(Principal::Module),
            1 => LeafName::parse(text).ok().map(Principal::Leaf),
            _ => None,
        }
    }
    /// A message behind its first byte, with its flags.
    fn message(&mut self) -> Option<(Saved<Principal>, u8)> {
        let (number, flags) = (self.u64()?, self.u8()?);
        if flags & !(RETAIN | QOS_1) != 0 {
            return None;
        }
        let count = self.u16()?;
        let receivers = (0..count).map(|_| self.name()).collect::<Option<Vec<_>>>()?;
        let from = self.name()?;
        let length = self.u16()?;
        let topic = TopicName::parse(self.text(length.into())?).ok()?;
        let payload = Arc::from(self.0);
        let retain = flags & RETAIN != 0;
        Some((Saved { number, receivers, from, topic, payload, retain }, flags))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn module(name: &str) -> Principal {
        Principal::Module(ModuleName::parse(name).unwrap())
    }
    fn leaf(name: &str) -> Principal {
        Principal::Leaf(LeafName::parse(name).unwrap())
    }

    #[test]
    fn records_come_back_and_cut_ones_do_not() {
        let message = Saved {
            number: 7,
            receivers: vec![module("a"), leaf("b")],
            from: leaf("s"),
            topic: TopicName::parse("a/b").unwrap(),
            payload: Arc::from(&b""[..]),
            retain: true,
        };
        let settled = vec![(7, module("a")), (9, leaf("b"))];
        let message_bytes = encode(&message).unwrap();
        for (record, bytes) in [
            (Record::Message(message), message_bytes),
            (Record::Settled(settled.clone()), encode_settled(&settled).unwrap()),
        ] {
            assert_eq!(decode(&bytes).unwrap(), record);
            for cut in 0..bytes.len() {
                assert_ne!(decode(&bytes[..cut]), Some(Record::Settled(settled.clone())), "{cut}");
                if matches!(record, Record::Message(_)) {
                    assert!(decode(&bytes[..cut]).is_none(), "{cut}");
                }
            }
            assert!(decode(&[&[4], &bytes[1..]].concat()).is_none());
            // A retained message is for nobody in particular.
            assert!(decode(&[&[RETAINED], &bytes[1..]].concat()).is_none());
        }
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let topic = TopicName::parse("t").unwrap();
            let payload = Arc::from(&b"x"[..]);
            let retained = SavedRetained { number: 9, from: leaf("s"), topic, payload, qos };
            let bytes = encode_retained(&retained).unwrap();
            assert_eq!(decode(&bytes).unwrap(), Record::Retained(retained));
            for cut in 0..bytes.len() - 1 {
                assert_eq!(decode(&bytes[..cut]), None, "{cut}");
            }
        }
    }
}
