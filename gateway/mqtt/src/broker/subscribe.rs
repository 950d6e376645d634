//! Subscriptions and the end of sessions.

use super::{Authority, Broker, ConnectionId};
use crate::packet::{Packet, Qos, Subscribe, SubscribeCode, Unsubscribe};
use crate::topic::TopicFilter;
use edgewarden_names::{Reason, Refusal};

impl<A: Authority> Broker<A> {
    /// Section 3.8.4: one return code for each filter, in order; then the retained messages.
    pub(super) fn subscribe(&mut self, id: ConnectionId, subscribe: &Subscribe) {
        let Some(client) = self.connections.get(&id).map(|connection| connection.client.clone()) else {
            return;
        };
        let mut codes = Vec::new();
        for (filter, wanted) in &subscribe.filters {
            let granted = (*wanted).min(Qos::AtLeastOnce);
            match self.add_subscription(&client, filter, granted) {
                Ok(()) => codes.push(SubscribeCode::Granted(granted)),
                Err(refusal) => {
                    self.refuse(refusal);
                    codes.push(SubscribeCode::Failure);
                }
            }
        }
        self.send(id, &Packet::SubAck { id: subscribe.id, codes: codes.clone() });
        for ((filter, _), code) in subscribe.filters.iter().zip(codes) {
            if let SubscribeCode::Granted(granted) = code {
                self.deliver_retained(&client, filter, granted);
            }
        }
    }

    fn add_subscription(
        &mut self,
        client: &A::Client,
        filter: &TopicFilter,
        granted: Qos,
    ) -> Result<(), Refusal> {
        self.authority.may_subscribe(client, filter)?;
        let Some(session) = self.sessions.get_mut(client) else {
            return Err(Refusal::new(Reason::Internal, client, "there is no session"));
        };
        let new = !session.subscriptions.contains_key(filter);
        if new && session.subscriptions.len() >= self.limits.subscriptions_per_session_max {
            return Err(Refusal::new(Reason::Busy, client, "the session has too many subscriptions"));
        }
        // The retained messages come with the subscription; without room for them it is not granted.
        let retained = self.retained.matching(filter);
        let bytes = retained.iter().map(|(message, _)| message.cost()).fold(0, usize::saturating_add);
        let total = self.waiting_bytes.saturating_add(bytes);
        if granted == Qos::AtLeastOnce
            && !retained.is_empty()
            && (!session.has_room(retained.len(), bytes, &self.limits)
                || total > self.limits.waiting_bytes_max)
        {
            return Err(Refusal::new(
                Reason::QueueFull,
                client,
                "the session has no room for the retained messages",
            ));
        }
        session.subscriptions.insert(filter.clone(), granted);
        self.subscriptions.insert(filter, client.clone(), granted);
        Ok(())
    }

    /// Section 3.10.4.
    pub(super) fn unsubscribe(&mut self, id: ConnectionId, unsubscribe: &Unsubscribe) {
        let Some(client) = self.connections.get(&id).map(|connection| connection.client.clone()) else {
            return;
        };
        for filter in &unsubscribe.filters {
            self.subscriptions.remove(filter, &client);
            if let Some(session) = self.sessions.get_mut(&client) {
                session.subscriptions.remove(filter);
            }
        }
        self.room_made = true;
        self.send(id, &Packet::UnsubAck(unsubscribe.id));
    }

    /// Removes subscriptions and waiting messages that the authority does not allow, and sessions of clients that
    /// are away, may not return and have nothing left.
    pub(super) fn drop_denied_subscriptions(&mut self) {
        let mut refusals = Vec::new();
        let mut gone = Vec::new();
        for (client, session) in &mut self.sessions {
            session.subscriptions.retain(|filter, _| match self.authority.may_subscribe(client, filter) {
                Ok(()) => true,
                Err(refusal) => {
                    self.subscriptions.remove(filter, client);
                    refusals.push(refusal);
                    false
                }
            });
            let freed = session.keep(|message| self.authority.may_receive(client, &message.topic));
            self.waiting_bytes = self.waiting_bytes.saturating_sub(freed);
            let empty = session.subscriptions.is_empty() && session.len() == 0;
            if session.connection.is_none() && empty && self.authority.may_connect(client).is_err() {
                gone.push(client.clone());
            }
        }
        for client in gone {
            self.remove_session(&client);
        }
        for refusal in refusals {
            self.refuse(refusal);
        }
    }

    pub(super) fn remove_session(&mut self, client: &A::Client) {
        let Some(session) = self.sessions.remove(client) else { return };
        for filter in session.subscriptions.keys() {
            self.subscriptions.remove(filter, client);
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(session.bytes());
        self.room_made = true;
    }
}
