//! The one door for whoever changes the database.
//!
//! Trusts SQLite's own word on transactions only, never a count of them kept elsewhere: `BEGIN` is refused while a
//! transaction is open and `COMMIT` while none is, so a commit that succeeded is one of the whole transaction.
//! A connection comes back here by a commit or a rollback that SQLite confirmed. After any error, and when a write is
//! dropped half done, it is closed, which rolls back, and the next write opens another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgewarden_metrics::Counter;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::error::StoreError;

/// Cheap to clone; one write at a time.
#[derive(Debug, Clone)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: SqliteConnectOptions,
    /// Outside of every transaction. Absent after an error.
    idle: Mutex<Option<SqliteConnection>>,
    /// Writes that came to no end.
    failures: Counter,
    /// So did the newest of them that was to be kept.
    failed: AtomicBool,
}

/// Counts a write that is given up.
#[derive(Debug)]
struct Unfinished<'a>(Option<&'a Shared>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.failures.inc();
            shared.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// A transaction. Dropping it closes its connection, which rolls it back.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    // Before the lock, so that it is gone before the next writer comes.
    connection: SqliteConnection,
    idle: MutexGuard<'a, Option<SqliteConnection>>,
    unfinished: Unfinished<'a>,
}

impl Writer {
    /// For a database that is there: what was removed meanwhile is not made anew.
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        let options = options.create_if_missing(false);
        let (idle, failures, failed) = (Mutex::new(None), Counter::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { options, idle, failures, failed }))
    }

    /// Writes that came to no end, and whether the newest is one of them.
    pub(super) fn failures(&self) -> (u64, bool) {
        (self.0.failures.get(), self.0.failed.load(Ordering::Relaxed))
    }

    /// Waits for the write before it. Holds SQLite's write lock from the start, so that what is read in it stays true.
    pub(super) async fn begin(&self) -> Result<Writing<'_>, StoreError> {
        let mut idle = self.0.idle.lock().await;
        let unfinished = Unfinished(Some(&self.0));
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => self.0.options.connect().await?,
        };
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Writing { connection, idle, unfinished })
    }

    /// Waits for the write under way, then closes the file.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.0.idle.lock().await.take() {
            // What was committed is in the file or in its log, however the closing goes.
            drop(connection.close().await);
        }
    }
}

impl Writing<'_> {
    /// The connection of this transaction, to execute statements on.
    pub(super) fn sql(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// On disk when it returns. After an error it may be or not: nobody may be told that it is.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.seal_changed().await?;
        self.commit_unsealed().await
    }

    /// The same for a schema before the newest.
    pub(super) async fn commit_unsealed(self) -> Result<(), StoreError> {
        let shared = self.unfinished.0;
        self.end("COMMIT").await?;
        if let Some(shared) = shared {
            shared.failed.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Leaves everything as it was.
    pub(super) async fn abandon(self) -> Result<(), StoreError> {
        self.end("ROLLBACK").await
    }

    async fn end(self, statement: &'static str) -> Result<(), StoreError> {
        let Self { mut connection, mut idle, mut unfinished } = self;
        sqlx::raw_sql(statement).execute(&mut connection).await?;
        unfinished.0 = None;
        *idle = Some(connection);
        Ok(())
    }
}
