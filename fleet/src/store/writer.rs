//! The one door for whoever changes the database.
//!
//! Trusts SQLite's own word on transactions only, never a count of them kept elsewhere: `BEGIN` is refused while a
//! transaction is open and `COMMIT` while none is, so a commit that succeeded is one of the whole transaction.
//! A connection comes back here by a commit or a rollback that SQLite confirmed. After any error, and when a write is
//! dropped half done, it is closed, which rolls back, and the next write opens another.

use std::sync::Arc;

use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::StoreError;

/// Cheap to clone; one write at a time.
#[derive(Debug, Clone)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: SqliteConnectOptions,
    /// Outside of every transaction. Absent after an error.
    idle: Mutex<Option<SqliteConnection>>,
}

/// A transaction. Dropping it closes its connection, which rolls it back.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    // Before the lock, so that it is gone before the next writer comes.
    connection: SqliteConnection,
    idle: MutexGuard<'a, Option<SqliteConnection>>,
}

impl Writer {
    /// For a database that is there: what was removed meanwhile is not made anew.
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        let options = options.create_if_missing(false);
        Self(Arc::new(Shared { options, idle: Mutex::new(None) }))
    }

    /// Waits for the write before it. Holds SQLite's write lock from the start, so that what is read in it stays true.
    pub(super) async fn begin(&self) -> Result<Writing<'_>, StoreError> {
        let mut idle = self.0.idle.lock().await;
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => self.0.options.connect().await?,
        };
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Writing { connection, idle })
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
    /// Where statements are executed.
    pub(super) fn sql(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// On disk when it returns. After an error it may be or not: nobody may be told that it is.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.seal_changed().await?;
        self.end("COMMIT").await
    }

    /// The same for a schema before the newest.
    pub(super) async fn commit_unsealed(self) -> Result<(), StoreError> {
        self.end("COMMIT").await
    }

    /// Leaves everything as it was.
    pub(super) async fn abandon(self) -> Result<(), StoreError> {
        self.end("ROLLBACK").await
    }

    async fn end(self, statement: &'static str) -> Result<(), StoreError> {
        let Self { mut connection, mut idle } = self;
        sqlx::raw_sql(statement).execute(&mut connection).await?;
        *idle = Some(connection);
        Ok(())
    }
}
