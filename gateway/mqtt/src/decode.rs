//! Bytes to packets, strictly: what the specification calls malformed is an error, and so is whatever is left over.

use std::sync::Arc;

use crate::packet::{
    CLIENT_ID_BYTES_MAX, Connect, ConnectCode, Delivery, FILTERS_PER_PACKET_MAX, Packet, PacketId, Publish,
    Qos, Subscribe, SubscribeCode, Unsubscribe, Will,
};
use crate::topic::{TopicError, TopicFilter, TopicName};

/// A fault of received bytes: they are no MQTT 3.1.1 packet, or pass a bound of this broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a packet of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the remaining length has more than four bytes or more than it needs")]
    RemainingLength,
    #[error("the packet type {0} is reserved")]
    PacketType(u8),
    #[error("the flags {flags:#06b} are not valid in packet type {packet_type}")]
    Flags { packet_type: u8, flags: u8 },
    #[error("a field ends after the packet's end")]
    Truncated,
    #[error("{0} bytes are left after the packet's last field")]
    Trailing(usize),
    #[error("a text is not UTF-8 or holds U+0000")]
    Text,
    #[error("the packet identifier is zero")]
    PacketId,
    #[error("the quality of service is 3")]
    Qos,
    #[error("a QoS 0 message has the DUP flag")]
    Dup,
    #[error("the protocol is not MQTT")]
    ProtocolName,
    /// To be answered with CONNACK 1 ([MQTT-3.1.2-2]).
    #[error("the protocol level is {0}, not 4")]
    ProtocolLevel(u8),
    #[error("the connect flags contradict each other or use the reserved bit")]
    ConnectFlags,
    #[error("the client identifier has {0} bytes, over the limit of {CLIENT_ID_BYTES_MAX}")]
    ClientId(usize),
    #[error("the return code {0} is reserved")]
    ReturnCode(u8),
    #[error("a list has no element or more than {FILTERS_PER_PACKET_MAX}")]
    List,
    #[error(transparent)]
    Topic(#[from] TopicError),
}

/// The first packet in `bytes` with the number of bytes it took; `None` when more bytes are needed.
///
/// An over-large packet is refused from its header, before its body arrives.
pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Option<(Packet, usize)>, DecodeError> {
    let Some(header) = FixedHeader::decode(bytes)? else { return Ok(None) };
    let total = header.bytes.saturating_add(header.remaining);
    if total > bytes_max {
        return Err(DecodeError::TooLarge { bytes: total, bytes_max });
    }
    let Some(body) = bytes.get(header.bytes..total) else { return Ok(None) };
    let mut body = Reader { rest: body };
    let packet = header.packet(&mut body)?;
    match body.rest.len() {
        0 => Ok(Some((packet, total))),
        left => Err(DecodeError::Trailing(left)),
    }
}

struct FixedHeader {
    packet_type: u8,
    flags: u8,
    remaining: usize,
    bytes: usize,
}

impl FixedHeader {
    /// Section 2.2. The flags are checked as soon as the first byte is there.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let (packet_type, flags) = (first >> 4, first & 0x0f);
        let expected = match packet_type {
            0 | 15 => return Err(DecodeError::PacketType(packet_type)),
            3 => flags,
            6 | 8 | 10 => 0b0010,
            _ => 0,
        };
        if flags != expected {
            return Err(DecodeError::Flags { packet_type, flags });
        }
        let mut remaining = 0usize;
        for (index, &byte) in rest.iter().take(4).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                // Not demanded by the specification, but two spellings of one length serve only those who hide.
                if index > 0 && byte == 0 {
                    return Err(DecodeError::RemainingLength);
                }
                return Ok(Some(Self { packet_type, flags, remaining, bytes: index + 2 }));
            }
        }
        if rest.len() < 4 { Ok(None) } else { Err(DecodeError::RemainingLength) }
    }

    fn packet(&self, body: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        Ok(match self.packet_type {
            1 => Packet::Connect(Box::new(connect(body)?)),
            2 => conn_ack(body)?,
            3 => Packet::Publish(publish(self.flags, body)?),
            4 => Packet::PubAck(body.packet_id()?),
            5 => Packet::PubRec(body.packet_id()?),
            6 => Packet::PubRel(body.packet_id()?),
            7 => Packet::PubComp(body.packet_id()?),
            8 => Packet::Subscribe(subscribe(body)?),
            9 => sub_ack(body)?,
            10 => Packet::Unsubscribe(unsubscribe(body)?),
            11 => Packet::UnsubAck(body.packet_id()?),
            12 => Packet::PingReq,
            13 => Packet::PingResp,
            14 => Packet::Disconnect,
            other => return Err(DecodeError::PacketType(other)),
        })
    }
}

