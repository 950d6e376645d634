//! The way of a message: from its publisher into the sessions, from there onto the wire, and the acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

use super::session::Outgoing;
use super::{Ack, Action, Authority, Broker, ConnectionId, Keep, Message, Parked, Storing, Ticket, delivery};
use crate::packet::{Delivery, Packet, PacketId, Publish, Qos, Will};
use crate::topic::TopicFilter;

/// Who got a message.
struct Given<C> {
    /// Those that have no room for it.
    owed: Vec<C>,
    /// Those whose sessions hold it and outlive the process.
    durable: Vec<C>,
}

impl<A: Authority> Broker<A> {
    /// Handles the connection's publications in order until one has to wait or none is left.
    pub(super) fn advance(&mut self, id: ConnectionId, now: Duration) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let Some(mut parked) = connection.parked.pop_front() else {
                connection.blocked_since = None;
                return;
            };
            let client = connection.client.clone();
            if let Err(refusal) = self.publish(id, &client, &mut parked) {
                self.refuse(&client, refusal);
                self.close(id, false);
                return;
            }
            let waits = parked.owed.as_ref().is_some_and(|owed| !owed.is_empty());
            let Some(connection) = self.connections.get_mut(&id) else { return };
            if waits {
                connection.parked.push_front(parked);
                connection.blocked_since.get_or_insert(now);
                self.blocked.push(id);
                return;
            }
            connection.blocked_since = None;
        }
    }

    /// One try. On the first, the publication is authorized, retained, given to be stored and to all receivers that
    /// have room; those that have none are `owed`, and a later try serves them only.
    fn publish(
        &mut self,
        id: ConnectionId,
        client: &A::Client,
        parked: &mut Parked<A::Client>,
    ) -> Result<(), Refusal> {
        let publish = &parked.publish;
        let packet_id = match publish.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce(packet_id) => Some(packet_id),
            Delivery::ExactlyOnce(_) => {
                return Err(Refusal::new(Reason::RequestInvalid, client, "QoS 2 is not offered"));
            }
        };
        // On a later try too: the policy may have changed meanwhile.
        let keep = self.authority.may_publish(client, &publish.topic)?;
        let message = Arc::new(Message {
            number: self.new_number(),
            from: client.clone(),
            topic: publish.topic.clone(),
            payload: Arc::clone(&publish.payload),
        });
        let first = parked.owed.is_none();
        if first && let Some(packet_id) = packet_id {
            let pending =
                self.connections.get(&id).is_some_and(|c| c.acks.iter().any(|ack| ack.id == packet_id));
            if pending && publish.dup {
                // An impatient client repeats what we are still at: one acknowledgement will answer both.
                self.credit(id, parked.cost);
                return Ok(());
            }
            if pending {
                return Err(Refusal::new(Reason::RequestInvalid, client, "the packet identifier is in use"));
            }
        }
        if first && publish.retain && !self.retained.has_room(&message, &self.limits) {
            let rule = "there is no room for one more retained message";
            return Err(Refusal::new(Reason::QueueFull, client, rule));
        }
        if first {
            if let (Some(packet_id), Some(connection)) = (packet_id, self.connections.get_mut(&id)) {
                connection.acks.push_back(Ack { id: packet_id, outstanding: 1 });
            }
            if publish.retain {
                self.retained.set(&message, publish.delivery.qos());
                self.touch_retained(packet_id.map(|packet_id| (id, packet_id)));
            }
            if keep == Keep::Durable {
                // The rest comes back when it is in the journal, or delivered.
                let cost = parked.cost / 2;
                parked.cost -= cost;
                if let Some(packet_id) = packet_id {
                    self.one_more_step(id, packet_id);
                }
                self.store(Some(id), packet_id, cost, &message);
            }
        }
        let publish = &parked.publish;
        let Given { owed, durable } = self.deliver(&message, publish, parked.owed.as_deref());
        if !durable.is_empty() {
            if let Some(packet_id) = packet_id {
                self.one_more_step(id, packet_id);
            }
            let cost = std::mem::take(&mut parked.cost);
            self.journal(Some((id, packet_id, cost)), &message, durable, false);
        }
        if owed.is_empty() {
            if let Some(packet_id) = packet_id {
                self.step_done(id, packet_id);
            }
            self.credit(id, parked.cost);
        }
        parked.owed = Some(owed);
        Ok(())
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

    /// Gives the message to its receivers. `only`: those still owed.
    fn deliver(
        &mut self,
        message: &Arc<Message<A::Client>>,
        publish: &Publish,
        only: Option<&[A::Client]>,
    ) -> Given<A::Client> {
        let mut given = Given { owed: Vec::new(), durable: Vec::new() };
        for (client, granted) in self.receivers(&message.topic) {
            if only.is_some_and(|only| !only.contains(&client)) {
                continue;
            }
            if publish.delivery.qos().min(granted) == Qos::AtMostOnce {
                self.deliver_now(&client, message, false);
            } else if !self.enqueue(&client, message, false) {
                given.owed.push(client);
            } else if self.is_durable(&client) {
                given.durable.push(client);
            }
        }
        given
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

    /// QoS 1: into the session, if it has room.
    fn enqueue(&mut self, client: &A::Client, message: &Arc<Message<A::Client>>, retain: bool) -> bool {
        let Some(session) = self.sessions.get_mut(client) else { return true };
        let total = self.waiting_bytes.saturating_add(message.cost());
        let kept = session.bytes().saturating_add(message.cost()) <= self.limits.session_bytes_kept;
        let crowded = total > self.limits.waiting_bytes_max && !kept;
        if crowded || !session.has_room(1, message.cost(), &self.limits) {
            return false;
        }
        self.waiting_bytes = total;
        session.push(Outgoing { message: Arc::clone(message), retain, dup: false });
        self.pump(client);
        true
    }

    /// Fills the client's window as far as its connection takes it.
    pub(super) fn pump(&mut self, client: &A::Client) {
        loop {
            let Some(session) = self.sessions.get_mut(client) else { return };
            let Some(id) = session.connection else { return };
            let Some(connection) = self.connections.get(&id) else { return };
            if connection.unsent() >= self.limits.output_bytes_max {
                return;
            }
            let Some((packet_id, outgoing)) = session.next(self.limits.window_messages_max) else { return };
            self.send_message(id, &outgoing.message, Some(packet_id), outgoing.dup, outgoing.retain);
        }
    }

    /// What was not acknowledged on the last connection goes out again, first and in the old order ([MQTT-4.4.0-1]).
    pub(super) fn redeliver(&mut self, client: &A::Client) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(id) = session.connection else { return };
        for (packet_id, outgoing) in session.in_flight() {
            self.send_message(id, &outgoing.message, Some(packet_id), true, outgoing.retain);
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
        if let Some(message) = session.acknowledge(packet_id) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(message.cost());
            self.room_made = true;
            if durable {
                self.settled(&client, message.number);
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

    pub(super) fn deliver_retained(&mut self, client: &A::Client, filter: &TopicFilter, granted: Qos) {
        for (message, qos) in self.retained.matching(filter) {
            if !self.authority.may_receive(client, &message.topic) {
                continue;
            }
            if qos.min(granted) == Qos::AtMostOnce {
                self.deliver_now(client, &message, true);
            } else {
                // `add_subscription` has made sure of the room.
                let message = Arc::new(Message {
                    number: self.new_number(),
                    from: message.from.clone(),
                    topic: message.topic.clone(),
                    payload: Arc::clone(&message.payload),
                });
                if self.enqueue(client, &message, true) && self.is_durable(client) {
                    self.journal(None, &message, vec![client.clone()], true);
                }
            }
        }
    }

    /// Section 3.1.2.5. Nobody waits for its acknowledgement, so a full receiver is a refusal that is logged.
    pub(super) fn publish_will(&mut self, client: A::Client, will: Will) {
        let keep = match self.authority.may_publish(&client, &will.topic) {
            Ok(keep) => keep,
            Err(refusal) => return self.refuse(&client, refusal),
        };
        let publish = Publish {
            dup: false,
            retain: will.retain,
            // Only its QoS is looked at.
            delivery: if will.qos == Qos::AtMostOnce {
                Delivery::AtMostOnce
            } else {
                Delivery::AtLeastOnce(PacketId::MIN)
            },
            topic: will.topic.clone(),
            payload: Arc::clone(&will.payload),
        };
        let number = self.new_number();
        let message = Arc::new(Message { number, from: client, topic: will.topic, payload: will.payload });
        if will.retain {
            if self.retained.has_room(&message, &self.limits) {
                self.retained.set(&message, will.qos);
                self.touch_retained(None);
            } else {
                let refusal = Refusal::new(Reason::QueueFull, &message.from, "the will was not retained");
                self.refuse(&message.from, refusal);
            }
        }
        if keep == Keep::Durable {
            self.store(None, None, 0, &message);
        }
        let Given { owed, durable } = self.deliver(&message, &publish, None);
        if !durable.is_empty() {
            self.journal(None, &message, durable, false);
        }
        for receiver in owed {
            let refusal = Refusal::new(Reason::QueueFull, &receiver, "the session has no room for a will");
            self.refuse(&receiver, refusal);
        }
    }
}
