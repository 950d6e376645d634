//! Checks that the database is what was written.
//!
//! SQLite finds pages, indexes and types that do not fit (`integrity_check`); a changed bit within a value it does not see.
//! So each row that somebody may come to rely on carries a digest of its columns, and what is too large for that carries,
//! or is named by, one of its own. Against accidents: who can write the file can also write digests, and has the root's
//! key beside it.
//!
//! Not covered: when a gateway was last seen and what it reported then, what it said of its secrets, and how much is kept
//! of its queue. All of it comes again with its next call, or is counted anew.

use std::sync::LazyLock;

use aws_lc_rs::digest::{Context, SHA256};
use edgewarden_names::Digest;
use sqlx::SqliteConnection;

use super::writer::Writing;
use super::{SEALED_SINCE, StoreError};

const SEAL_BYTES: usize = 16;
/// A larger database is not read from end to end before it is served, only what is relied on.
const WHOLE_CHECK_BYTES_MAX: i64 = 1 << 30;
/// Findings that are told.
const FINDINGS_MAX: usize = 10;

struct Sealed {
    table: &'static str,
    columns: &'static [&'static str],
    /// The schema that brought the table.
    since: i64,
}

/// As the triggers of `schema-6.sql`, and of those that brought a table since, have them.
const SEALED: &[Sealed] = &[
    Sealed::of("device", &["name", "endorsement", "attestation", "labels", "enrolled", "verdict", "refusal"]),
    Sealed::of("gateway_ca", &["key_digest", "gateway", "issued"]),
    Sealed::of(
        "join_token",
        &["hash", "gateway", "created", "expires", "used", "allow_software", "labels", "failures"],
    ),
    Sealed::of("attempt", &["id", "gateway", "at", "verdict", "refusal", "evidence", "log_digest"]),
    Sealed::of("reference", &["name", "origin", "added", "body"]),
    Sealed::of("vendor_root", &["digest", "subject", "pem", "added"]),
    Sealed::of("operator_key", &["name", "point", "added"]),
    Sealed::of("deployment", &["id", "digest", "name", "version", "selector", "signer", "stored"]),
    Sealed::of("secret", &["gateway", "module", "name", "version", "removed", "signer", "stored", "digest"]),
    Sealed::of("jwt_keys", &["gateway", "sequence", "keys"]),
    Sealed::of("event", &["id", "at", "gateway", "reason", "text", "operator", "times"]),
    Sealed::of("fleet", &["root"]),
    Sealed { table: "certificate", columns: &["gateway", "overdue", "ends", "told"], since: 8 },
];

/// Rows that are looked at together.
const PAGE: i64 = 1000;

impl Sealed {
    const fn of(table: &'static str, columns: &'static [&'static str]) -> Self {
        Self { table, columns, since: SEALED_SINCE }
    }

    /// SQL expression of the text of a row that its seal covers: no two rows have the same.
    fn text(&self) -> String {
        let columns = self.columns.iter().map(|column| format!("quote({column})")).collect::<Vec<_>>();
        columns.join(" || ',' || ")
    }
}

/// Table, row and text of the rows without a seal.
static UNSEALED: LazyLock<String> = LazyLock::new(|| {
    let select = |sealed: &Sealed| {
        let (table, text) = (sealed.table, sealed.text());
        format!("SELECT '{table}', rowid, {text} FROM {table} WHERE seal IS NULL")
    };
    SEALED.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ")
});

fn seal(table: &str, text: &str) -> [u8; SEAL_BYTES] {
    let mut hash = Context::new(&SHA256);
    for part in ["edgewarden fleet row v1", table, text] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut seal = [0; SEAL_BYTES];
    for (place, byte) in seal.iter_mut().zip(hash.finish().as_ref()) {
        *place = *byte;
    }
    seal
}

impl Writing<'_> {
    /// Seals what this transaction has changed.
    pub(super) async fn seal_changed(&mut self) -> Result<(), StoreError> {
        let changed: Vec<(String, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(UNSEALED.as_str())).fetch_all(self.sql()).await?;
        for (table, row, text) in changed {
            let update = format!("UPDATE {table} SET seal = ? WHERE rowid = ?");
            sqlx::query(sqlx::AssertSqlSafe(update))
                .bind(seal(&table, &text).as_slice())
                .bind(row)
                .execute(self.sql())
                .await?;
        }
        Ok(())
    }
}

