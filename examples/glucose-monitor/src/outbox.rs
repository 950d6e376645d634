//! Messages to publish with QoS 1, one in flight, kept until the broker has acknowledged them.

use std::collections::VecDeque;

use rumqttc::{AsyncClient, QoS};

/// Most messages that wait. A full outbox drops the oldest, and says so.
const WAITING_MAX: usize = 1000;

/// Bounded queue of messages for one topic.
#[derive(Debug)]
pub struct Outbox {
    client: AsyncClient,
    topic: String,
    waiting: VecDeque<Vec<u8>>,
    connected: bool,
    in_flight: bool,
}

impl Outbox {
    /// An empty outbox, which sends nothing before it hears of a connection.
    pub fn new(client: AsyncClient, topic: impl Into<String>) -> Self {
        Self { client, topic: topic.into(), waiting: VecDeque::new(), connected: false, in_flight: false }
    }

    /// Messages that are not acknowledged yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Puts a message in the outbox. False when an older one was dropped for it.
    pub fn push(&mut self, message: Vec<u8>) -> bool {
        self.waiting.push_back(message);
        // The first may be on its way.
        let full = self.waiting.len() > WAITING_MAX;
        if full {
            self.waiting.remove(1);
        }
        self.send();
        !full
    }

    /// The broker took the message in flight.
    pub fn acknowledged(&mut self) {
        if self.in_flight {
            self.waiting.pop_front();
            self.in_flight = false;
        }
        self.send();
    }

    /// There is a new connection. Where the session went on, the library sends again by itself.
    pub fn connected(&mut self, session_present: bool) {
        self.connected = true;
        self.in_flight &= session_present;
        self.send();
    }

    /// The connection is gone. What waits waits for the next one.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    fn send(&mut self) {
        if let Some(message) = self.waiting.front()
            && self.connected
            && !self.in_flight
        {
            // Fails only when the library's own queue is full: `connected` tries again.
            let sent = self.client.try_publish(self.topic.as_str(), QoS::AtLeastOnce, false, message.clone());
            self.in_flight = sent.is_ok();
        }
    }
}
