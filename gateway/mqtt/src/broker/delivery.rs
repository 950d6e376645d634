//! The way of a message: from its publisher into the sessions, from there onto the wire, and the acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

use super::session::{Outgoing, Session};
use super::{
    Ack, Action, Authority, Broker, ConnectionId, Keep, Lagging, Message, Storing, Terms, Ticket, delivery,
};
use crate::packet::{Delivery, Packet, PacketId, Publish, Qos, Will};
use crate::topic::{TopicFilter, TopicName};

impl<A: Authority> Broker<A> {
    /// A publication. Refused, it is not acknowledged and has gone nowhere.
    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        client: &A::Client,
        publish: &Publish,
        cost: usize,
    ) -> Result<(), Refusal> {
        let packet_id = match publish.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce(packet_id) => Some(packet_id),
            Delivery::ExactlyOnce(_) => {
                return Err(Refusal::new(Reason::RequestInvalid, client, "QoS 2 is not offered"));
            }
        };
        let terms = self.terms(id, client, &publish.topic)?;
        size_fits(client, &publish.topic, publish.payload.len(), terms)?;
        if let Some(packet_id) = packet_id {
            let pending = |c: &super::Connection<_>| c.acks.iter().any(|ack| ack.id == packet_id);
            if self.connections.get(&id).is_some_and(pending) {
                if publish.dup {
                    // An impatient client repeats what we are still at: one acknowledgement will answer both.
                    self.credit(id, cost);
                    return Ok(());
                }
                return Err(Refusal::new(Reason::RequestInvalid, client, "the packet identifier is in use"));
            }
        }
        let message = Arc::new(Message {
            number: self.new_number(),
            from: client.clone(),
            topic: publish.topic.clone(),
            payload: Arc::clone(&publish.payload),
        });
        let mut retained = publish.retain.then(|| Arc::clone(&message));
        if publish.retain
            && let Err(rule) = self.retained.has_room(&message, &self.limits)
        {
            let refusal = Refusal::new(Reason::RetainedFull, client, rule);
            if packet_id.is_some() {
                return Err(refusal);
            }
            // [MQTT-3.3.1-7]: of QoS 0 it need not be kept, but what was there must go.
            self.refuse(client, refusal);
            let nothing = Message { payload: Arc::from(&[][..]), ..Message::clone(&message) };
            retained = Some(Arc::new(nothing));
        }
        if let (Some(packet_id), Some(connection)) = (packet_id, self.connections.get_mut(&id)) {
            connection.acks.push_back(Ack { id: packet_id, outstanding: 1 });
        }
        let qos = publish.delivery.qos();
        let durable = self.deliver(&message, qos);
        // What was received counts until all that is to be on disk is there.
        if let Some(retained) = &retained {
            self.retained.set(retained, qos);
        }
        let stores = keeps(terms);
        let steps = usize::from(retained.is_some()) + usize::from(stores) + usize::from(!durable.is_empty());
        let share = cost / steps.max(1);
        let mut left = cost;
        let mut step = |broker: &mut Self| {
            if let Some(packet_id) = packet_id {
                broker.one_more_step(id, packet_id);
            }
            left = left.saturating_sub(share);
            (id, packet_id, share)
        };
        if stores {
            let (id, ack, share) = step(self);
            self.store(Some(id), ack, share, &message);
        }
        if let Some(retained) = retained {
            let publisher = step(self);
            self.retain_on_disk(Some(publisher), &retained, qos, false);
        }
        if !durable.is_empty() {
            let publisher = step(self);
            self.journal(Some(publisher), &message, durable, false);
        }
        if let Some(packet_id) = packet_id {
            self.step_done(id, packet_id);
        }
        self.credit(id, left);
        self.taken = self.taken.saturating_add(1);
        Ok(())
    }

    /// The authority is asked once for each topic that a connection keeps publishing on.
    fn terms(&mut self, id: ConnectionId, client: &A::Client, topic: &TopicName) -> Result<Terms, Refusal> {
        let known = self.connections.get(&id).and_then(|connection| connection.terms.as_ref());
        if let Some((_, terms)) = known.filter(|(known, _)| known == topic) {
            return Ok(*terms);
        }
        let terms = self.authority.may_publish(client, topic)?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.terms = Some((topic.clone(), terms));
        }
        Ok(terms)
    }

    fn store(
        &mut self,
        connection: Option<ConnectionId>,
        ack: Option<PacketId>,
        cost: usize,
        message: &Message<A::Client>,
    ) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.storing.insert(ticket, Storing { connection, ack, cost });
        self.actions.push(Action::Store {
            ticket,
            client: message.from.clone(),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
        });
    }

    /// Gives the message to its receivers. Returns those whose sessions hold it and outlive the process.
    fn deliver(&mut self, message: &Arc<Message<A::Client>>, qos: Qos) -> Vec<A::Client> {
        let mut durable = Vec::new();
        for (client, granted) in self.receivers(&message.topic).iter() {
            if qos.min(*granted) == Qos::AtMostOnce {
                self.deliver_now(client, message, false);
            } else if self.enqueue(client, message, None) && self.is_durable(client) {
                durable.push(client.clone());
            }
        }
        // A later receiver's need of room may have taken it from an earlier one: that has been said, before the journal has
        // it.
        let holds = |session: &Session<_>| !session.clean && session.newest() == Some(message.number);
        durable.retain(|client| self.sessions.get(client).is_some_and(holds));
        durable
    }

    /// QoS 0: to a connected client with room in its output, or nowhere.
    fn deliver_now(&mut self, client: &A::Client, message: &Arc<Message<A::Client>>, retain: bool) {
        let Some(id) = self.sessions.get(client).and_then(|session| session.connection) else { return };
        let full = self.connections.get(&id).is_none_or(|c| c.unsent() >= self.limits.output_bytes_max);
        if full {
            self.dropped_qos0 = self.dropped_qos0.saturating_add(1);
        } else {
            self.send_message(id, message, None, false, retain);
        }
    }

    /// Fills the client's window as far as its connection takes it: first what was not acknowledged on the last
    /// connection, in the old order and with the old identifiers ([MQTT-4.4.0-1]).
    pub(super) fn pump(&mut self, client: &A::Client) {
        loop {
            let Some(session) = self.sessions.get_mut(client) else { return };
            let Some(id) = session.connection else { return };
            let Some(connection) = self.connections.get(&id) else { return };
            if connection.unsent() >= self.limits.output_bytes_max {
                return;
            }
            let Some((packet_id, outgoing)) = session.next(&self.limits) else { return };
            let retain = outgoing.retained.is_some();
            self.send_message(id, &outgoing.message, Some(packet_id), outgoing.dup, retain);
        }
    }

    fn send_message(
        &mut self,
        id: ConnectionId,
        message: &Message<A::Client>,
        packet_id: Option<PacketId>,
        dup: bool,
        retain: bool,
    ) {
        self.delivered = self.delivered.saturating_add(1);
        let packet = Packet::Publish(Publish {
            dup,
            retain,
            delivery: delivery(packet_id),
            topic: message.topic.clone(),
            payload: Arc::clone(&message.payload),
        });
        self.send(id, &packet);
    }

    /// A receiver's PUBACK. One for an identifier that is not in flight is ignored: it may answer a redelivery twice.
    pub(super) fn acknowledged(&mut self, id: ConnectionId, packet_id: PacketId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let client = connection.client.clone();
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let durable = !session.clean;
        if let Some(Outgoing { message, retained, .. }) = session.acknowledge(packet_id) {
            session.aside.taken();
            self.waiting_bytes = self.waiting_bytes.saturating_sub(message.cost());
            if durable {
                self.settled(&client, message.number);
            } else if let Some(number) = retained {
                self.kept_back.acquit(&client, number);
            }
            self.pump(&client);
        }
    }

    /// The publication is acknowledged one step later.
    pub(super) fn one_more_step(&mut self, id: ConnectionId, packet_id: PacketId) {
        let acks = self.connections.get_mut(&id).map(|connection| &mut connection.acks);
        if let Some(ack) = acks.and_then(|acks| acks.iter_mut().rev().find(|ack| ack.id == packet_id)) {
            ack.outstanding = ack.outstanding.saturating_add(1);
        }
    }

    /// One step of the publication is done. Acknowledges it when it was the last, and what was waiting behind it.
    pub(super) fn step_done(&mut self, id: ConnectionId, packet_id: PacketId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(ack) = connection.acks.iter_mut().find(|ack| ack.id == packet_id) {
            ack.outstanding = ack.outstanding.saturating_sub(1);
        }
        let mut ready = Vec::new();
        while let Some(ack) = connection.acks.pop_front_if(|ack| ack.outstanding == 0) {
            ready.push(ack.id);
        }
        for packet_id in ready {
            self.send(id, &Packet::PubAck(packet_id));
        }
    }

    /// Delivers the retained messages of topics that match. They are no reason to lose what waits already, in this
    /// session or in another: where this one or all together are full, the rest of them is lost, unless the client
    /// wants to lose its session then.
    pub(super) fn deliver_retained(&mut self, client: &A::Client, filter: &TopicFilter, granted: Qos) {
        let mut lost: u64 = 0;
        for (message, qos) in self.retained.matching(filter) {
            if !self.sessions.contains_key(client) {
                break;
            }
            let ended = self.kept_back.ends(client, message.number, self.now) >= self.limits.ends_max;
            if ended || !self.authority.may_receive(client, &message.topic) {
                continue;
            }
            if qos.min(granted) == Qos::AtMostOnce {
                self.deliver_now(client, &message, true);
            } else if lost > 0 || !self.takes_retained(client, message.cost()) {
                if lost == 0 && self.authority.lagging(client) == Lagging::LosesSession {
                    self.end_session_that_lags(client, "retained messages did not fit into its session");
                    return;
                }
                lost = lost.saturating_add(1);
            } else {
                let copy = Arc::new(Message {
                    number: self.new_number(),
                    from: message.from.clone(),
                    topic: message.topic.clone(),
                    payload: Arc::clone(&message.payload),
                });
                if self.enqueue(client, &copy, Some(message.number)) && self.is_durable(client) {
                    self.journal(None, &copy, vec![client.clone()], true);
                }
            }
        }
        self.count_lost(client, lost, "there is no room in its session: retained messages did not fit in");
    }

    fn takes_retained(&self, client: &A::Client, cost: usize) -> bool {
        self.sessions.get(client).is_none_or(|session| session.has_room(1, cost, &self.limits))
            && !self.is_crowded(client, cost)
    }

    /// A retained message of the caller's own, `from` whoever it is to its receivers: an empty payload removes it. Nobody's
    /// leave is asked, and no share of the retained messages: it is the caller who bounds them.
    pub fn retain_own(&mut self, from: A::Client, topic: &TopicName, payload: &[u8], now: Duration) {
        self.now = now;
        let number = self.new_number();
        let message = Arc::new(Message { number, from, topic: topic.clone(), payload: payload.into() });
        self.retained.set(&message, Qos::AtLeastOnce);
        self.retain_on_disk(None, &message, Qos::AtLeastOnce, false);
        let durable = self.deliver(&message, Qos::AtLeastOnce);
        if !durable.is_empty() {
            self.journal(None, &message, durable, false);
        }
        self.settle();
    }

    /// The payload of what is retained on a topic.
    pub fn retained(&self, topic: &TopicName) -> Option<&[u8]> {
        self.retained.get(topic)
    }

    /// Section 3.1.2.5, by the policy of this moment. Nobody waits for its acknowledgement.
    pub(super) fn publish_will(&mut self, client: A::Client, will: Will) {
        let allowed = self.authority.may_publish(&client, &will.topic).and_then(|terms| {
            size_fits(&client, &will.topic, will.payload.len(), terms)?;
            Ok(terms)
        });
        let terms = match allowed {
            Ok(terms) => terms,
            Err(refusal) => return self.refuse(&client, refusal),
        };
        let number = self.new_number();
        let message = Arc::new(Message { number, from: client, topic: will.topic, payload: will.payload });
        if will.retain {
            match self.retained.has_room(&message, &self.limits) {
                Ok(()) => {
                    self.retained.set(&message, will.qos);
                    self.retain_on_disk(None, &message, will.qos, false);
                }
                Err(rule) => {
                    let rule = format!("the will was not retained: {rule}");
                    self.refuse(&message.from, Refusal::new(Reason::RetainedFull, &message.from, rule));
                }
            }
        }
        if keeps(terms) {
            self.store(None, None, 0, &message);
        }
        let durable = self.deliver(&message, will.qos);
        if !durable.is_empty() {
            self.journal(None, &message, durable, false);
        }
    }
}

fn keeps(terms: Terms) -> bool {
    terms.keep == Keep::Durable
}

/// Refuses a payload over the topic's bound, before anything is acknowledged: it never comes to its receivers.
pub(super) fn size_fits(
    client: &impl std::fmt::Display,
    topic: &TopicName,
    bytes: usize,
    terms: Terms,
) -> Result<(), Refusal> {
    if bytes <= terms.bytes_max {
        return Ok(());
    }
    let rule = format!("{bytes} bytes are over `bytes_max` of the topic, {}", terms.bytes_max);
    Err(Refusal::new(Reason::MessageTooLarge, format_args!("{client} publish {topic}"), rule))
}
