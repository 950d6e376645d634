//! An MQTT client by hand, so that tests see every packet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_mqtt::decode::decode;
use edgewarden_mqtt::packet::{
    Connect, ConnectCode, Delivery, PACKET_BYTES_MAX, Packet, PacketId, Publish, Qos, Subscribe,
};
use edgewarden_mqtt::topic::{TopicFilter, TopicName};
use edgewarden_transport::Identity;
use edgewarden_transport::tls::{client_config, only};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::module;

pub const ACCEPTED: Option<Packet> =
    Some(Packet::ConnAck { session_present: false, code: ConnectCode::Accepted });

pub struct Client {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn open(to: SocketAddr, from: Ipv4Addr, identity: &Identity) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?;
        let config = client_config(identity, only(module("gatewayd"))).unwrap();
        let name = ServerName::try_from("gateway").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub async fn send(&mut self, packet: &Packet) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        // A server that has closed already is what some tests are about.
        drop(self.stream.write_all(bytes).await);
        drop(self.stream.flush().await);
    }

    /// The next packet; `None` when the server has closed.
    pub async fn next(&mut self) -> Option<Packet> {
        tokio::time::timeout(Duration::from_secs(30), self.read())
            .await
            .expect("neither a packet nor the end")
    }

    async fn read(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, used)) = decode(&self.buffer, PACKET_BYTES_MAX).unwrap() {
                self.buffer.drain(..used);
                return Some(packet);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn connect(&mut self, client_id: &str, clean_session: bool) -> Option<Packet> {
        let connect = Connect {
            client_id: client_id.into(),
            clean_session,
            keep_alive_seconds: 60,
            will: None,
            user_name: None,
            password: None,
        };
        self.send(&Packet::Connect(Box::new(connect))).await;
        self.next().await
    }

    pub async fn publish(&mut self, topic: &str, payload: &[u8], qos1: Option<u16>) {
        self.send(&publish(topic, payload, qos1)).await;
    }

    pub async fn subscribe(&mut self, filter: &str) -> Option<Packet> {
        let filters = vec![(TopicFilter::parse(filter).unwrap(), Qos::AtLeastOnce)];
        self.send(&Packet::Subscribe(Subscribe { id: PacketId::MIN, filters })).await;
        self.next().await
    }

    /// True when everything before this is done with and the connection is open.
    pub async fn is_open(&mut self) -> bool {
        self.send(&Packet::PingReq).await;
        self.next().await == Some(Packet::PingResp)
    }
}

pub fn publish(topic: &str, payload: &[u8], qos1: Option<u16>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        retain: false,
        delivery: qos1.map_or(Delivery::AtMostOnce, |id| Delivery::AtLeastOnce(PacketId::new(id).unwrap())),
        topic: TopicName::parse(topic).unwrap(),
        payload: payload.into(),
    })
}

pub fn puback(id: u16) -> Packet {
    Packet::PubAck(PacketId::new(id).unwrap())
}
