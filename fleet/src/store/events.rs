//! Events, for people to read. Bounded, each by itself: what operators did, what befell a gateway, what was refused to
//! it. No gateway pushes out another's events or an operator's, and no refusals push out a gateway's history.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_names::{GatewayName, Reason, UnixTime};
use serde::{Deserialize, Serialize};

use super::writer::Writing;
use super::{Store, StoreError, signed, time, unsigned};

/// Most events of operators that are kept; the oldest go.
pub const OPERATOR_EVENTS_MAX: i64 = 20_000;
/// Most events of one gateway that are kept; and most refusals.
pub const GATEWAY_EVENTS_MAX: i64 = 100;
const TEXT_BYTES_MAX: usize = 1024;

/// Refusals of one gateway that are written down at once; then one in [`REFUSALS_EVERY`], with the number of those between.
const REFUSALS_BURST: u32 = 5;
const REFUSALS_EVERY: Duration = Duration::from_secs(10);
/// Refusals of one gateway for one reason are one row until there was none for so long.
const REFUSAL_WINDOW: Duration = Duration::from_secs(3600);
/// Gateways whose refusals are being counted.
const COUNTED_MAX: usize = 65_536;

/// One event for people to read. The gateway is absent for what concerns the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: UnixTime,
    pub gateway: Option<String>,
    /// The reason code, when something was refused.
    pub reason: Option<String>,
    pub text: String,
}

type EventRow = (i64, Option<String>, Option<String>, String, i64);

/// Originator of an event, whose room it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Operator,
    Gateway,
}

impl Writing<'_> {
    /// Notes an event together with what it tells of, so that neither is there without the other.
    pub(super) async fn note(
        &mut self,
        by: By,
        gateway: Option<&GatewayName>,
        text: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.insert_event(by, gateway, None, text, 1, now).await
    }

    /// A refusal for the same reason again is a higher number in the same row, whatever else was refused between; the row
    /// has the newest text.
    pub(super) async fn note_refusal(
        &mut self,
        gateway: &GatewayName,
        reason: Reason,
        text: &str,
        times: u64,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let text = bounded(text);
        let again = sqlx::query(
            "UPDATE event SET at = ?1, times = times + ?2, text = ?5 WHERE id = \
             (SELECT max(id) FROM event WHERE operator = 0 AND gateway = ?3 AND reason = ?4 AND at > ?6)",
        )
        .bind(signed(now.0))
        .bind(signed(times))
        .bind(gateway.as_str())
        .bind(reason.code())
        .bind(text)
        .bind(signed(now.minus(REFUSAL_WINDOW).0))
        .execute(self.sql())
        .await?;
        if again.rows_affected() == 1 {
            return Ok(());
        }
        self.insert_event(By::Gateway, Some(gateway), Some(reason), text, times, now).await
    }

    async fn insert_event(
        &mut self,
        by: By,
        gateway: Option<&GatewayName>,
        reason: Option<Reason>,
        text: &str,
        times: u64,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO event (at, gateway, reason, text, operator, times) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(signed(now.0))
        .bind(gateway.map(GatewayName::as_str))
        .bind(reason.map(Reason::code))
        .bind(bounded(text))
        .bind(by == By::Operator)
        .bind(signed(times))
        .execute(self.sql())
        .await?;
        match by {
            By::Operator => sqlx::query(
                "DELETE FROM event WHERE operator = 1 AND id <= \
                 (SELECT id FROM event WHERE operator = 1 ORDER BY id DESC LIMIT 1 OFFSET ?)",
            )
            .bind(OPERATOR_EVENTS_MAX),
            By::Gateway => sqlx::query(
                "DELETE FROM event WHERE operator = 0 AND gateway = ?1 AND (reason IS NULL) = ?2 AND id <= \
                 (SELECT id FROM event WHERE operator = 0 AND gateway = ?1 AND (reason IS NULL) = ?2 \
                  ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            )
            .bind(gateway.map(GatewayName::as_str))
            .bind(reason.is_none())
            .bind(GATEWAY_EVENTS_MAX),
        }
        .execute(self.sql())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Notes an event in a commit of its own.
    pub async fn add_event(
        &self,
        by: By,
        gateway: Option<&GatewayName>,
        text: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        writing.note(by, gateway, text, now).await?;
        writing.commit().await
    }

    /// Notes a refused try to join or to renew. Tries that come faster than they are written down are counted in memory,
    /// and cost the disk nothing.
    pub async fn add_refusal(
        &self,
        gateway: &GatewayName,
        reason: Reason,
        text: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let Some(times) = self.refusals.due(gateway, now) else { return Ok(()) };
        let mut writing = self.begin().await?;
        writing.note_refusal(gateway, reason, text, times, now).await?;
        writing.commit().await
    }

    /// At most `last` events, the newest first; of one gateway, or of all.
    pub async fn events(&self, gateway: Option<&GatewayName>, last: u32) -> Result<Vec<Event>, StoreError> {
        // Two statements: for one that serves both SQLite uses no index.
        let select = match gateway {
            Some(gateway) => sqlx::query_as(
                "SELECT at, gateway, reason, text, times FROM event WHERE gateway = ? \
                 ORDER BY at DESC, id DESC LIMIT ?",
            )
            .bind(gateway.as_str()),
            None => sqlx::query_as(
                "SELECT at, gateway, reason, text, times FROM event ORDER BY at DESC, id DESC LIMIT ?",
            ),
        };
        let rows: Vec<EventRow> = select.bind(i64::from(last)).fetch_all(&self.readers).await?;
        let event = |(at, gateway, reason, text, times)| {
            let text = if times > 1 { format!("{text} ({times} times)") } else { text };
            Event { at: time(at), gateway, reason, text }
        };
        Ok(rows.into_iter().map(event).collect())
    }
}

fn bounded(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(TEXT_BYTES_MAX)).0
}

