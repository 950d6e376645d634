//! Subscriptions and the end of sessions.

use std::collections::HashSet;
use std::time::Duration;

use super::{Action, Authority, Broker, ConnectionId};
use crate::packet::{Packet, Qos, Subscribe, SubscribeCode, Unsubscribe};
use crate::topic::TopicFilter;
use edgewarden_names::{Reason, Refusal};

/// Bounds of how far a document may be behind on the time that its client is away.
const AWAY_STEP_MIN: Duration = Duration::from_secs(10);
const AWAY_STEP_MAX: Duration = Duration::from_secs(3600);

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
        // A filter that the packet repeats is one subscription, as it was granted last.
        let mut seen = HashSet::new();
        let mut granted = Vec::new();
        for ((filter, _), code) in subscribe.filters.iter().zip(codes).rev() {
            if let SubscribeCode::Granted(qos) = code
                && seen.insert(filter)
            {
                granted.push((filter, qos));
            }
        }
        for (filter, qos) in granted.into_iter().rev() {
            self.deliver_retained(&client, filter, qos);
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
        let before = session.subscriptions.insert(filter.clone(), granted);
        let was_lost = std::mem::take(&mut session.lost);
        self.subscriptions.insert(filter, client.clone(), granted);
        self.forget_routes();
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
        self.forget_routes();
        if changed && self.is_durable(&client) {
            self.touch(&client);
        }
        self.hold(id, &client);
        self.send(id, &Packet::UnsubAck(unsubscribe.id));
    }

    /// Ends persistent sessions whose clients have been away for longer than is declared, and has written down how long
    /// the others have been: only time during which a broker ran and let clients in counts, so that no clock can end a
    /// session.
    pub(super) fn expire_sessions(&mut self) {
        if !self.authority.decides() {
            for session in self.sessions.values_mut() {
                session.pause_away(self.decided_at, self.now);
            }
            return;
        }
        self.decided_at = self.now;
        let (mut ended, mut behind) = (Vec::new(), Vec::new());
        for (client, session) in &self.sessions {
            if session.clean || session.connection.is_some() {
                continue;
            }
            let expiry = self.authority.session_expiry(client);
            if session.away(self.now) >= expiry {
                ended.push((client.clone(), session.len(), expiry));
            } else if session.away_unwritten(self.now) >= (expiry / 32).clamp(AWAY_STEP_MIN, AWAY_STEP_MAX) {
                behind.push(client.clone());
            }
        }
        ended.sort_unstable();
        behind.sort_unstable();
        for (client, messages, expiry) in ended {
            self.remove_session(&client);
            let rule = format!("its client was away for {} s: the session has ended", expiry.as_secs());
            self.refuse(&client, Refusal::new(Reason::SessionExpired, &client, &rule));
            self.count_lost(&client, messages as u64, rule);
        }
        for client in behind {
            self.touch(&client);
        }
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
        self.forget_routes();
        if !session.clean {
            for number in session.numbers() {
                self.settled(client, number);
            }
            self.actions.push(Action::Forgotten { client: client.clone() });
            self.touch(client);
        }
    }
}
