//! Subscriptions and the end of sessions.

use super::{Action, Authority, Broker, ConnectionId};
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
        let mut changed = false;
        for (filter, wanted) in &subscribe.filters {
            let granted = (*wanted).min(Qos::AtLeastOnce);
            match self.add_subscription(&client, filter, granted) {
                Ok(new) => {
                    changed |= new;
                    codes.push(SubscribeCode::Granted(granted));
                }
                Err(refusal) => {
                    self.refuse(&client, refusal);
                    codes.push(SubscribeCode::Failure);
                }
            }
        }
        if changed && self.is_durable(&client) {
            self.touch(&client);
        }
        self.hold(id, &client);
        self.send(id, &Packet::SubAck { id: subscribe.id, codes: codes.clone() });
        for ((filter, _), code) in subscribe.filters.iter().zip(codes) {
            if let SubscribeCode::Granted(granted) = code {
                self.deliver_retained(&client, filter, granted);
            }
        }
    }

    pub(super) fn is_durable(&self, client: &A::Client) -> bool {
        self.sessions.get(client).is_some_and(|session| !session.clean)
    }

    /// True when the session is not as it was.
    fn add_subscription(
        &mut self,
        client: &A::Client,
        filter: &TopicFilter,
        granted: Qos,
    ) -> Result<bool, Refusal> {
        self.authority.may_subscribe(client, filter)?;
        let Some(session) = self.sessions.get_mut(client) else {
            return Err(Refusal::new(Reason::Internal, client, "there is no session"));
        };
        let new = !session.subscriptions.contains_key(filter);
        if new && session.subscriptions.len() >= self.limits.subscriptions_per_session_max {
            return Err(Refusal::new(Reason::Busy, client, "the session has too many subscriptions"));
        }
        let bytes =
            session.subscriptions.keys().map(|filter| filter.as_str().len()).fold(0, usize::saturating_add);
        if new && bytes.saturating_add(filter.as_str().len()) > self.limits.subscription_bytes_per_session_max
        {
            return Err(Refusal::new(Reason::Busy, client, "the session's filters are too long together"));
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
        let before = session.subscriptions.insert(filter.clone(), granted);
        let was_lost = std::mem::take(&mut session.lost);
        self.subscriptions.insert(filter, client.clone(), granted);
        Ok(was_lost || before != Some(granted))
    }

    /// Section 3.10.4.
    pub(super) fn unsubscribe(&mut self, id: ConnectionId, unsubscribe: &Unsubscribe) {
        let Some(client) = self.connections.get(&id).map(|connection| connection.client.clone()) else {
            return;
        };
        let mut changed = false;
        for filter in &unsubscribe.filters {
            self.subscriptions.remove(filter, &client);
            if let Some(session) = self.sessions.get_mut(&client) {
                changed |= session.subscriptions.remove(filter).is_some();
            }
        }
        self.room_made = true;
        if changed && self.is_durable(&client) {
            self.touch(&client);
        }
        self.hold(id, &client);
        self.send(id, &Packet::UnsubAck(unsubscribe.id));
    }

    /// Ends the sessions of clients that have left; removes from the others the subscriptions and waiting messages
    /// that the authority does not allow.
    pub(super) fn drop_denied_sessions(&mut self) {
        let mut clients: Vec<A::Client> = self.sessions.keys().cloned().collect();
        clients.sort_unstable();
        for client in clients {
            if let Some(refusal) = self.authority.has_left(&client) {
                self.refuse(&client, refusal);
                self.remove_session(&client);
                continue;
            }
            let Some(session) = self.sessions.get_mut(&client) else { continue };
            let mut refusals = Vec::new();
            session.subscriptions.retain(|filter, _| match self.authority.may_subscribe(&client, filter) {
                Ok(()) => true,
                Err(refusal) => {
                    self.subscriptions.remove(filter, &client);
                    refusals.push(refusal);
                    false
                }
            });
            let durable = !session.clean;
            let dropped = session.keep(|message| self.authority.may_receive(&client, &message.topic));
            if durable && !refusals.is_empty() {
                self.touch(&client);
            }
            for message in dropped {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(message.cost());
                if durable {
                    self.settled(&client, message.number);
                }
            }
            for refusal in refusals {
                self.refuse(&client, refusal);
            }
        }
    }

    pub(super) fn remove_session(&mut self, client: &A::Client) {
        let Some(session) = self.sessions.remove(client) else { return };
        for filter in session.subscriptions.keys() {
            self.subscriptions.remove(filter, client);
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(session.bytes());
        self.room_made = true;
        if !session.clean {
            for number in session.numbers() {
                self.settled(client, number);
            }
            self.actions.push(Action::Forgotten { client: client.clone() });
            self.touch(client);
        }
    }
}
