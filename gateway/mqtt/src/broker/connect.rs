//! CONNECT: who may have a session, and how one is taken up.

use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

use super::delivery::size_fits;
use super::session::Session;
use super::{Authority, Broker, ConnectionId, End};
use crate::packet::{Connect, ConnectCode, Packet, Qos};

impl<A: Authority> Broker<A> {
    /// Section 3.1.4.
    pub(super) fn connect(&mut self, id: ConnectionId, connect: Connect) {
        let Some(connection) = self.connections.get(&id) else { return };
        let client = connection.client.clone();
        if let Err((code, refusal)) = self.admit(&client, &connect) {
            self.refuse(&client, refusal);
            self.send(id, &Packet::ConnAck { session_present: false, code });
            self.close(id, End::Refused);
            return;
        }
        // [MQTT-3.1.4-2]: the newer connection of a client ends the older.
        if let Some(older) = self.sessions.get(&client).and_then(|session| session.connection) {
            self.close(older, End::Theirs);
        }
        if connect.clean_session {
            self.remove_session(&client);
        }
        let session_present = self.sessions.get(&client).is_some_and(|session| !session.lost);
        let outdated = if let Some(session) = self.sessions.get_mut(&client) {
            let mut outdated = session.arrive(id);
            if session.lost && !session.subscriptions.is_empty() {
                // They are older than what the client knows of. It is told that there is none, and begins with none.
                for (filter, _) in session.subscriptions.drain() {
                    self.subscriptions.remove(&filter, &client);
                }
                self.forget_routes();
                outdated = true;
            }
            outdated
        } else {
            let mut session = Session::new(connect.clean_session, self.new_number());
            session.arrive(id);
            self.sessions.insert(client.clone(), session);
            true
        };
        if outdated && !connect.clean_session {
            self.touch(&client);
        }
        self.hold(id, &client);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.connected = true;
            connection.will = connect.will;
            connection.keep_alive = (connect.keep_alive_seconds > 0)
                .then(|| Duration::from_secs(connect.keep_alive_seconds.into()));
        }
        self.send(id, &Packet::ConnAck { session_present, code: ConnectCode::Accepted });
        self.pump(&client);
    }

    fn admit(&self, client: &A::Client, connect: &Connect) -> Result<(), (ConnectCode, Refusal)> {
        if let Some(why) = &self.unavailable {
            return Err((ConnectCode::ServerUnavailable, why.clone()));
        }
        let not_authorized = |refusal| (ConnectCode::NotAuthorized, refusal);
        self.authority.may_connect(client).map_err(not_authorized)?;
        let expected = self.authority.client_id(client);
        if connect.client_id != expected {
            let rule = format!("the client identifier must be `{expected}`");
            return Err((
                ConnectCode::IdentifierRejected,
                Refusal::new(Reason::ClientIdMismatch, client, rule),
            ));
        }
        if let Some(will) = &connect.will {
            if will.qos == Qos::ExactlyOnce {
                return Err(not_authorized(Refusal::new(
                    Reason::RequestInvalid,
                    client,
                    "QoS 2 is not offered",
                )));
            }
            let terms = self.authority.may_publish(client, &will.topic).map_err(not_authorized)?;
            size_fits(client, &will.topic, will.payload.len(), terms).map_err(not_authorized)?;
        }
        if !self.sessions.contains_key(client) && self.sessions.len() >= self.limits.sessions_max {
            let refusal = Refusal::new(Reason::Busy, client, "there are too many sessions");
            return Err((ConnectCode::ServerUnavailable, refusal));
        }
        Ok(())
    }
}
