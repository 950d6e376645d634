//! Telemetry. A message is stored once, by (gateway, queue, sequence), and committed before it is acknowledged.
//!
//! At the cap the oldest messages of the gateway go, and how many is kept and shown.

use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_protocol::uplink::Message;
use serde::{Deserialize, Serialize};

use super::writer::Writing;
use super::{Store, StoreError, signed, time, unsigned};

/// What is kept of one gateway.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub messages: u64,
    pub bytes: u64,
    pub queues: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { messages: 100_000, bytes: 256 * 1024 * 1024, queues: 16 }
    }
}

/// Room that a message takes beside its payload, so that empty ones are not free.
const MESSAGE_OVERHEAD_BYTES: u64 = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    pub sequence: u64,
    pub at: UnixTime,
    pub from: String,
    pub topic: String,
    pub payload: edgewarden_protocol::Bytes,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCount {
    pub kept: u64,
    /// Dropped at the cap, oldest first.
    pub dropped: u64,
}

impl Store {
    /// Stores what is new of `messages`, all of one queue, and returns the highest sequence number that is stored.
    pub async fn add_messages(
        &self,
        gateway: &GatewayName,
        queue: &str,
        messages: &[Message],
        retention: Retention,
    ) -> Result<u64, StoreError> {
        let mut writing = self.begin().await?;
        sqlx::query(
            "INSERT INTO queue (gateway, queue, highest, forgotten_to, kept, bytes, dropped) \
             VALUES (?, ?, 0, -1, 0, 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(gateway.as_str())
        .bind(queue)
        .execute(writing.sql())
        .await?;
        let forgotten_to: i64 =
            sqlx::query_scalar("SELECT forgotten_to FROM queue WHERE gateway = ? AND queue = ?")
                .bind(gateway.as_str())
                .bind(queue)
                .fetch_one(writing.sql())
                .await?;
        let (mut kept, mut bytes, mut highest) = (0, 0, 0);
        for message in messages {
            let sequence = signed(message.sequence);
            highest = highest.max(sequence);
            if sequence <= forgotten_to {
                continue;
            }
            let inserted = sqlx::query(
                "INSERT INTO message (gateway, queue, sequence, at, sender, topic, payload) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(gateway.as_str())
            .bind(queue)
            .bind(sequence)
            .bind(signed(message.at.0))
            .bind(message.from.as_str())
            .bind(&message.topic)
            .bind(message.payload.as_slice())
            .execute(writing.sql())
            .await?
            .rows_affected();
            if inserted == 1 {
                kept += 1;
                bytes += room(message.payload.as_slice().len() as u64);
            }
        }
        let highest: i64 = sqlx::query_scalar(
            "UPDATE queue SET highest = max(highest, ?), kept = kept + ?, bytes = bytes + ? \
             WHERE gateway = ? AND queue = ? RETURNING highest",
        )
        .bind(highest)
        .bind(kept)
        .bind(signed(bytes))
        .bind(gateway.as_str())
        .bind(queue)
        .fetch_one(writing.sql())
        .await?;
        forget_oldest(&mut writing, gateway, retention).await?;
        forget_oldest_queues(&mut writing, gateway, queue, retention).await?;
        writing.commit().await?;
        Ok(unsigned(highest))
    }

    /// The newest first.
    pub async fn messages(&self, gateway: &GatewayName, last: u32) -> Result<Vec<StoredMessage>, StoreError> {
        let rows: Vec<(i64, i64, String, String, Vec<u8>)> = sqlx::query_as(
            "SELECT sequence, at, sender, topic, payload FROM message WHERE gateway = ? ORDER BY id DESC LIMIT ?",
        )
        .bind(gateway.as_str())
        .bind(i64::from(last))
        .fetch_all(&self.readers)
        .await?;
        let message = |(sequence, at, from, topic, payload): (i64, i64, String, String, Vec<u8>)| {
            StoredMessage { sequence: unsigned(sequence), at: time(at), from, topic, payload: payload.into() }
        };
        Ok(rows.into_iter().map(message).collect())
    }

    pub async fn message_count(&self, gateway: &GatewayName) -> Result<MessageCount, StoreError> {
        let (kept, dropped): (i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(kept), 0), coalesce(sum(dropped), 0) FROM queue WHERE gateway = ?",
        )
        .bind(gateway.as_str())
        .fetch_one(&self.readers)
        .await?;
        Ok(MessageCount { kept: unsigned(kept), dropped: unsigned(dropped) })
    }
}

fn room(payload: u64) -> u64 {
    payload.saturating_add(MESSAGE_OVERHEAD_BYTES)
}

async fn forget_oldest(
    writing: &mut Writing<'_>,
    gateway: &GatewayName,
    retention: Retention,
) -> Result<(), StoreError> {
    loop {
        let (kept, bytes): (i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(kept), 0), coalesce(sum(bytes), 0) FROM queue WHERE gateway = ?",
        )
        .bind(gateway.as_str())
        .fetch_one(writing.sql())
        .await?;
        let (mut kept, mut bytes) = (unsigned(kept), unsigned(bytes));
        if kept <= retention.messages && bytes <= retention.bytes {
            return Ok(());
        }
        let oldest: Vec<(i64, String, i64, i64)> = sqlx::query_as(
            "SELECT id, queue, sequence, length(payload) FROM message WHERE gateway = ? ORDER BY id LIMIT 1000",
        )
        .bind(gateway.as_str())
        .fetch_all(writing.sql())
        .await?;
        if oldest.is_empty() {
            return Ok(());
        }
        for (id, queue, sequence, length) in oldest {
            if kept <= retention.messages && bytes <= retention.bytes {
                break;
            }
            let size = room(unsigned(length));
            sqlx::query("DELETE FROM message WHERE id = ?").bind(id).execute(writing.sql()).await?;
            sqlx::query(
                "UPDATE queue SET kept = kept - 1, bytes = bytes - ?, dropped = dropped + 1, \
                 forgotten_to = max(forgotten_to, ?) WHERE gateway = ? AND queue = ?",
            )
            .bind(signed(size))
            .bind(sequence)
            .bind(gateway.as_str())
            .bind(&queue)
            .execute(writing.sql())
            .await?;
            kept = kept.saturating_sub(1);
            bytes = bytes.saturating_sub(size);
        }
    }
}

