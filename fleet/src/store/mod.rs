//! The fleet's store: all that it knows, in one SQLite file.
//!
//! Trusts its own file once it was looked at (`integrity`). Everything that a peer may rely on (a spent token, a
//! binding of name and TPM, an acknowledged message) is committed with `synchronous=FULL` before the peer hears of it.
//! One connection writes (`writer`); readers read what it last committed (<https://www.sqlite.org/wal.html>).

mod certificates;
pub mod deployments;
pub mod devices;
mod error;
pub mod events;
pub(crate) mod integrity;
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

use edgewarden_names::{Digest, ErrorChain, UnixTime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

pub use error::StoreError;
use writer::{Writer, Writing};

/// One entry a schema version; entry `n` leads from version `n` to `n + 1`. Entries are never edited, only added.
const MIGRATIONS: &[&str] = &[
    include_str!("schema-1.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
    include_str!("schema-6.sql"),
    include_str!("schema-7.sql"),
    include_str!("schema-8.sql"),
];
/// The first schema whose rows have seals.
const SEALED_SINCE: i64 = 6;
const READERS_MAX: u32 = 4;
/// Time between two readings of a running server's database from end to end.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Handle to the fleet's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Writer,
    readers: SqlitePool,
    refusals: events::Refusals,
}

impl Store {
    /// Opens the database, makes it when it is not there, and brings its schema up to date. One that is damaged is not
    /// opened.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        Self::try_open(file).await.map_err(StoreError::or_damage)
    }

    async fn try_open(file: &Path) -> Result<Self, StoreError> {
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
        let mut look = options.connect().await?;
        integrity::check_structure(&mut look).await?;
        let writer = Writer::new(options.clone());
        migrate(&writer).await?;
        check_columns(&mut look).await?;
        integrity::check_contents(&mut look).await?;
        look.close().await?;
        // They stay open: the last to close removes the files beside the database, and who opens it on a full disk
        // could not make them again.
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.read_only(true))
            .await?;
        let store = Self { writer, readers, refusals: events::Refusals::default() };
        store.recount_messages().await?;
        Ok(store)
    }

    /// Waits for what is running, then closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Looks at what is there, as [`Store::open`] does.
    pub async fn check(&self) -> Result<(), StoreError> {
        let check = async {
            let mut reader = self.readers.acquire().await?;
            integrity::check_structure(&mut reader).await?;
            integrity::check_contents(&mut reader).await
        };
        check.await.map_err(StoreError::or_damage)
    }

    /// `Ok` when the database can be read and written: after a write that failed another one is tried.
    pub async fn probe(&self) -> Result<(), StoreError> {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM fleet").fetch_one(&self.readers).await?;
        if let (_, false) = self.writer.failures() {
            return Ok(());
        }
        let mut writing = self.begin().await?;
        sqlx::query("UPDATE fleet SET root = root").execute(writing.sql()).await?;
        writing.commit().await
    }

    /// Writes that came to no end, since the start.
    pub fn failures(&self) -> u64 {
        self.writer.failures().0
    }

    /// Looks again and again while the server runs. What it finds is for operators: what is served stays served, because a
    /// fleet that stops helps nobody who reads the log a day later.
    pub async fn look_often(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = match self.check().await {
                Ok(()) => self.recount_messages().await,
                damaged => damaged,
            };
            let Err(error) = looked else { continue };
            let text = ErrorChain(&error).to_string();
            if !matches!(error, StoreError::Damaged(_)) {
                tracing::warn!(
                    error = text,
                    "the database was not looked at; the next look is in some hours"
                );
                continue;
            }
            tracing::error!(error = text, "the database is not what was written");
            if let Err(error) = self.add_event(events::By::Operator, None, &text, UnixTime::now()).await {
                tracing::error!(error = %ErrorChain(&error), "the event is not kept");
            }
        }
    }

    /// Binds the database to the fleet with this root. [`StoreError::OtherFleet`] when it is bound to another.
    pub async fn bind(&self, root: &Digest) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        let bound: Option<String> =
            sqlx::query_scalar("SELECT root FROM fleet").fetch_optional(writing.sql()).await?;
        match bound {
            None => {
                sqlx::query("INSERT INTO fleet (root) VALUES (?)")
                    .bind(root.as_str())
                    .execute(writing.sql())
                    .await?;
                writing.commit().await
            }
            Some(bound) => {
                writing.abandon().await?;
                if bound == root.as_str() { Ok(()) } else { Err(StoreError::OtherFleet) }
            }
        }
    }

    /// Every change goes through this.
    async fn begin(&self) -> Result<Writing<'_>, StoreError> {
        self.writer.begin().await
    }
}

/// The columns that a database of this program has: what statements rest on, and a changed bit in the schema renames.
async fn columns(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT quote(m.name) || '.' || quote(c.name) || ' ' || c.type || c.\"notnull\" || c.pk FROM sqlite_schema m, \
         pragma_table_xinfo(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY 1",
    )
    .fetch_all(connection)
    .await
}

async fn check_columns(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut fresh = SqliteConnectOptions::new().in_memory(true).connect().await?;
    for migration in MIGRATIONS {
        sqlx::raw_sql(*migration).execute(&mut fresh).await?;
    }
    let expected = columns(&mut fresh).await?;
    fresh.close().await?;
    if columns(connection).await? == expected {
        return Ok(());
    }
    Err(StoreError::Damaged("its tables have other columns than were made".into()))
}

async fn migrate(writer: &Writer) -> Result<(), StoreError> {
    loop {
        let mut writing = writer.begin().await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(writing.sql()).await?;
        let done = usize::try_from(version).unwrap_or(usize::MAX);
        let Some(due) = MIGRATIONS.get(done..) else {
            return Err(StoreError::Newer { found: version, known: MIGRATIONS.len() });
        };
        let Some(migration) = due.first() else { return writing.abandon().await };
        sqlx::raw_sql(*migration).execute(writing.sql()).await?;
        // A pragma takes no bound parameter; this is a number of ours.
        let set = format!("PRAGMA user_version = {}", done + 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(writing.sql()).await?;
        // What is sealed are the tables of the newest schema. Whoever is interrupted before that goes on here.
        if due.len() > 1 {
            writing.commit_unsealed().await?;
        } else {
            writing.commit().await?;
        }
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
