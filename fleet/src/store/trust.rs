//! Anchors of trust, as operators gave them: TPM vendors' roots, reference values, operators' keys.

use edgewarden_appraisal::ReferenceValues;
use edgewarden_names::{Digest, UnixTime};
use edgewarden_protocol::dsse::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::events::By;
use super::{Store, StoreError, from_json, signed, time, to_json};

/// Kind of trust anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trusted {
    Reference,
    VendorRoot,
    OperatorKey,
}

/// One line of the table of reference values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceSummary {
    pub name: String,
    pub added: UnixTime,
    /// Its source: a file, or the evidence of a gateway.
    pub origin: String,
}

/// One trusted CA certificate of a TPM vendor, by the digest of its DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorRoot {
    pub subject: String,
    pub digest: Digest,
    pub added: UnixTime,
}

/// A vendor's CA certificate to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVendorRoot {
    pub digest: Digest,
    pub subject: String,
    pub pem: String,
}

impl Store {
    /// Stores reference values. Returns false when the name is taken.
    pub async fn add_reference(
        &self,
        values: &ReferenceValues,
        origin: &str,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let mut writing = self.begin().await?;
        let added = sqlx::query(
            "INSERT INTO reference (name, origin, added, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&values.name)
        .bind(origin)
        .bind(signed(now.0))
        .bind(to_json(values)?)
        .execute(writing.sql())
        .await?
        .rows_affected();
        if added == 1 {
            let text = format!("reference `{}` added from {origin}", values.name);
            writing.note(By::Operator, None, &text, now).await?;
        }
        writing.commit().await?;
        Ok(added == 1)
    }

    /// All reference values, by name.
    pub async fn references(&self) -> Result<Vec<ReferenceValues>, StoreError> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT body FROM reference ORDER BY name").fetch_all(&self.readers).await?;
        rows.iter().map(|body| from_json(body)).collect()
    }

    /// The table of reference values, by name, without the values.
    pub async fn reference_summaries(&self) -> Result<Vec<ReferenceSummary>, StoreError> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT name, added, origin FROM reference ORDER BY name")
                .fetch_all(&self.readers)
                .await?;
        let summary = |(name, added, origin)| ReferenceSummary { name, added: time(added), origin };
        Ok(rows.into_iter().map(summary).collect())
    }

    /// Keeps the certificates of vendors, all or none; those that are there already stay.
    pub async fn add_vendor_roots(&self, roots: &[NewVendorRoot], now: UnixTime) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        let mut added = 0;
        for NewVendorRoot { digest, subject, pem } in roots {
            let done = sqlx::query(
                "INSERT INTO vendor_root (digest, subject, pem, added) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(digest.as_str())
            .bind(subject)
            .bind(pem)
            .bind(signed(now.0))
            .execute(writing.sql())
            .await?;
            added += done.rows_affected();
        }
        if added > 0 {
            writing.note(By::Operator, None, "vendor roots added", now).await?;
        }
        writing.commit().await
    }

    /// All vendors' certificates as one PEM bundle.
    pub async fn vendor_bundle(&self) -> Result<String, StoreError> {
        let rows: Vec<String> = sqlx::query_scalar("SELECT pem FROM vendor_root ORDER BY digest")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.concat())
    }

    /// All vendors' CA certificates, by subject.
    pub async fn vendor_roots(&self) -> Result<Vec<VendorRoot>, StoreError> {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT digest, subject, added FROM vendor_root ORDER BY subject")
                .fetch_all(&self.readers)
                .await?;
        rows.into_iter()
            .map(|(digest, subject, added)| {
                Ok(VendorRoot { subject, digest: super::parsed(&digest)?, added: time(added) })
            })
            .collect()
    }

    /// Pins an operator's key. Returns false when the name belongs to another key, or the key to another name.
    pub async fn add_operator_key(&self, key: &VerifyingKey, now: UnixTime) -> Result<bool, StoreError> {
        let mut writing = self.begin().await?;
        let added = sqlx::query(
            "INSERT INTO operator_key (name, point, added) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&key.name)
        .bind(&key.point)
        .bind(signed(now.0))
        .execute(writing.sql())
        .await?
        .rows_affected();
        if added == 1 {
            writing.note(By::Operator, None, &format!("operator key `{}` pinned", key.name), now).await?;
        }
        let pinned: i64 =
            sqlx::query_scalar("SELECT count(*) FROM operator_key WHERE name = ? AND point = ?")
                .bind(&key.name)
                .bind(&key.point)
                .fetch_one(writing.sql())
                .await?;
        writing.commit().await?;
        Ok(pinned == 1)
    }

    /// All operators' public keys, by name.
    pub async fn operator_keys(&self) -> Result<Vec<VerifyingKey>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT name, point FROM operator_key ORDER BY name")
                .fetch_all(&self.readers)
                .await?;
        Ok(rows.into_iter().map(|(name, point)| VerifyingKey { name, point }).collect())
    }

    /// Takes trust back. Returns false when there was none of that name.
    pub async fn remove_trust(&self, what: Trusted, name: &str, now: UnixTime) -> Result<bool, StoreError> {
        let (statement, event) = match what {
            Trusted::Reference => {
                ("DELETE FROM reference WHERE name = ?", format!("reference `{name}` removed"))
            }
            Trusted::VendorRoot => {
                ("DELETE FROM vendor_root WHERE digest = ?", format!("vendor root {name} removed"))
            }
            Trusted::OperatorKey => {
                ("DELETE FROM operator_key WHERE name = ?", format!("operator key `{name}` removed"))
            }
        };
        let mut writing = self.begin().await?;
        let removed = sqlx::query(statement).bind(name).execute(writing.sql()).await?.rows_affected();
        if removed == 1 {
            writing.note(By::Operator, None, &event, now).await?;
        }
        writing.commit().await?;
        Ok(removed == 1)
    }
}
