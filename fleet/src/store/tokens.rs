//! Join tokens. The text is shown once, to the operator; the database holds its SHA-256.

use std::time::Duration;

use edgewarden_names::{GatewayName, UnixTime};

use super::{Store, StoreError, parsed, signed, time};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub gateway: GatewayName,
    pub expires: UnixTime,
    pub used: Option<UnixTime>,
}

impl Store {
    pub async fn add_token(
        &self,
        hash: &[u8; 32],
        gateway: &GatewayName,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        // A token that nobody can use any more explains a refusal for a month, then goes.
        sqlx::query("DELETE FROM join_token WHERE expires < ?")
            .bind(signed(now.minus(Duration::from_secs(30 * 86400)).0))
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO join_token (hash, gateway, created, expires) VALUES (?, ?, ?, ?)")
            .bind(hash.as_slice())
            .bind(gateway.as_str())
            .bind(signed(now.0))
            .bind(signed(expires.0))
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        let row: Option<(String, i64, Option<i64>)> =
            sqlx::query_as("SELECT gateway, expires, used FROM join_token WHERE hash = ?")
                .bind(hash.as_slice())
                .fetch_optional(&self.readers)
                .await?;
        row.map(|(gateway, expires, used)| {
            Ok(TokenRecord { gateway: parsed(&gateway)?, expires: time(expires), used: used.map(time) })
        })
        .transpose()
    }
}