/// SQLite's own check (`integrity_check`), over all of a small database and over the sealed tables of a large one.
/// Findings are `StoreError::Damaged`.
pub(crate) async fn check_structure(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let bytes: i64 =
        sqlx::query_scalar("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            .fetch_one(&mut *connection)
            .await?;
    let pragmas = if bytes <= WHOLE_CHECK_BYTES_MAX {
        vec![format!("PRAGMA integrity_check({FINDINGS_MAX})")]
    } else {
        let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .fetch_all(&mut *connection)
            .await?;
        let relied_on =
            SEALED.iter().map(|sealed| sealed.table).filter(|name| tables.iter().any(|t| t == name));
        relied_on.map(|table| format!("PRAGMA integrity_check('{table}')")).collect()
    };
    let mut findings: Vec<String> = Vec::new();
    for pragma in pragmas {
        let found: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(pragma)).fetch_all(&mut *connection).await?;
        findings.extend(found.into_iter().filter(|finding| finding != "ok"));
    }
    told(findings)
}

/// Each row by its seal, each envelope by its digest.
pub(crate) async fn check_contents(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    if version < SEALED_SINCE {
        return Ok(());
    }
    let mut findings = Vec::new();
    for sealed in SEALED.iter().filter(|sealed| sealed.since <= version) {
        let (table, text) = (sealed.table, sealed.text());
        let page = format!("SELECT rowid, seal, {text} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?");
        let mut after = i64::MIN;
        loop {
            let rows: Vec<(i64, Option<Vec<u8>>, String)> = sqlx::query_as(sqlx::AssertSqlSafe(page.clone()))
                .bind(after)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
            let Some((last, ..)) = rows.last() else { break };
            after = *last;
            for (row, held, text) in &rows {
                if held.as_deref() != Some(seal(table, text).as_slice()) {
                    findings.push(format!("row {row} of `{table}` is not what was written"));
                }
            }
        }
    }
    for table in ["deployment", "secret"] {
        let list = format!("SELECT rowid FROM {table}");
        let rows: Vec<i64> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(list)).fetch_all(&mut *connection).await?;
        for row in rows {
            // Both at once, from a row that a running server may have changed or removed since the list was made.
            let one = format!("SELECT digest, envelope FROM {table} WHERE rowid = ?");
            let found: Option<(String, Vec<u8>)> =
                sqlx::query_as(sqlx::AssertSqlSafe(one)).bind(row).fetch_optional(&mut *connection).await?;
            let Some((digest, envelope)) = found else { continue };
            if Digest::of(&envelope).as_str() != digest {
                findings.push(format!("the envelope in row {row} of `{table}` is not what was written"));
            }
        }
    }
    told(findings)
}

/// Bytes that are what their digest says.
pub(super) fn named_by(digest: &Digest, bytes: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, StoreError> {
    match bytes {
        Some(bytes) if Digest::of(&bytes) != *digest => {
            Err(StoreError::Damaged(format!("what is kept as {digest} is not what was written")))
        }
        bytes => Ok(bytes),
    }
}

fn told(findings: Vec<String>) -> Result<(), StoreError> {
    if findings.is_empty() {
        return Ok(());
    }
    let more = findings.len().saturating_sub(FINDINGS_MAX);
    let mut told: Vec<String> = findings.into_iter().take(FINDINGS_MAX).collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    Err(StoreError::Damaged(told.join("; ")))
}
