//! Telemetry. A message is stored once, by (gateway, epoch, sequence), and committed before it is acknowledged.
//!
//! Another message under a number that is known is a conflict, never a repetition: a gateway that runs from an older
//! copy of its disk gives out numbers again, and what it sends under them is not lost. At the cap the oldest messages of
//! the gateway go, and how many is kept and shown; the newest of those that went are still known by their digests.
//! The column `queue` holds the epoch ([`edgewarden_protocol::uplink::Message::queue`]).

use aws_lc_rs::digest::{Context, SHA256};
use edgewarden_names::{GatewayName, Reason, UnixTime};
use edgewarden_protocol::uplink::Message;
use serde::{Deserialize, Serialize};

use super::writer::Writing;
use super::{Store, StoreError, signed, time, unsigned};

/// The most that is kept of one gateway; the oldest goes.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub messages: u64,
    /// Payloads, topics, senders, and what a row takes beside them.
    pub bytes: u64,
    /// Epochs: one for each start of the gateway's broker.
    pub queues: u64,
    /// Dropped messages that are known when they are sent again.
    pub receipts: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { messages: 100_000, bytes: 256 * 1024 * 1024, queues: 1024, receipts: 10_000 }
    }
}

/// Room that a message takes beside its own bytes: names, numbers, digest, three entries of indexes. Also in
/// `schema-5.sql`.
const MESSAGE_OVERHEAD_BYTES: u64 = 512;
const DIGEST_BYTES: usize = 16;
/// The same for each number, so that conflicts without end are one row of events.
const CONFLICT: &str = "other messages than before under known numbers";
/// SQL expression: count and bytes of a queue's rows in `message`, against what `queue` says of them.
const COUNTED: &str = "(SELECT count(*), \
     coalesce(sum(octet_length(sender) + octet_length(topic) + octet_length(payload) + 512), 0) FROM message \
     WHERE message.gateway = queue.gateway AND message.queue = queue.queue)";

/// One message as the fleet keeps it; `sequence` is its number within the gateway's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    pub sequence: u64,
    pub at: UnixTime,
    pub from: String,
    pub topic: String,
    pub payload: edgewarden_protocol::Bytes,
    /// It is not what was stored: the disk has changed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
}

/// Counts of a gateway's messages, over all epochs of its queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCount {
    pub kept: u64,
    /// Dropped at the cap, oldest first.
    pub dropped: u64,
}

/// Outcome of storing a batch of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedMessages {
    /// The highest sequence number up to which all of the epoch is stored.
    pub stored: u64,
    /// The first number that another message has. Nothing from there on was stored.
    pub conflict: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    No,
    Same,
    /// Or too old to tell: then it is better stored twice than lost.
    Other,
}

type Digest = [u8; DIGEST_BYTES];

type MessageRow = (i64, i64, Vec<u8>, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

type Content<'a> = (u64, &'a str, &'a str, &'a [u8]);

