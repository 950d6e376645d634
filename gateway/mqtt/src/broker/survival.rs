//! Messages that a client does not survive. One that has ended [`Limits::ends_max`] connections in a row unacknowledged
//! is taken out of the way of those behind it: set aside in its session, on disk with the session's document, until
//! somebody has looked at it.
//!
//! A client that ends connections whatever it is sent is not helped by this: after a few in a row without an
//! acknowledgement nothing more is set aside. A clean session has nothing to set aside in; a retained message that ends
//! its connections is kept from that client for a while.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal, UnixTime};

use super::aside::KEPT_BACK;
use super::saved::SetAside;
use super::session::Outgoing;
use super::{Authority, Broker};

impl<A: Authority> Broker<A> {
    /// The client has ended a connection on which messages had been handed to it.
    pub(super) fn count_end(&mut self, client: &A::Client) {
        let limits = &self.limits;
        let Some(session) = self.sessions.get_mut(client) else { return };
        let (clean, in_a_row) = (session.clean, session.aside.in_a_row);
        let Some(head) = session.head_mut() else { return };
        head.ends = head.ends.saturating_add(1);
        let (ends, retained, message) = (head.ends, head.retained, Arc::clone(&head.message));
        if clean {
            let Some(number) = retained else { return };
            if self.kept_back.strike(client, number, self.now) == limits.ends_max {
                let rule = format!(
                    "the retained message of {} on {} ({} bytes) ended {} connections unacknowledged; it is kept from \
                     this client for {} s",
                    message.from,
                    message.topic,
                    message.payload.len(),
                    limits.ends_max,
                    KEPT_BACK.as_secs(),
                );
                self.refuse(client, Refusal::new(Reason::MessageSetAside, client, rule));
            }
            return;
        }
        if ends < limits.ends_max || in_a_row >= limits.set_aside_in_a_row_max {
            return;
        }
        let Some(Outgoing { message, retained, .. }) = session.take_head() else { return };
        session.aside.in_a_row = in_a_row.saturating_add(1);
        session.aside.restore(SetAside {
            number: message.number,
            from: message.from.clone(),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
            retain: retained.is_some(),
            at: self.wall,
            connections: ends,
        });
        let mut evicted = 0;
        while let Some((_, cost)) = session.aside.evict(limits) {
            session.discharge(cost);
            self.waiting_bytes = self.waiting_bytes.saturating_sub(cost);
            evicted += 1;
        }
        let version = self.touch(client);
        if let Some(session) = self.sessions.get_mut(client) {
            session.aside.unsettled.push((version, message.number));
        }
        let rule = format!(
            "message {} of {} on {} ({} bytes) ended {ends} connections unacknowledged; it was set aside",
            message.number,
            message.from,
            message.topic,
            message.payload.len(),
        );
        self.refuse(client, Refusal::new(Reason::MessageSetAside, client, rule));
        if evicted > 0 {
            self.count_lost(
                client,
                evicted,
                "there is no room for more messages set aside: the oldest go, large ones first",
            );
        }
    }

    /// Messages set aside, by client.
    pub fn set_aside(&self) -> Vec<(A::Client, SetAside<A::Client>)> {
        let mut all: Vec<_> = self
            .sessions
            .iter()
            .flat_map(|(client, session)| {
                session.aside.iter().map(move |message| (client.clone(), message.clone()))
            })
            .collect();
        all.sort_unstable_by(|(one, message), (other, second)| {
            (one, message.number).cmp(&(other, second.number))
        });
        all
    }

    /// Drops a message that was set aside. Gone for good when the version of the session's document that this returns is
    /// on disk ([`Broker::documented`]). `None` when there is none of this number.
    pub fn drop_set_aside(&mut self, client: &A::Client, number: u64, now: Duration) -> Option<u64> {
        self.now = now;
        let session = self.sessions.get_mut(client)?;
        let (_, cost) = session.aside.remove(number)?;
        session.discharge(cost);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(cost);
        let version = self.touch(client);
        self.settle();
        Some(version)
    }

    /// Sets the time of day that messages set aside from now on are marked with.
    pub fn set_wall_clock(&mut self, wall: UnixTime) {
        self.wall = wall;
    }
}
