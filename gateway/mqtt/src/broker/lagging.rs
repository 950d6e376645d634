//! Receivers that lag: each loses in its own session, by the rule that the deployment declares for it, and nobody waits
//! for it. What it loses was acknowledged to its publisher; it is counted and told under the receiver's name.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

use super::limits::Receiver;
use super::message::Message;
use super::session::{Outgoing, Session};
use super::{Authority, Broker, End, Lagging};

/// Time for which a receiver counts as lagging after a loss.
const LAGGING: Duration = Duration::from_secs(60);
/// Clients whose losses are remembered.
const CLIENTS_MAX: usize = 4096;

impl<A: Authority> Broker<A> {
    /// A QoS 1 message goes into the client's session; false when it is lost there. `retained`: the number of the
    /// retained message that it is a copy of.
    pub(super) fn enqueue(
        &mut self,
        client: &A::Client,
        message: &Arc<Message<A::Client>>,
        retained: Option<u64>,
    ) -> bool {
        let Some(session) = self.sessions.get(client) else { return false };
        let cost = message.cost();
        if !session.has_room(1, cost, &self.limits) && !self.make_room(client, cost) {
            return false;
        }
        if self.is_crowded(client, cost) {
            self.relieve(cost);
            if self.is_crowded(client, cost) {
                self.count_lost(client, 1, "all sessions together are full");
                return false;
            }
        }
        let Some(session) = self.sessions.get_mut(client) else { return false };
        self.waiting_bytes = self.waiting_bytes.saturating_add(cost);
        session.push(Outgoing::new(message, retained));
        self.pump(client);
        true
    }

    /// Room in a session that is at its own ceiling, by the client's rule. False when the new message is lost.
    fn make_room(&mut self, client: &A::Client, cost: usize) -> bool {
        if self.authority.lagging(client) == Lagging::LosesSession {
            self.end_session_that_lags(client, "its session was full");
            return false;
        }
        let mut lost = 0;
        let room = loop {
            let Some(session) = self.sessions.get(client) else { break false };
            if session.has_room(1, cost, &self.limits) {
                break true;
            }
            if !self.lose_oldest(client) {
                break false;
            }
            lost += 1;
        };
        lost += u64::from(!room);
        self.count_lost(client, lost, "its session is full: the oldest messages in it go");
        room
    }

    /// `true` when the pool of all sessions is full, and this one holds more than is kept for each.
    pub(super) fn is_crowded(&self, client: &A::Client, cost: usize) -> bool {
        let Some(session) = self.sessions.get(client) else { return false };
        let held = session.bytes().saturating_add(cost);
        self.waiting_bytes.saturating_add(cost) > self.limits.waiting_bytes_max
            && held > self.limits.session_bytes_kept
    }

    /// Room in the pool of all sessions: who holds most of it loses, until a little more than is needed is free.
    fn relieve(&mut self, cost: usize) {
        let wanted = cost.max(self.limits.waiting_bytes_max / 128);
        let enough = self.limits.waiting_bytes_max.saturating_sub(wanted);
        while self.waiting_bytes > enough {
            let kept = self.limits.session_bytes_kept;
            let loses = |session: &Session<_>| session.can_lose() && session.bytes() > kept;
            let largest = self.sessions.iter().filter(|(_, session)| loses(session));
            let Some((client, session)) = largest.max_by_key(|(_, session)| session.bytes()) else { return };
            let (client, least) = (client.clone(), session.bytes() / 2);
            if self.authority.lagging(&client) == Lagging::LosesSession {
                self.end_session_that_lags(
                    &client,
                    "all sessions together were full, and its own the largest",
                );
                continue;
            }
            let mut lost = 0;
            let large = |broker: &Self| broker.sessions.get(&client).is_some_and(|s| s.bytes() > least);
            while self.waiting_bytes > enough && large(self) && self.lose_oldest(&client) {
                lost += 1;
            }
            if lost == 0 {
                return;
            }
            let rule =
                "all sessions together are full, and its own is the largest: the oldest messages in it go";
            self.count_lost(&client, lost, rule);
        }
    }