/// Section 3.1.
fn connect(body: &mut Reader<'_>) -> Result<Connect, DecodeError> {
    if body.text()? != "MQTT" {
        return Err(DecodeError::ProtocolName);
    }
    let level = body.byte()?;
    if level != 4 {
        return Err(DecodeError::ProtocolLevel(level));
    }
    let flags = body.byte()?;
    let has = |bit: u8| flags & (1 << bit) != 0;
    let will_qos = Qos::from_bits((flags >> 3) & 3).ok_or(DecodeError::Qos)?;
    let will_bits_without_will = !has(2) && (will_qos != Qos::AtMostOnce || has(5));
    // [MQTT-3.1.2-3], -11, -13, -15 and -22.
    if has(0) || will_bits_without_will || (has(6) && !has(7)) {
        return Err(DecodeError::ConnectFlags);
    }
    let keep_alive_seconds = body.u16()?;
    let client_id = body.text()?;
    if client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(DecodeError::ClientId(client_id.len()));
    }
    let will = if has(2) {
        let topic = TopicName::parse(body.text()?)?;
        Some(Will { topic, payload: Arc::from(body.binary()?), qos: will_qos, retain: has(5) })
    } else {
        None
    };
    let user_name = if has(7) { Some(body.text()?.to_owned()) } else { None };
    let password = if has(6) { Some(body.binary()?.to_vec()) } else { None };
    Ok(Connect {
        client_id: client_id.to_owned(),
        clean_session: has(1),
        keep_alive_seconds,
        will,
        user_name,
        password,
    })
}

/// Section 3.2.
fn conn_ack(body: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let flags = body.byte()?;
    let code = body.byte()?;
    let code =
        ConnectCode::ALL.into_iter().find(|c| c.byte() == code).ok_or(DecodeError::ReturnCode(code))?;
    let session_present = flags == 1;
    // [MQTT-3.2.2-4]: a refusal has no session.
    if flags > 1 || (session_present && code != ConnectCode::Accepted) {
        return Err(DecodeError::ConnectFlags);
    }
    Ok(Packet::ConnAck { session_present, code })
}

/// Section 3.3.
fn publish(flags: u8, body: &mut Reader<'_>) -> Result<Publish, DecodeError> {
    let qos = Qos::from_bits((flags >> 1) & 3).ok_or(DecodeError::Qos)?;
    let dup = flags & 0b1000 != 0;
    if dup && qos == Qos::AtMostOnce {
        return Err(DecodeError::Dup);
    }
    let topic = TopicName::parse(body.text()?)?;
    let delivery = match qos {
        Qos::AtMostOnce => Delivery::AtMostOnce,
        Qos::AtLeastOnce => Delivery::AtLeastOnce(body.packet_id()?),
        Qos::ExactlyOnce => Delivery::ExactlyOnce(body.packet_id()?),
    };
    Ok(Publish { dup, retain: flags & 1 != 0, delivery, topic, payload: Arc::from(body.all()) })
}

/// Section 3.8.
fn subscribe(body: &mut Reader<'_>) -> Result<Subscribe, DecodeError> {
    let id = body.packet_id()?;
    let filters = list(body, |body| {
        let filter = TopicFilter::parse(body.text()?)?;
        // [MQTT-3-8.3-4]: a QoS above 2 or a reserved bit closes the connection.
        Ok((filter, Qos::from_bits(body.byte()?).ok_or(DecodeError::Qos)?))
    })?;
    Ok(Subscribe { id, filters })
}

/// Section 3.9.
fn sub_ack(body: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let id = body.packet_id()?;
    let codes = list(body, |body| match body.byte()? {
        0x80 => Ok(SubscribeCode::Failure),
        code => Qos::from_bits(code).map(SubscribeCode::Granted).ok_or(DecodeError::ReturnCode(code)),
    })?;
    Ok(Packet::SubAck { id, codes })
}

/// Section 3.10.
fn unsubscribe(body: &mut Reader<'_>) -> Result<Unsubscribe, DecodeError> {
    let id = body.packet_id()?;
    let filters = list(body, |body| Ok(TopicFilter::parse(body.text()?)?))?;
    Ok(Unsubscribe { id, filters })
}

/// Elements up to the end of the packet.
fn list<T>(
    body: &mut Reader<'_>,
    element: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut elements = Vec::new();
    while !body.rest.is_empty() {
        if elements.len() == FILTERS_PER_PACKET_MAX {
            return Err(DecodeError::List);
        }
        elements.push(element(body)?);
    }
    if elements.is_empty() { Err(DecodeError::List) } else { Ok(elements) }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.take(1)?.first().copied().ok_or(DecodeError::Truncated)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?.first_chunk().ok_or(DecodeError::Truncated)?;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketId)
    }

    fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// Section 1.5.3. U+D800 to U+DFFF ([MQTT-1.5.3-1]) are not UTF-8 to Rust either; a U+FEFF stays ([MQTT-1.5.3-3]).
    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::Text)?;
        if text.contains('\0') { Err(DecodeError::Text) } else { Ok(text) }
    }
}