/// A gateway that lost its disk numbers a new queue. Old queues go when there are too many.
async fn forget_oldest_queues(
    writing: &mut Writing<'_>,
    gateway: &GatewayName,
    in_use: &str,
    retention: Retention,
) -> Result<(), StoreError> {
    let gone: Option<i64> = sqlx::query_scalar(
        "SELECT sum(kept + dropped) FROM queue WHERE gateway = ?1 AND rowid IN \
         (SELECT rowid FROM queue WHERE gateway = ?1 AND queue != ?2 ORDER BY rowid DESC LIMIT -1 OFFSET ?3)",
    )
    .bind(gateway.as_str())
    .bind(in_use)
    .bind(signed(retention.queues.saturating_sub(1)))
    .fetch_one(writing.sql())
    .await?;
    let Some(gone) = gone else { return Ok(()) };
    sqlx::query(
        "DELETE FROM queue WHERE gateway = ?1 AND rowid IN \
         (SELECT rowid FROM queue WHERE gateway = ?1 AND queue != ?2 ORDER BY rowid DESC LIMIT -1 OFFSET ?3)",
    )
    .bind(gateway.as_str())
    .bind(in_use)
    .bind(signed(retention.queues.saturating_sub(1)))
    .execute(writing.sql())
    .await?;
    sqlx::query("UPDATE queue SET dropped = dropped + ? WHERE gateway = ? AND queue = ?")
        .bind(gone)
        .bind(gateway.as_str())
        .bind(in_use)
        .execute(writing.sql())
        .await?;
    Ok(())
}