    /// Brings restored sessions under the bounds: an earlier process may not have written down its last losses.
    pub(super) fn shrink_restored(&mut self) {
        let full = |session: &Session<_>, limits: &super::Limits| !session.has_room(0, 0, limits);
        let over = self.sessions.iter().filter(|(_, session)| full(session, &self.limits));
        let mut over: Vec<_> = over.map(|(client, _)| client.clone()).collect();
        over.sort_unstable();
        for client in over {
            let mut lost = 0;
            while self.sessions.get(&client).is_some_and(|session| full(session, &self.limits))
                && self.lose_oldest(&client)
            {
                lost += 1;
            }
            self.count_lost(&client, lost, "its session was full: the oldest messages in it go");
        }
        if self.waiting_bytes > self.limits.waiting_bytes_max {
            self.relieve(0);
        }
    }

    fn lose_oldest(&mut self, client: &A::Client) -> bool {
        let Some(session) = self.sessions.get_mut(client) else { return false };
        let durable = !session.clean;
        let Some(message) = session.lose_oldest() else { return false };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(message.cost());
        if durable {
            self.settled(client, message.number);
        }
        true
    }

    pub(super) fn end_session_that_lags(&mut self, client: &A::Client, why: &str) {
        let Some(session) = self.sessions.get(client) else { return };
        let lost = (session.len() as u64).saturating_add(1);
        let connection = session.connection;
        // The session first: its messages are not on their way to anybody then.
        self.remove_session(client);
        if let Some(connection) = connection {
            self.close(connection, End::Ours);
        }
        self.count_lost(client, lost, format_args!("{why}: the session has ended"));
    }

    pub(super) fn count_lost(&mut self, client: &A::Client, messages: u64, rule: impl std::fmt::Display) {
        if messages == 0 {
            return;
        }
        let losses = &mut self.losses;
        losses.messages = losses.messages.saturating_add(messages);
        if losses.clients.len() >= CLIENTS_MAX && !losses.clients.contains_key(client) {
            let sessions = &self.sessions;
            losses.clients.retain(|client, _| sessions.contains_key(client));
            if losses.clients.len() >= CLIENTS_MAX {
                return;
            }
        }
        let loss = losses.clients.entry(client.clone()).or_default();
        loss.messages = loss.messages.saturating_add(messages);
        loss.last = Some(self.now);
        if let Some(numbers) = loss.tell(self.now) {
            let rule = format!("{rule}; {numbers}");
            self.refuse(client, Refusal::new(Reason::ReceiverLagging, client, rule));
        }
    }

    /// Tells of what was lost since the last telling, where no further loss does.
    pub(super) fn tell_losses(&mut self) {
        let now = self.now;
        let losses = self.losses.clients.iter_mut();
        let mut untold: Vec<_> =
            losses.filter_map(|(client, loss)| Some((client.clone(), loss.tell(now)?))).collect();
        untold.sort_unstable();
        for (client, numbers) in untold {
            let rule = format!("it did not take its messages, and lost more of them; {numbers}");
            self.refuse(&client, Refusal::new(Reason::ReceiverLagging, &client, rule));
        }
    }

    /// Clients with something to say of, the worst first.
    pub fn receivers_behind(&self) -> Vec<Receiver<A::Client>> {
        let loss_of = |client: &A::Client| self.losses.clients.get(client);
        let receiver = |client: &A::Client, session: Option<&Session<A::Client>>| {
            let loss = loss_of(client);
            Receiver {
                client: client.clone(),
                connected: session.is_some_and(|session| session.connection.is_some()),
                waiting_messages: session.map_or(0, Session::len),
                waiting_bytes: session.map_or(0, Session::bytes),
                lost: loss.map_or(0, |loss| loss.messages),
                lagging: loss
                    .and_then(|loss| loss.last)
                    .is_some_and(|at| self.now.saturating_sub(at) < LAGGING),
                ends: session.and_then(Session::head).map_or(0, |head| head.ends),
                set_aside: session.map_or(0, |session| session.aside.len()),
            }
        };
        let open = self.sessions.iter().map(|(client, session)| receiver(client, Some(session)));
        let gone = self.losses.clients.keys().filter(|client| !self.sessions.contains_key(*client));
        let mut all: Vec<_> = open.chain(gone.map(|client| receiver(client, None))).collect();
        all.retain(|r| r.waiting_messages > 0 || r.lost > 0 || r.ends > 0 || r.set_aside > 0);
        let badness = |r: &Receiver<_>| (r.set_aside, r.ends, r.lagging, r.lost, r.waiting_messages);
        all.sort_by(|one, other| {
            badness(other).cmp(&badness(one)).then_with(|| one.client.cmp(&other.client))
        });
        all
    }
}