/// Of time, sender, topic and payload, each text behind its length.
fn digest((at, sender, topic, payload): Content<'_>) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(&at.to_be_bytes());
    for field in [sender.as_bytes(), topic.as_bytes(), payload] {
        hash.update(&(field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    let mut digest = [0; DIGEST_BYTES];
    for (place, byte) in digest.iter_mut().zip(hash.finish().as_ref()) {
        *place = *byte;
    }
    digest
}

fn digest_of(message: &Message) -> Digest {
    digest((message.at.0, message.from.as_str(), &message.topic, message.payload.as_slice()))
}

fn room(message: &Message) -> u64 {
    let bytes = message.from.as_str().len() + message.topic.len() + message.payload.as_slice().len();
    (bytes as u64).saturating_add(MESSAGE_OVERHEAD_BYTES)
}

impl Store {
    /// Stores what is new of `messages`, all of one epoch and ascending, up to the first conflict.
    pub async fn add_messages(
        &self,
        gateway: &GatewayName,
        epoch: &str,
        messages: &[Message],
        retention: Retention,
        now: UnixTime,
    ) -> Result<AddedMessages, StoreError> {
        let mut writing = self.begin().await?;
        sqlx::query(
            "INSERT INTO queue (gateway, queue, highest, forgotten_to, kept, bytes, dropped) \
             VALUES (?, ?, 0, -1, 0, 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(gateway.as_str())
        .bind(epoch)
        .execute(writing.sql())
        .await?;
        let (known_to, forgotten_to): (i64, i64) =
            sqlx::query_as("SELECT highest, forgotten_to FROM queue WHERE gateway = ? AND queue = ?")
                .bind(gateway.as_str())
                .bind(epoch)
                .fetch_one(writing.sql())
                .await?;
        let (mut kept, mut bytes, mut highest, mut conflict) = (0, 0, known_to, None);
        for message in messages {
            let digest = digest_of(message);
            let sequence = signed(message.sequence);
            if sequence <= known_to {
                match writing.known(gateway, epoch, sequence, &digest, forgotten_to).await? {
                    Known::No => {}
                    Known::Same => continue,
                    Known::Other => {
                        conflict = Some(message.sequence);
                        break;
                    }
                }
            }
            sqlx::query(
                "INSERT INTO message (gateway, queue, sequence, at, sender, topic, payload, digest) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(gateway.as_str())
            .bind(epoch)
            .bind(sequence)
            .bind(signed(message.at.0))
            .bind(message.from.as_str())
            .bind(&message.topic)
            .bind(message.payload.as_slice())
            .bind(digest.as_slice())
            .execute(writing.sql())
            .await?;
            kept += 1;
            bytes += room(message);
            highest = highest.max(sequence);
        }
        sqlx::query(
            "UPDATE queue SET highest = ?, kept = kept + ?, bytes = bytes + ? WHERE gateway = ? AND queue = ?",
        )
        .bind(highest)
        .bind(kept)
        .bind(signed(bytes))
        .bind(gateway.as_str())
        .bind(epoch)
        .execute(writing.sql())
        .await?;
        if conflict.is_some() {
            writing.note_refusal(gateway, Reason::QueueConflict, CONFLICT, 1, now).await?;
        }
        let batch = Kept { messages: unsigned(kept), bytes };
        writing.forget_oldest(gateway, retention, batch).await?;
        writing.forget_receipts(gateway, retention).await?;
        writing.forget_oldest_queues(gateway, epoch, retention).await?;
        writing.commit().await?;
        let stored = conflict.map_or(unsigned(highest), |sequence| sequence.saturating_sub(1));
        Ok(AddedMessages { stored, conflict })
    }

    /// Puts counters right that are not what the rows say. Writes nothing when all are.
    pub(super) async fn recount_messages(&self) -> Result<(), StoreError> {
        let find = format!("SELECT rowid FROM queue WHERE (kept, bytes) != {COUNTED}");
        let wrong: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(find)).fetch_all(&self.readers).await?;
        if wrong.is_empty() {
            return Ok(());
        }
        tracing::warn!(queues = wrong.len(), "counters of kept messages were wrong and are counted anew");
        let update = format!("UPDATE queue SET (kept, bytes) = {COUNTED} WHERE rowid = ?");
        let mut writing = self.begin().await?;
        for row in wrong {
            sqlx::query(sqlx::AssertSqlSafe(update.clone())).bind(row).execute(writing.sql()).await?;
        }
        writing.commit().await
    }

    /// At most `last` messages of a gateway, the newest first.
    pub async fn messages(&self, gateway: &GatewayName, last: u32) -> Result<Vec<StoredMessage>, StoreError> {
        let rows: Vec<MessageRow> = sqlx::query_as(
            "SELECT sequence, at, CAST(sender AS BLOB), CAST(topic AS BLOB), payload, digest FROM message \
             WHERE gateway = ? ORDER BY id DESC LIMIT ?",
        )
        .bind(gateway.as_str())
        .bind(i64::from(last))
        .fetch_all(&self.readers)
        .await?;
        let message = |(sequence, at, from, topic, payload, kept): MessageRow| {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let (from, topic) = (text(from), text(topic));
            let now = digest((unsigned(at), &from, &topic, &payload));
            let damaged = kept.is_some_and(|kept| kept != now);
            let (sequence, at, payload) = (unsigned(sequence), time(at), payload.into());
            StoredMessage { sequence, at, from, topic, payload, damaged }
        };
        Ok(rows.into_iter().map(message).collect())
    }

    /// Counts of a gateway's messages; zeros for one that has sent none.
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

/// Messages and their room.
#[derive(Debug, Clone, Copy)]
struct Kept {
    messages: u64,
    bytes: u64,
}

type OldestRow = (i64, String, i64, i64, Option<Vec<u8>>);

/// One that is to go.
struct Oldest {
    id: i64,
    queue: String,
    sequence: i64,
    /// As it was charged.
    size: u64,
    digest: Option<Vec<u8>>,
}

impl Writing<'_> {
    async fn known(
        &mut self,
        gateway: &GatewayName,
        epoch: &str,
        sequence: i64,
        offered: &Digest,
        forgotten_to: i64,
    ) -> Result<Known, StoreError> {
        let kept: Option<(i64, Option<Vec<u8>>)> = sqlx::query_as(
            "SELECT id, digest FROM message WHERE gateway = ?1 AND queue = ?2 AND sequence = ?3 UNION ALL \
             SELECT id, digest FROM receipt WHERE gateway = ?1 AND queue = ?2 AND sequence = ?3",
        )
        .bind(gateway.as_str())
        .bind(epoch)
        .bind(sequence)
        .fetch_optional(self.sql())
        .await?;
        let stored = match kept {
            None if sequence <= forgotten_to => return Ok(Known::Other),
            None => return Ok(Known::No),
            Some((_, Some(digest))) => digest,
            Some((id, None)) => self.digest_from_before(id).await?.to_vec(),
        };
        Ok(if stored == offered { Known::Same } else { Known::Other })
    }

    /// The digest of a message that was stored without one.
    async fn digest_from_before(&mut self, id: i64) -> Result<Digest, StoreError> {
        let (at, sender, topic, payload): (i64, String, String, Vec<u8>) =
            sqlx::query_as("SELECT at, sender, topic, payload FROM message WHERE id = ?")
                .bind(id)
                .fetch_one(self.sql())
                .await?;
        Ok(digest((unsigned(at), &sender, &topic, &payload)))
    }

    /// Nothing seals the counters. One that asks for more than `batch` has brought is not believed: deleting by it could
    /// take all that there is, and each later message as it comes.
    async fn forget_oldest(
        &mut self,
        gateway: &GatewayName,
        retention: Retention,
        batch: Kept,
    ) -> Result<(), StoreError> {
        let mut recounted = false;
        loop {
            let (kept, bytes): (i64, i64) = sqlx::query_as(
                "SELECT coalesce(sum(kept), 0), coalesce(sum(bytes), 0) FROM queue WHERE gateway = ?",
            )
            .bind(gateway.as_str())
            .fetch_one(self.sql())
            .await?;
            let impossible = kept < 0 || bytes < 0;
            let (mut kept, mut bytes) = (unsigned(kept), unsigned(bytes));
            let surplus = Kept {
                messages: kept.saturating_sub(retention.messages),
                bytes: bytes.saturating_sub(retention.bytes),
            };
            let implausible = surplus.messages > batch.messages || surplus.bytes > batch.bytes;
            if (impossible || implausible) && !recounted {
                self.recount(gateway).await?;
                recounted = true;
                continue;
            }
            if surplus.messages == 0 && surplus.bytes == 0 {
                return Ok(());
            }
            let oldest: Vec<OldestRow> = sqlx::query_as(
                "SELECT id, queue, sequence, octet_length(sender) + octet_length(topic) + octet_length(payload), \
                 digest FROM message WHERE gateway = ? ORDER BY id LIMIT 1000",
            )
            .bind(gateway.as_str())
            .fetch_all(self.sql())
            .await?;
            if oldest.is_empty() {
                return self.recount(gateway).await;
            }
            for (id, queue, sequence, bytes_of, digest) in oldest {
                if kept <= retention.messages && bytes <= retention.bytes {
                    break;
                }
                let size = unsigned(bytes_of).saturating_add(MESSAGE_OVERHEAD_BYTES);
                self.forget(gateway, Oldest { id, queue, sequence, size, digest }).await?;
                kept = kept.saturating_sub(1);
                bytes = bytes.saturating_sub(size);
            }
        }
    }

    async fn recount(&mut self, gateway: &GatewayName) -> Result<(), StoreError> {
        let update = format!("UPDATE queue SET (kept, bytes) = {COUNTED} WHERE gateway = ?");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(gateway.as_str()).execute(self.sql()).await?;
        Ok(())
    }

    async fn forget(&mut self, gateway: &GatewayName, message: Oldest) -> Result<(), StoreError> {
        let digest = match message.digest {
            Some(digest) => digest,
            None => self.digest_from_before(message.id).await?.to_vec(),
        };
        sqlx::query("INSERT INTO receipt (id, gateway, queue, sequence, digest) VALUES (?, ?, ?, ?, ?)")
            .bind(message.id)
            .bind(gateway.as_str())
            .bind(&message.queue)
            .bind(message.sequence)
            .bind(digest)
            .execute(self.sql())
            .await?;
        sqlx::query("DELETE FROM message WHERE id = ?").bind(message.id).execute(self.sql()).await?;
        sqlx::query(
            "UPDATE queue SET kept = kept - 1, bytes = bytes - ?, dropped = dropped + 1 WHERE gateway = ? AND queue = ?",
        )
        .bind(signed(message.size))
        .bind(gateway.as_str())
        .bind(&message.queue)
        .execute(self.sql())
        .await?;
        Ok(())
    }

    async fn forget_receipts(
        &mut self,
        gateway: &GatewayName,
        retention: Retention,
    ) -> Result<(), StoreError> {
        let last: Option<i64> =
            sqlx::query_scalar("SELECT id FROM receipt WHERE gateway = ? ORDER BY id DESC LIMIT 1 OFFSET ?")
                .bind(gateway.as_str())
                .bind(signed(retention.receipts))
                .fetch_optional(self.sql())
                .await?;
        let Some(last) = last else { return Ok(()) };
        sqlx::query(
            "UPDATE queue SET forgotten_to = max(forgotten_to, gone.sequence) FROM \
             (SELECT queue, max(sequence) AS sequence FROM receipt WHERE gateway = ?1 AND id <= ?2 GROUP BY queue) gone \
             WHERE queue.gateway = ?1 AND queue.queue = gone.queue",
        )
        .bind(gateway.as_str())
        .bind(last)
        .execute(self.sql())
        .await?;
        sqlx::query("DELETE FROM receipt WHERE gateway = ? AND id <= ?")
            .bind(gateway.as_str())
            .bind(last)
            .execute(self.sql())
            .await?;
        Ok(())
    }

    /// Epochs of which nothing is kept go first, the oldest of them before the others.
    async fn forget_oldest_queues(
        &mut self,
        gateway: &GatewayName,
        in_use: &str,
        retention: Retention,
    ) -> Result<(), StoreError> {
        let gone: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT rowid, kept + dropped FROM queue WHERE gateway = ? AND queue != ? \
             ORDER BY kept > 0 DESC, rowid DESC LIMIT -1 OFFSET ?",
        )
        .bind(gateway.as_str())
        .bind(in_use)
        .bind(signed(retention.queues.saturating_sub(1)))
        .fetch_all(self.sql())
        .await?;
        for (row, messages) in gone {
            sqlx::query("DELETE FROM queue WHERE rowid = ?").bind(row).execute(self.sql()).await?;
            sqlx::query("UPDATE queue SET dropped = dropped + ? WHERE gateway = ? AND queue = ?")
                .bind(messages)
                .bind(gateway.as_str())
                .bind(in_use)
                .execute(self.sql())
                .await?;
        }
        Ok(())
    }
}
