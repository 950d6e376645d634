//! The control packets of MQTT 3.1.1 (sections 2 and 3).

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::topic::{TopicFilter, TopicName};

/// Largest packet that is taken unless configured otherwise. The protocol's own limit is 256 MiB.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;
/// Most topic filters in one SUBSCRIBE or UNSUBSCRIBE.
pub const FILTERS_PER_PACKET_MAX: usize = 64;
/// Longest client identifier: a SPIFFE ID's last part (a DNS label) with room to tell clients what is wrong.
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// Non-zero ([MQTT-2.3.1-1]).
pub type PacketId = NonZeroU16;

/// Quality of service (MQTT 3.1.1 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl Qos {
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

/// A control packet (MQTT 3.1.1 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck { session_present: bool, code: ConnectCode },
    Publish(Publish),
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    Subscribe(Subscribe),
    SubAck { id: PacketId, codes: Vec<SubscribeCode> },
    Unsubscribe(Unsubscribe),
    UnsubAck(PacketId),
    PingReq,
    PingResp,
    Disconnect,
}

/// CONNECT (section 3.1). Its `Debug` form leaves out the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    pub client_id: String,
    pub clean_session: bool,
    /// Zero: none.
    pub keep_alive_seconds: u16,
    pub will: Option<Will>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("client_id", &self.client_id)
            .field("clean_session", &self.clean_session)
            .field("keep_alive_seconds", &self.keep_alive_seconds)
            .field("will", &self.will)
            .field("user_name", &self.user_name)
            .finish_non_exhaustive()
    }
}

/// The will message of a CONNECT (section 3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: TopicName,
    pub payload: Arc<[u8]>,
    pub qos: Qos,
    pub retain: bool,
}

/// Section 3.2.2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectCode {
    Accepted,
    ProtocolVersion,
    IdentifierRejected,
    ServerUnavailable,
    BadCredentials,
    NotAuthorized,
}

impl ConnectCode {
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::ProtocolVersion,
        Self::IdentifierRejected,
        Self::ServerUnavailable,
        Self::BadCredentials,
        Self::NotAuthorized,
    ];

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::ProtocolVersion => 1,
            Self::IdentifierRejected => 2,
            Self::ServerUnavailable => 3,
            Self::BadCredentials => 4,
            Self::NotAuthorized => 5,
        }
    }
}

/// PUBLISH (section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub retain: bool,
    pub delivery: Delivery,
    pub topic: TopicName,
    pub payload: Arc<[u8]>,
}

/// A packet identifier is there exactly when the QoS is above 0 ([MQTT-2.3.1-5]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    AtMostOnce,
    AtLeastOnce(PacketId),
    ExactlyOnce(PacketId),
}

impl Delivery {
    pub fn qos(self) -> Qos {
        match self {
            Self::AtMostOnce => Qos::AtMostOnce,
            Self::AtLeastOnce(_) => Qos::AtLeastOnce,
            Self::ExactlyOnce(_) => Qos::ExactlyOnce,
        }
    }
}

/// SUBSCRIBE (section 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub id: PacketId,
    /// At least one ([MQTT-3.8.3-3]).
    pub filters: Vec<(TopicFilter, Qos)>,
}

/// Section 3.9.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeCode {
    Granted(Qos),
    Failure,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    pub id: PacketId,
    /// At least one ([MQTT-3.10.3-2]).
    pub filters: Vec<TopicFilter>,
}
