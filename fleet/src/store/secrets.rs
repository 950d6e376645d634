//! Sealed secrets, and what gateways say of them.

use edgewarden_names::{Digest, GatewayName, ModuleName, SecretName, UnixTime};
use edgewarden_protocol::secret::{ENTRIES_MAX, SecretDocument};
use edgewarden_protocol::uplink::SecretsSync;

use super::events::By;
use super::integrity::named_by;
use super::{Store, StoreError, parsed, signed, time, to_json, unsigned};

/// A sealed secret without its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub gateway: GatewayName,
    pub module: ModuleName,
    pub name: SecretName,
    pub version: u64,
    pub removed: bool,
    pub signer: String,
    pub stored: UnixTime,
    pub digest: Digest,
}

/// Outcome of storing a new version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Stored,
    /// It is not above this one.
    NotAbove(u64),
    /// The gateway has as many names as it may have.
    TooMany,
}

type Row = (String, String, String, i64, bool, String, i64, String);

fn secret(row: Row) -> Result<StoredSecret, StoreError> {
    let (gateway, module, name, version, removed, signer, stored, digest) = row;
    Ok(StoredSecret {
        gateway: parsed(&gateway)?,
        module: parsed(&module)?,
        name: parsed(&name)?,
        version: unsigned(version),
        removed,
        signer,
        stored: time(stored),
        digest: parsed(&digest)?,
    })
}

impl Store {
    /// Keeps a version of a secret in the place of the one before.
    pub async fn add_secret(
        &self,
        document: &SecretDocument,
        removed: bool,
        signer: &str,
        digest: &Digest,
        envelope: &[u8],
        now: UnixTime,
    ) -> Result<Added, StoreError> {
        let mut writing = self.begin().await?;
        let (gateway, module, name) =
            (document.gateway.as_str(), document.module.as_str(), document.name.as_str());
        let before: Option<i64> =
            sqlx::query_scalar("SELECT version FROM secret WHERE gateway = ? AND module = ? AND name = ?")
                .bind(gateway)
                .bind(module)
                .bind(name)
                .fetch_optional(writing.sql())
                .await?;
        if let Some(before) = before.map(unsigned).filter(|before| document.version <= *before) {
            writing.abandon().await?;
            return Ok(Added::NotAbove(before));
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM secret WHERE gateway = ?")
            .bind(gateway)
            .fetch_one(writing.sql())
            .await?;
        if before.is_none() && usize::try_from(count).unwrap_or(usize::MAX) >= ENTRIES_MAX {
            writing.abandon().await?;
            return Ok(Added::TooMany);
        }
        sqlx::query(
            "INSERT OR REPLACE INTO secret (gateway, module, name, version, removed, signer, stored, digest, envelope) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(gateway)
        .bind(module)
        .bind(name)
        .bind(signed(document.version))
        .bind(removed)
        .bind(signer)
        .bind(signed(now.0))
        .bind(digest.as_str())
        .bind(envelope)
        .execute(writing.sql())
        .await?;
        let what = if removed { "removal of secret" } else { "secret" };
        let text = format!("{what} {} stored, signed by {signer}", document.subject());
        writing.note(By::Operator, Some(&document.gateway), &text, now).await?;
        writing.commit().await?;
        Ok(Added::Stored)
    }

    /// All secrets of one gateway, or of all gateways.
    pub async fn secrets(&self, gateway: Option<&GatewayName>) -> Result<Vec<StoredSecret>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT gateway, module, name, version, removed, signer, stored, digest FROM secret \
             WHERE ?1 IS NULL OR gateway = ?1 ORDER BY gateway, module, name",
        )
        .bind(gateway.map(GatewayName::as_str))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(secret).collect()
    }

    /// The signed envelope of a gateway's secret by the digest of its bytes, which are hashed again:
    /// [`StoreError::Damaged`] when they differ.
    pub async fn secret_envelope(
        &self,
        gateway: &GatewayName,
        digest: &Digest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let found: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT envelope FROM secret WHERE gateway = ? AND digest = ?")
                .bind(gateway.as_str())
                .bind(digest.as_str())
                .fetch_optional(&self.readers)
                .await?;
        named_by(digest, found)
    }

    /// Keeps what a gateway says of itself. What it said before is written only once.
    pub async fn keep_secret_state(
        &self,
        gateway: &GatewayName,
        state: &SecretsSync,
    ) -> Result<(), StoreError> {
        if self.secret_state(gateway).await?.as_ref() == Some(state) {
            return Ok(());
        }
        let mut writing = self.begin().await?;
        sqlx::query(
            "INSERT INTO secret_state (gateway, agreement, have, refused) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (gateway) DO UPDATE SET agreement = ?2, have = ?3, refused = ?4",
        )
        .bind(gateway.as_str())
        .bind(to_json(&state.key)?)
        .bind(to_json(&state.have)?)
        .bind(to_json(&state.refused)?)
        .execute(writing.sql())
        .await?;
        writing.commit().await
    }

    /// The state of its secrets that a gateway last reported; `None` when it cannot be read, because it says it again.
    pub async fn secret_state(&self, gateway: &GatewayName) -> Result<Option<SecretsSync>, StoreError> {
        let row: Option<(Vec<u8>, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT CAST(agreement AS BLOB), CAST(have AS BLOB), CAST(refused AS BLOB) FROM secret_state WHERE gateway = ?",
        )
        .bind(gateway.as_str())
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.and_then(|(key, have, refused)| {
            Some(SecretsSync {
                key: serde_json::from_slice(&key).ok()?,
                have: serde_json::from_slice(&have).ok()?,
                refused: serde_json::from_slice(&refused).ok()?,
            })
        }))
    }
}
