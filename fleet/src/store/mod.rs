//! What the fleet knows, in one SQLite file.
//!
//! Trusts its own file. Everything that a peer may rely on (a spent token, a binding of name and TPM, an acknowledged
//! message) is committed with `synchronous=FULL` before the peer hears of it. One connection writes ([`writer`]); readers
//! read what it last committed (<https://www.sqlite.org/wal.html>).

pub mod deployments;
pub mod devices;
pub mod events;
pub mod jwt_keys;
mod lists;
pub mod messages;
pub mod secrets;
pub mod tokens;
pub mod trust;
mod writer;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use edgewarden_names::UnixTime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use writer::{Writer, Writing};

/// One entry a schema version; entry `n` leads from version `n` to `n + 1`. Entries are never edited, only added.
const MIGRATIONS: &[&str] = &[
    include_str!("schema-1.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
];

const READERS_MAX: u32 = 4;

/// SQLite's primary result codes for a disk that does not do as it is asked: `READONLY`, `IOERR`, `FULL`, `CANTOPEN`.
const DISK_CODES: [u32; 4] = [8, 10, 13, 14];

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
    #[error("the database holds something that does not read back: {0}")]
    Content(String),
    #[error("the database has schema version {0}; this program knows up to {known}", known = MIGRATIONS.len())]
    Newer(i64),
}

impl StoreError {
    /// Whether the disk is why: full, failing or read-only. Trying again succeeds once it is not.
    pub fn is_the_disk(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(_)) => true,
            Self::Sql(sqlx::Error::Database(error)) => {
                let code = error.code().and_then(|code| code.parse::<u32>().ok());
                // An extended code has the primary one in its lowest byte.
                code.is_some_and(|code| DISK_CODES.contains(&(code & 0xff)))
            }
            _ => false,
        }
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Writer,
    readers: SqlitePool,
    refusals: events::Refusals,
}

impl Store {
    /// Opens the database, makes it when it is not there, and brings its schema up to date.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        // SQLite would make it readable by all; its journal files take the mode of the database.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(file)
            .map_err(|error| StoreError::Sql(error.into()))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let writer = Writer::new(options.clone());
        migrate(&writer).await?;
        // They stay open: the last to close removes the files beside the database, and who opens it on a full disk
        // could not make them again.
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self { writer, readers, refusals: events::Refusals::default() })
    }

    /// Waits for what is running, then closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Every change goes through this.
    async fn begin(&self) -> Result<Writing<'_>, StoreError> {
        self.writer.begin().await
    }
}

async fn migrate(writer: &Writer) -> Result<(), StoreError> {
    loop {
        let mut writing = writer.begin().await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(writing.sql()).await?;
        let done = usize::try_from(version).unwrap_or(usize::MAX);
        let Some(due) = MIGRATIONS.get(done..) else { return Err(StoreError::Newer(version)) };
        let Some(migration) = due.first() else { return writing.abandon().await };
        sqlx::raw_sql(*migration).execute(writing.sql()).await?;
        // A pragma takes no bound parameter; this is a number of ours.
        let set = format!("PRAGMA user_version = {}", done + 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(writing.sql()).await?;
        writing.commit().await?;
    }
}

/// Numbers of the protocol are unsigned, those of SQLite signed: what does not fit is as large as can be.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn time(value: i64) -> UnixTime {
    UnixTime(unsigned(value))
}

fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Content(error.to_string()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Content(error.to_string()))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| StoreError::Content(error.to_string()))
}
