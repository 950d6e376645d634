//! Join tokens. The text is shown once, to the operator; the database holds its SHA-256.

use std::time::Duration;

use edgewarden_names::{GatewayName, UnixTime};

use super::events::By;
use super::{Store, StoreError, from_json, parsed, signed, time, to_json};
use crate::selection::Labels;
use crate::text::labels_or_none;

/// Rights of a join token, as the operator gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub gateway: GatewayName,
    pub expires: UnixTime,
    /// A device without a TPM may use it.
    pub allow_software: bool,
    /// The labels that the gateway gets.
    pub labels: Labels,
}

/// Most failed tries with one token: then it is good for nothing.
pub const TOKEN_FAILURES_MAX: u32 = 16;
/// Time for which events and appraisals are kept of a name that has neither joined nor a token that is still good.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 86400);

/// State of a join token. `used` is the time of the enrolment that spent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub grant: Grant,
    pub used: Option<UnixTime>,
    /// Tries with it that were refused.
    pub failures: u32,
}

impl Store {
    /// Stores a token by its SHA-256, and drops those that ended more than 30 days ago.
    pub async fn add_token(&self, hash: &[u8; 32], grant: &Grant, now: UnixTime) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        // A token that nobody can use any more explains a refusal for a month, then goes, and with the last one of a name
        // that never joined, or was removed, what befell it.
        for statement in [
            "DELETE FROM join_token WHERE expires < ?",
            "DELETE FROM event WHERE operator = 0 AND at < ? AND gateway NOT IN (SELECT name FROM device) \
             AND gateway NOT IN (SELECT gateway FROM join_token)",
            "DELETE FROM attempt WHERE at < ? AND gateway NOT IN (SELECT name FROM device) \
             AND gateway NOT IN (SELECT gateway FROM join_token)",
        ] {
            sqlx::query(statement).bind(signed(now.minus(FORGOTTEN_AFTER).0)).execute(writing.sql()).await?;
        }
        sqlx::query(
            "INSERT INTO join_token (hash, gateway, created, expires, allow_software, labels) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(hash.as_slice())
        .bind(grant.gateway.as_str())
        .bind(signed(now.0))
        .bind(signed(grant.expires.0))
        .bind(grant.allow_software)
        .bind(to_json(&grant.labels)?)
        .execute(writing.sql())
        .await?;
        let hardware = if grant.allow_software { "with or without a TPM" } else { "with a TPM" };
        let text = format!("join token made: {hardware}, labels {}", labels_or_none(&grant.labels));
        writing.note(By::Operator, Some(&grant.gateway), &text, now).await?;
        writing.commit().await
    }

    /// Counts a refused try with a token.
    pub async fn count_failure(&self, hash: &[u8; 32]) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        sqlx::query("UPDATE join_token SET failures = failures + 1 WHERE hash = ?")
            .bind(hash.as_slice())
            .execute(writing.sql())
            .await?;
        writing.commit().await
    }

    /// The token with this SHA-256; `None` when there is none.
    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        let row: Option<(String, i64, Option<i64>, bool, String, i64)> = sqlx::query_as(
            "SELECT gateway, expires, used, allow_software, labels, failures FROM join_token WHERE hash = ?",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.readers)
        .await?;
        row.map(|(gateway, expires, used, allow_software, labels, failures)| {
            let grant = Grant {
                gateway: parsed(&gateway)?,
                expires: time(expires),
                allow_software,
                labels: from_json(&labels)?,
            };
            Ok(TokenRecord {
                grant,
                used: used.map(time),
                failures: u32::try_from(failures).unwrap_or(u32::MAX),
            })
        })
        .transpose()
    }
}
