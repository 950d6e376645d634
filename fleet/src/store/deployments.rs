//! Deployments: the envelopes as they came, by the hash of their bytes.

use edgewarden_names::{Digest, UnixTime};

use super::events::By;
use super::integrity::named_by;
use super::{Store, StoreError, from_json, parsed, signed, to_json, unsigned};
use crate::selection::{Candidate, Labels};

/// Most envelopes that are kept; the oldest go.
pub const DEPLOYMENTS_MAX: i64 = 1000;

/// A deployment to store; `signer` is absent when it is carried unverified.
#[derive(Debug)]
pub struct NewDeployment<'a> {
    pub digest: &'a Digest,
    pub name: &'a str,
    pub version: u64,
    pub selector: &'a Labels,
    pub signer: Option<&'a str>,
    pub envelope: &'a [u8],
}

type CandidateRow = (i64, String, String, i64, String, Option<String>);

impl Store {
    /// Stores a deployment as the newest, also one that was stored before.
    pub async fn add_deployment(
        &self,
        deployment: &NewDeployment<'_>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        sqlx::query("DELETE FROM deployment WHERE digest = ?")
            .bind(deployment.digest.as_str())
            .execute(writing.sql())
            .await?;
        sqlx::query(
            "INSERT INTO deployment (digest, name, version, selector, signer, stored, envelope) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(deployment.digest.as_str())
        .bind(deployment.name)
        .bind(signed(deployment.version))
        .bind(to_json(deployment.selector)?)
        .bind(deployment.signer)
        .bind(signed(now.0))
        .bind(deployment.envelope)
        .execute(writing.sql())
        .await?;
        sqlx::query(
            "DELETE FROM deployment WHERE id NOT IN (SELECT id FROM deployment ORDER BY id DESC LIMIT ?)",
        )
        .bind(DEPLOYMENTS_MAX)
        .execute(writing.sql())
        .await?;
        let text = format!("deployment `{}` version {} stored", deployment.name, deployment.version);
        writing.note(By::Operator, None, &text, now).await?;
        writing.commit().await
    }

    /// All deployments, oldest first, without their envelopes.
    pub async fn deployments(&self) -> Result<Vec<Candidate>, StoreError> {
        let rows: Vec<CandidateRow> =
            sqlx::query_as("SELECT id, digest, name, version, selector, signer FROM deployment ORDER BY id")
                .fetch_all(&self.readers)
                .await?;
        rows.into_iter()
            .map(|(id, digest, name, version, selector, signer)| {
                Ok(Candidate {
                    id,
                    digest: parsed(&digest)?,
                    name,
                    version: unsigned(version),
                    selector: from_json(&selector)?,
                    signer,
                })
            })
            .collect()
    }

    /// The signed envelope by the digest of its bytes, which are hashed again: [`StoreError::Damaged`] when they
    /// differ.
    pub async fn envelope(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT envelope FROM deployment WHERE digest = ?")
            .bind(digest.as_str())
            .fetch_optional(&self.readers)
            .await?;
        named_by(digest, found)
    }
}
