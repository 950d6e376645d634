//! What happened, for people. Bounded: the oldest go.

use edgewarden_names::{GatewayName, Reason, UnixTime};
use serde::{Deserialize, Serialize};

use super::writer::Writing;
use super::{Store, StoreError, signed, time};

/// Most events that are kept in all.
pub const EVENTS_MAX: i64 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: UnixTime,
    pub gateway: Option<String>,
    /// The reason code, when something was refused.
    pub reason: Option<String>,
    pub text: String,
}

impl Writing<'_> {
    /// Notes an event together with what it tells of, so that neither is there without the other.
    pub(super) async fn note(
        &mut self,
        gateway: Option<&GatewayName>,
        reason: Option<Reason>,
        text: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO event (at, gateway, reason, text) VALUES (?, ?, ?, ?)")
            .bind(signed(now.0))
            .bind(gateway.map(GatewayName::as_str))
            .bind(reason.map(Reason::code))
            .bind(text)
            .execute(self.sql())
            .await?;
        sqlx::query("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?")
            .bind(EVENTS_MAX)
            .execute(self.sql())
            .await?;
        Ok(())
    }
}

impl Store {
    pub async fn add_event(
        &self,
        gateway: Option<&GatewayName>,
        reason: Option<Reason>,
        text: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        writing.note(gateway, reason, text, now).await?;
        writing.commit().await
    }

    /// The newest first; of one gateway, or of all.
    pub async fn events(&self, gateway: Option<&GatewayName>, last: u32) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, Option<String>, Option<String>, String)> = sqlx::query_as(
            "SELECT at, gateway, reason, text FROM event WHERE ?1 IS NULL OR gateway = ?1 ORDER BY id DESC LIMIT ?2",
        )
        .bind(gateway.map(GatewayName::as_str))
        .bind(i64::from(last))
        .fetch_all(&self.readers)
        .await?;
        let event = |(at, gateway, reason, text)| Event { at: time(at), gateway, reason, text };
        Ok(rows.into_iter().map(event).collect())
    }
}
