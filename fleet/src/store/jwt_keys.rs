//! Keys of gateways for JWT-SVIDs.

use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_protocol::jwt_keys::{PublishedKey, Statement};

use super::{Store, StoreError, from_json, signed, to_json};

impl Store {
    /// Keeps a verified statement in the place of an older one. False when it is not newer.
    pub async fn keep_jwt_keys(&self, statement: &Statement) -> Result<bool, StoreError> {
        let mut writing = self.begin().await?;
        let done = sqlx::query(
            "INSERT INTO jwt_keys (gateway, sequence, keys) VALUES (?1, ?2, ?3) \
             ON CONFLICT (gateway) DO UPDATE SET sequence = ?2, keys = ?3 WHERE sequence < ?2",
        )
        .bind(statement.gateway.as_str())
        .bind(signed(statement.sequence))
        .bind(to_json(&statement.keys)?)
        .execute(writing.sql())
        .await?;
        writing.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Every gateway's keys whose tokens may still be valid, by gateway.
    pub async fn jwt_keys(&self, now: UnixTime) -> Result<Vec<(GatewayName, PublishedKey)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT gateway, keys FROM jwt_keys ORDER BY gateway")
                .fetch_all(&self.readers)
                .await?;
        let mut all = Vec::new();
        for (gateway, keys) in rows {
            let gateway: GatewayName = super::parsed(&gateway)?;
            let keys: Vec<PublishedKey> = from_json(&keys)?;
            all.extend(keys.into_iter().filter(|key| now < key.not_after).map(|key| (gateway.clone(), key)));
        }
        Ok(all)
    }
}