/// Counts of late refusals by gateway, at most [`COUNTED_MAX`].
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(Arc<Mutex<HashMap<GatewayName, Counted>>>);

#[derive(Debug)]
struct Counted {
    left: u32,
    filled: UnixTime,
    untold: u64,
}

impl Refusals {
    /// For how many refusals a row is to be written; nothing when this one only counts.
    fn due(&self, gateway: &GatewayName, now: UnixTime) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= COUNTED_MAX && !all.contains_key(gateway) {
            let recent = now.minus(REFUSALS_EVERY * REFUSALS_BURST);
            // Those with refusals that no row tells of go last.
            all.retain(|_, counted| counted.untold > 0 || counted.filled > recent);
            if all.len() >= COUNTED_MAX {
                all.retain(|_, counted| counted.filled > recent);
            }
            if all.len() >= COUNTED_MAX {
                return None;
            }
        }
        let counted =
            all.entry(gateway.clone()).or_insert(Counted { left: REFUSALS_BURST, filled: now, untold: 0 });
        let passed = unsigned(signed(now.0).saturating_sub(signed(counted.filled.0)));
        let gained = u32::try_from(passed / REFUSALS_EVERY.as_secs()).unwrap_or(REFUSALS_BURST);
        if gained > 0 || now < counted.filled {
            counted.left = counted.left.saturating_add(gained).min(REFUSALS_BURST);
            counted.filled = now;
        }
        counted.untold = counted.untold.saturating_add(1);
        counted.left = counted.left.checked_sub(1)?;
        Some(std::mem::take(&mut counted.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_no_row_tells_of_are_not_forgotten_first() {
        let (refusals, now) = (Refusals::default(), UnixTime(1_000_000));
        let name = |number: usize| format!("gw-{number}").parse::<GatewayName>().unwrap();
        for _ in 0..REFUSALS_BURST {
            assert_eq!(refusals.due(&name(0), now), Some(1));
        }
        assert_eq!(refusals.due(&name(0), now), None);
        for number in 1..COUNTED_MAX {
            assert_eq!(refusals.due(&name(number), now), Some(1));
        }
        assert_eq!(refusals.due(&name(COUNTED_MAX), now), None, "full of what is recent");
        let later = UnixTime(now.0 + 100);
        assert_eq!(refusals.due(&name(COUNTED_MAX), later), Some(1));
        assert_eq!(refusals.due(&name(0), later), Some(2));
        assert_eq!(refusals.0.lock().unwrap().len(), 2);
    }
}
