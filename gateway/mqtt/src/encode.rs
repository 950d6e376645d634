//! Packets to bytes.

use crate::packet::{Connect, Delivery, Packet, Publish, SubscribeCode};

/// A field is longer than its length prefix or the packet longer than the protocol allows (268,435,455 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet does not fit the protocol's length fields")]
pub struct EncodeError;

const REMAINING_MAX: usize = 0x0fff_ffff;

impl Packet {
    /// Appends the packet to `out`; on an error `out` is as before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect(connect) => frame(out, 0x10, &connect_body(connect)?),
            Self::ConnAck { session_present, code } => {
                frame(out, 0x20, &[u8::from(*session_present), code.byte()])
            }
            Self::Publish(publish) => encode_publish(publish, out),
            Self::PubAck(id) => frame(out, 0x40, &id.get().to_be_bytes()),
            Self::PubRec(id) => frame(out, 0x50, &id.get().to_be_bytes()),
            Self::PubRel(id) => frame(out, 0x62, &id.get().to_be_bytes()),
            Self::PubComp(id) => frame(out, 0x70, &id.get().to_be_bytes()),
            Self::Subscribe(subscribe) => {
                let mut body = subscribe.id.get().to_be_bytes().to_vec();
                for (filter, qos) in &subscribe.filters {
                    binary(&mut body, filter.as_str().as_bytes())?;
                    body.push(qos.bits());
                }
                frame(out, 0x82, &body)
            }
            Self::SubAck { id, codes } => {
                let mut body = id.get().to_be_bytes().to_vec();
                body.extend(codes.iter().map(|code| match code {
                    SubscribeCode::Granted(qos) => qos.bits(),
                    SubscribeCode::Failure => 0x80,
                }));
                frame(out, 0x90, &body)
            }
            Self::Unsubscribe(unsubscribe) => {
                let mut body = unsubscribe.id.get().to_be_bytes().to_vec();
                for filter in &unsubscribe.filters {
                    binary(&mut body, filter.as_str().as_bytes())?;
                }
                frame(out, 0xa2, &body)
            }
            Self::UnsubAck(id) => frame(out, 0xb0, &id.get().to_be_bytes()),
            Self::PingReq => frame(out, 0xc0, &[]),
            Self::PingResp => frame(out, 0xd0, &[]),
            Self::Disconnect => frame(out, 0xe0, &[]),
        }
    }
}

/// Written without a copy of the payload in between.
fn encode_publish(publish: &Publish, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let topic = publish.topic.as_str().as_bytes();
    let id = match publish.delivery {
        Delivery::AtMostOnce => None,
        Delivery::AtLeastOnce(id) | Delivery::ExactlyOnce(id) => Some(id),
    };
    let flags = u8::from(publish.dup) << 3 | publish.delivery.qos().bits() << 1 | u8::from(publish.retain);
    let remaining = 2 + topic.len() + if id.is_some() { 2 } else { 0 } + publish.payload.len();
    let topic_length = u16::try_from(topic.len()).map_err(|_| EncodeError)?;
    header(out, 0x30 | flags, remaining)?;
    out.extend_from_slice(&topic_length.to_be_bytes());
    out.extend_from_slice(topic);
    if let Some(id) = id {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
    out.extend_from_slice(&publish.payload);
    Ok(())
}

fn connect_body(connect: &Connect) -> Result<Vec<u8>, EncodeError> {
    let mut flags = u8::from(connect.clean_session) << 1;
    if let Some(will) = &connect.will {
        flags |= 0b100 | will.qos.bits() << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(connect.user_name.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    if connect.password.is_some() && connect.user_name.is_none() {
        return Err(EncodeError); // [MQTT-3.1.2-22]
    }
    let mut body = Vec::new();
    binary(&mut body, b"MQTT")?;
    body.extend_from_slice(&[4, flags]);
    body.extend_from_slice(&connect.keep_alive_seconds.to_be_bytes());
    binary(&mut body, connect.client_id.as_bytes())?;
    if let Some(will) = &connect.will {
        binary(&mut body, will.topic.as_str().as_bytes())?;
        binary(&mut body, &will.payload)?;
    }
    if let Some(user_name) = &connect.user_name {
        binary(&mut body, user_name.as_bytes())?;
    }
    if let Some(password) = &connect.password {
        binary(&mut body, password)?;
    }
    Ok(body)
}

fn frame(out: &mut Vec<u8>, first: u8, body: &[u8]) -> Result<(), EncodeError> {
    header(out, first, body.len())?;
    out.extend_from_slice(body);
    Ok(())
}

/// Section 2.2.3.
fn header(out: &mut Vec<u8>, first: u8, remaining: usize) -> Result<(), EncodeError> {
    if remaining > REMAINING_MAX {
        return Err(EncodeError);
    }
    out.push(first);
    let mut left = remaining;
    loop {
        let byte = u8::try_from(left & 0x7f).map_err(|_| EncodeError)?;
        left >>= 7;
        if left == 0 {
            out.push(byte);
            return Ok(());
        }
        out.push(byte | 0x80);
    }
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| EncodeError)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}
