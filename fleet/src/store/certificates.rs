//! Validity of each gateway's certificate, and the event for one that was not renewed.

use std::time::Duration;

use edgewarden_names::{GatewayName, Reason, UnixTime};

use super::writer::Writing;
use super::{Store, StoreError, from_json, parsed, signed, time};
use crate::lease::{Certificate, CertificateState};
use crate::selection::Labels;
use crate::when::date;

/// Gateways whose events are written in one transaction: others write in between.
const TOLD_AT_ONCE: u16 = 100;

impl CertificateState {
    fn stage(self) -> i64 {
        match self {
            Self::Good => 0,
            Self::Expiring => 1,
            Self::Expired => 2,
        }
    }
}

impl Writing<'_> {
    /// Keeps the validity of a gateway's new certificate. Events about the one before do not count for it.
    pub(super) async fn keep_certificate(
        &mut self,
        gateway: &GatewayName,
        certificate: &Certificate,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO certificate (gateway, overdue, ends) VALUES (?, ?, ?) \
             ON CONFLICT (gateway) DO UPDATE SET overdue = excluded.overdue, ends = excluded.ends, told = 0",
        )
        .bind(gateway.as_str())
        .bind(signed(certificate.overdue.0))
        .bind(signed(certificate.ends.0))
        .execute(self.sql())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Says of those that were certified before the fleet kept it how long that lasts: as long as gateways with their labels
    /// are certified for. Their next renewal says it exactly.
    pub async fn date_certificates(&self, lifetime: impl Fn(&Labels) -> Duration) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT name, labels, (SELECT max(issued) FROM gateway_ca WHERE gateway_ca.gateway = name) FROM device \
             WHERE name NOT IN (SELECT gateway FROM certificate) \
             AND EXISTS (SELECT 1 FROM gateway_ca WHERE gateway_ca.gateway = name)",
        )
        .fetch_all(writing.sql())
        .await?;
        for (name, labels, issued) in rows {
            let issued = time(issued);
            let ends = issued.plus(lifetime(&from_json(&labels)?));
            writing.keep_certificate(&parsed(&name)?, &Certificate::lasting(issued, ends)).await?;
        }
        writing.commit().await
    }

    /// Writes an event for each gateway whose certificate has become overdue or has ended since it was last told, once. A
    /// clock that leapt and came back has told nothing. Returns how many certificates have changed their state.
    pub async fn tell_certificates(&self, now: UnixTime) -> Result<usize, StoreError> {
        let mut all = 0;
        loop {
            let told = self.tell_some_certificates(now).await?;
            all += told;
            if told < usize::from(TOLD_AT_ONCE) {
                return Ok(all);
            }
        }
    }

    async fn tell_some_certificates(&self, now: UnixTime) -> Result<usize, StoreError> {
        // Without the lock first: most of the time there is nothing to tell.
        let due: i64 = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM certificate WHERE (told = 0 AND overdue <= ?1) \
             OR (told = 1 AND ends <= ?1) OR (told = 1 AND overdue > ?1) OR (told = 2 AND ends > ?1))",
        )
        .bind(signed(now.0))
        .fetch_one(&self.readers)
        .await?;
        if due == 0 {
            return Ok(0);
        }
        let mut writing = self.begin().await?;
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "SELECT gateway, overdue, ends, told FROM certificate WHERE (told = 0 AND overdue <= ?1) \
             OR (told = 1 AND ends <= ?1) OR (told = 1 AND overdue > ?1) OR (told = 2 AND ends > ?1) LIMIT ?2",
        )
        .bind(signed(now.0))
        .bind(i64::from(TOLD_AT_ONCE))
        .fetch_all(writing.sql())
        .await?;
        for (name, overdue, ends, told) in &rows {
            let gateway: GatewayName = parsed(name)?;
            let certificate = Certificate { overdue: time(*overdue), ends: time(*ends) };
            let state = certificate.state(now);
            if state.stage() > *told {
                let text = told_text(&certificate, state);
                writing.note_refusal(&gateway, Reason::IdentityExpiring, &text, 1, now).await?;
            }
            sqlx::query("UPDATE certificate SET told = ? WHERE gateway = ?")
                .bind(state.stage())
                .bind(name)
                .execute(writing.sql())
                .await?;
        }
        writing.commit().await?;
        Ok(rows.len())
    }
}

fn told_text(certificate: &Certificate, state: CertificateState) -> String {
    match state {
        CertificateState::Expired => {
            format!("its certificate ended at {} and was not renewed", date(certificate.ends))
        }
        _ => format!(
            "its certificate was to be renewed before {} and was not; it ends at {}",
            date(certificate.overdue),
            date(certificate.ends)
        ),
    }
}
