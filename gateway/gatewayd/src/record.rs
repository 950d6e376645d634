//! A message as the queue keeps it.
//!
//! ```text
//! version:u8=1 at:u64 from_length:u16 from topic_length:u16 topic payload      (big-endian)
//! ```

use edgewarden_names::{SpiffeId, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::uplink::Message;

const VERSION: u8 = 1;

/// `None` when a field is longer than its length prefix, which no parsed ID or topic is.
pub(crate) fn encode(at: UnixTime, from: &SpiffeId, topic: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&at.0.to_be_bytes());
    for text in [from.as_str(), topic] {
        bytes.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(payload);
    Some(bytes)
}

/// The sender in a body, whose share of the queue it takes.
pub(crate) fn sender_of(body: &[u8]) -> Option<&[u8]> {
    let (_, rest) = body.split_first_chunk::<9>()?;
    text(rest).map(|(from, _)| from.as_bytes())
}

pub(crate) fn decode(epoch: &str, sequence: u64, body: &[u8]) -> Option<Message> {
    let (version, rest) = body.split_first_chunk::<1>()?;
    if *version != [VERSION] {
        return None;
    }
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (from, rest) = text(rest)?;
    let (topic, payload) = text(rest)?;
    Some(Message {
        queue: epoch.to_owned(),
        sequence,
        at: UnixTime(u64::from_be_bytes(*at)),
        from: SpiffeId::parse(from).ok()?,
        topic: topic.to_owned(),
        payload: Bytes::from(payload),
    })
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_cut_one_does_not() {
        let from = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/leaf/s").unwrap();
        let body = encode(UnixTime(5), &from, "a/b", b"xy").unwrap();
        let message = decode("q", 9, &body).unwrap();
        assert_eq!((message.sequence, message.at, message.topic.as_str()), (9, UnixTime(5), "a/b"));
        assert_eq!(sender_of(&body), Some(from.as_str().as_bytes()));
        assert_eq!((message.from, message.payload.as_slice()), (from, &b"xy"[..]));
        let least = body.len() - 2;
        for cut in 0..least {
            assert!(decode("q", 9, &body[..cut]).is_none(), "{cut}");
        }
        assert!(decode("q", 9, &[&[2], &body[1..]].concat()).is_none());
    }
}
