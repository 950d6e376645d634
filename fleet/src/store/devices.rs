//! Enrolled gateways, what they proved, and what they report.

use std::time::Duration;

use edgewarden_names::{Digest, GatewayName, Reason, Refusal, UnixTime};
use edgewarden_protocol::enrol::{Verdict, VerdictState};
use edgewarden_protocol::uplink::Report;

use super::events::By;
use super::integrity::named_by;
use super::tokens::TOKEN_FAILURES_MAX;
use super::writer::Writing;
use super::{Store, StoreError, from_json, parsed, signed, time, to_json};
use crate::lease::Certificate;
use crate::selection::{Labels, check_labels};
use crate::text::labels_or_none;

/// Most appraisals of one gateway that are kept.
pub const ATTEMPTS_MAX: i64 = 10;
/// A failure that is the same as the one before is kept again after this long.
const SAME_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Most certified CA keys of one gateway that are good here: the newest, and those that it is moving away from.
pub const CA_KEYS_MAX: i64 = 4;

/// The keys that a gateway's name is bound to, each as the SHA-256 of its public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The TPM: its EK (or the software device key). Bound for good.
    pub endorsement: Digest,
    /// The attestation key. A renewal must show the same; a join may bring a new one of the same TPM.
    pub attestation: Digest,
}

/// One enrolled gateway with its verdict and its last report.
#[derive(Debug, Clone)]
pub struct Device {
    pub name: GatewayName,
    pub binding: Binding,
    /// The operator's, from the token or from `device label`. Never the gateway's own word.
    pub labels: Labels,
    pub enrolled: UnixTime,
    pub verdict: Verdict,
    /// Reason for the verdict `failed`.
    pub refusal: Option<Refusal>,
    pub seen: Option<UnixTime>,
    pub report: Option<Report>,
    /// Absent when the fleet does not know how long it lasts.
    pub certificate: Option<Certificate>,
}

impl Device {
    /// The verdict's state by now: a fresh one grows stale.
    pub fn state(&self, now: UnixTime) -> VerdictState {
        match self.verdict.state {
            VerdictState::Fresh if now >= self.verdict.expires => VerdictState::Stale,
            state => state,
        }
    }
}

/// One appraisal of a gateway's evidence, to keep.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub at: UnixTime,
    pub verdict: Verdict,
    pub refusal: Option<Refusal>,
    /// The hash of all that the gateway sent.
    pub evidence: Digest,
    pub event_log: Option<Vec<u8>>,
}

/// All that one successful appraisal changes.
#[derive(Debug)]
pub struct Admission<'a> {
    pub gateway: &'a GatewayName,
    pub binding: &'a Binding,
    /// The token to spend, when this is a join. The gateway gets its labels.
    pub token: Option<&'a [u8; 32]>,
    /// The hash of the certified gateway CA key.
    pub ca_key: &'a Digest,
    pub certificate: &'a Certificate,
    pub attempt: &'a Attempt,
}

/// A gateway's report of itself, and the time at which it came.
#[derive(Debug, Clone, Copy)]
pub struct NewReport<'a> {
    pub gateway: &'a GatewayName,
    pub report: &'a Report,
    pub seen: UnixTime,
}

pub(super) type DeviceRow = (
    String,
    String,
    String,
    String,
    i64,
    String,
    Option<String>,
    Option<i64>,
    Option<Vec<u8>>,
    // When its certificate is overdue, and when it ends.
    Option<i64>,
    Option<i64>,
);

/// [`DeviceRow`]s, with what else a statement says of which.
macro_rules! select_devices {
    ($which:literal) => {
        concat!(
            "SELECT name, endorsement, attestation, labels, enrolled, verdict, refusal, seen, ",
            "CAST(report AS BLOB) AS report, overdue, ends ",
            "FROM device LEFT JOIN certificate ON certificate.gateway = device.name ",
            $which
        )
    };
}
pub(super) use select_devices;

type AttemptRow = (i64, String, Option<String>, String, Option<Vec<u8>>, Option<String>);

pub(super) fn device(
    (name, endorsement, attestation, labels, enrolled, verdict, refusal, seen, report, overdue, ends): DeviceRow,
) -> Result<Device, StoreError> {
    let certificate = overdue.zip(ends);
    Ok(Device {
        name: parsed(&name)?,
        binding: Binding { endorsement: parsed(&endorsement)?, attestation: parsed(&attestation)? },
        labels: from_json(&labels)?,
        enrolled: time(enrolled),
        verdict: from_json(&verdict)?,
        refusal: refusal.as_deref().map(from_json).transpose()?,
        seen: seen.map(time),
        // Not sealed. One that cannot be read comes again with the next.
        report: report.as_deref().and_then(|report| serde_json::from_slice(report).ok()),
        certificate: certificate
            .map(|(overdue, ends)| Certificate { overdue: time(overdue), ends: time(ends) }),
    })
}

impl Store {
    /// The gateway of this name; `None` when it is not enrolled.
    pub async fn device(&self, name: &GatewayName) -> Result<Option<Device>, StoreError> {
        let row: Option<DeviceRow> = sqlx::query_as(select_devices!("WHERE name = ?"))
            .bind(name.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(device).transpose()
    }

    /// All enrolled gateways, by name.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let rows: Vec<DeviceRow> =
            sqlx::query_as(select_devices!("ORDER BY name")).fetch_all(&self.readers).await?;
        rows.into_iter().map(device).collect()
    }

    /// The gateway name that a TPM is bound to.
    pub async fn name_of(&self, endorsement: &Digest) -> Result<Option<GatewayName>, StoreError> {
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM device WHERE endorsement = ?")
            .bind(endorsement.as_str())
            .fetch_optional(&self.readers)
            .await?;
        name.as_deref().map(parsed).transpose()
    }

    /// Spends the token, binds name and TPM, keeps verdict and CA key: all of it, or nothing and a refusal.
    pub async fn admit(
        &self,
        admission: &Admission<'_>,
        now: UnixTime,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let mut writing = self.begin().await?;
        let admitted = writing.admit(admission, now).await?;
        if admitted.is_ok() {
            writing.commit().await?;
        } else {
            writing.abandon().await?;
        }
        Ok(admitted)
    }

    /// Keeps an appraisal that failed on evidence which the gateway itself proved: its verdict is now that. Nothing is
    /// kept when the name was bound to another TPM since the challenge.
    pub async fn add_failure(
        &self,
        gateway: &GatewayName,
        endorsement: &Digest,
        attempt: &Attempt,
    ) -> Result<(), StoreError> {
        let mut writing = self.begin().await?;
        let bound: Option<String> = sqlx::query_scalar("SELECT endorsement FROM device WHERE name = ?")
            .bind(gateway.as_str())
            .fetch_optional(writing.sql())
            .await?;
        if bound.is_some_and(|bound| bound != endorsement.as_str()) {
            return writing.abandon().await;
        }
        // The same again within a minute tells nothing new, and evidence is large.
        let last: Option<(i64, Option<String>)> =
            sqlx::query_as("SELECT at, refusal FROM attempt WHERE gateway = ? ORDER BY id DESC LIMIT 1")
                .bind(gateway.as_str())
                .fetch_optional(writing.sql())
                .await?;
        let refusal = attempt.refusal.as_ref().map(to_json).transpose()?;
        let recent = signed(attempt.at.minus(SAME_AGAIN_AFTER).0)..=signed(attempt.at.0);
        if last.is_some_and(|(at, before)| before.is_some() && before == refusal && recent.contains(&at)) {
            return writing.abandon().await;
        }
        writing.insert_attempt(gateway, attempt).await?;
        sqlx::query("UPDATE device SET verdict = ?, refusal = ? WHERE name = ?")
            .bind(to_json(&attempt.verdict)?)
            .bind(refusal)
            .bind(gateway.as_str())
            .execute(writing.sql())
            .await?;
        writing.commit().await
    }

    /// The newest appraisal of a gateway, if it failed.
    pub async fn last_failure(&self, gateway: &GatewayName) -> Result<Option<Attempt>, StoreError> {
        let row: Option<AttemptRow> = sqlx::query_as(
            "SELECT at, verdict, refusal, evidence, event_log, log_digest FROM attempt \
             WHERE gateway = ? ORDER BY id DESC LIMIT 1",
        )
        .bind(gateway.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let failed = row.filter(|(_, _, refusal, ..)| refusal.is_some());
        failed
            .map(|(at, verdict, refusal, evidence, event_log, log_digest)| {
                let event_log = match log_digest {
                    Some(digest) => named_by(&parsed(&digest)?, event_log)?,
                    None => None,
                };
                Ok(Attempt {
                    at: time(at),
                    verdict: from_json(&verdict)?,
                    refusal: refusal.as_deref().map(from_json).transpose()?,
                    evidence: parsed(&evidence)?,
                    event_log,
                })
            })
            .transpose()
    }

    /// `true` when this gateway CA key was certified for this gateway, and the gateway is still one of the fleet.
    pub async fn knows_ca_key(&self, gateway: &GatewayName, key: &Digest) -> Result<bool, StoreError> {
        let found: i64 =
            sqlx::query_scalar("SELECT count(*) FROM gateway_ca WHERE key_digest = ? AND gateway = ?")
                .bind(key.as_str())
                .bind(gateway.as_str())
                .fetch_one(&self.readers)
                .await?;
        Ok(found > 0)
    }

    /// Sets some labels of a gateway and takes others away. Gives what it has now; nothing when there is no gateway.
    pub async fn change_labels(
        &self,
        gateway: &GatewayName,
        set: Labels,
        remove: &[String],
        now: UnixTime,
    ) -> Result<Option<Result<Labels, Refusal>>, StoreError> {
        let mut writing = self.begin().await?;
        let stored: Option<String> = sqlx::query_scalar("SELECT labels FROM device WHERE name = ?")
            .bind(gateway.as_str())
            .fetch_optional(writing.sql())
            .await?;
        let Some(stored) = stored else {
            writing.abandon().await?;
            return Ok(None);
        };
        let mut labels: Labels = from_json(&stored)?;
        labels.retain(|key, _| !remove.contains(key));
        labels.extend(set);
        if let Err(rule) = check_labels(&labels) {
            writing.abandon().await?;
            return Ok(Some(Err(Refusal::new(Reason::RequestInvalid, "labels", rule))));
        }
        sqlx::query("UPDATE device SET labels = ? WHERE name = ?")
            .bind(to_json(&labels)?)
            .bind(gateway.as_str())
            .execute(writing.sql())
            .await?;
        let text = format!("labels set by an operator: {}", labels_or_none(&labels));
        writing.note(By::Operator, Some(gateway), &text, now).await?;
        writing.commit().await?;
        Ok(Some(Ok(labels)))
    }

    /// Keeps what gateways say of themselves, all in one transaction: the disk is waited for once.
    pub async fn keep_reports(&self, reports: &[NewReport<'_>]) -> Result<(), StoreError> {
        let texts = reports.iter().map(|new| to_json(new.report)).collect::<Result<Vec<_>, _>>()?;
        let mut writing = self.begin().await?;
        for (new, text) in reports.iter().zip(texts) {
            sqlx::query("UPDATE device SET seen = ?, report = ? WHERE name = ?")
                .bind(signed(new.seen.0))
                .bind(text)
                .bind(new.gateway.as_str())
                .execute(writing.sql())
                .await?;
        }
        writing.commit().await
    }

    /// Forgets a gateway with its keys, messages and tokens. Returns false when there was none.
    pub async fn remove_device(&self, gateway: &GatewayName, now: UnixTime) -> Result<bool, StoreError> {
        let mut writing = self.begin().await?;
        for statement in ["DELETE FROM attempt WHERE gateway = ?", "DELETE FROM join_token WHERE gateway = ?"]
        {
            sqlx::query(statement).bind(gateway.as_str()).execute(writing.sql()).await?;
        }
        let removed = sqlx::query("DELETE FROM device WHERE name = ?")
            .bind(gateway.as_str())
            .execute(writing.sql())
            .await?
            .rows_affected();
        if removed == 1 {
            writing.note(By::Operator, Some(gateway), "removed by an operator", now).await?;
        }
        writing.commit().await?;
        Ok(removed == 1)
    }
}

impl Writing<'_> {
    /// A refusal leaves the transaction half done, to be abandoned.
    async fn admit(
        &mut self,
        admission: &Admission<'_>,
        now: UnixTime,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let name = admission.gateway.as_str();
        let mut granted: Option<String> = None;
        if let Some(token) = admission.token {
            granted = sqlx::query_scalar(
                "UPDATE join_token SET used = ?1 WHERE hash = ?2 AND gateway = ?3 AND used IS NULL AND expires > ?1 \
                 AND failures < ?4 RETURNING labels",
            )
            .bind(signed(now.0))
            .bind(token.as_slice())
            .bind(name)
            .bind(TOKEN_FAILURES_MAX)
            .fetch_optional(self.sql())
            .await?;
            if granted.is_none() {
                let rule = "the token was used, expired or failed too often meanwhile";
                return Ok(Err(Refusal::new(Reason::EnrolToken, name, rule)));
            }
        }
        let bound: Option<(String, String, String)> = sqlx::query_as(
            "SELECT name, endorsement, attestation FROM device WHERE name = ?1 OR endorsement = ?2 ORDER BY name = ?1",
        )
        .bind(name)
        .bind(admission.binding.endorsement.as_str())
        .fetch_optional(self.sql())
        .await?;
        let fits = |(bound_name, endorsement, _): &(String, String, String)| {
            bound_name == name && endorsement == admission.binding.endorsement.as_str()
        };
        match &bound {
            Some(bound) if !fits(bound) => {
                let rule = "the name and the TPM are not bound to each other";
                return Ok(Err(Refusal::new(Reason::AttestEkMismatch, name, rule)));
            }
            Some((_, _, attestation))
                if admission.token.is_none() && attestation != admission.binding.attestation.as_str() =>
            {
                let rule = "the device joined again with another attestation key meanwhile";
                return Ok(Err(Refusal::new(Reason::AttestEkMismatch, name, rule)));
            }
            None if admission.token.is_none() => {
                let rule = "the device was removed meanwhile";
                return Ok(Err(Refusal::new(Reason::EnrolToken, name, rule)));
            }
            _ => {}
        }
        sqlx::query(
            "INSERT INTO device (name, endorsement, attestation, labels, enrolled, verdict) \
             VALUES (?1, ?2, ?3, coalesce(?4, '{}'), ?5, ?6) \
             ON CONFLICT (name) DO UPDATE SET attestation = excluded.attestation, labels = coalesce(?4, labels), \
             verdict = excluded.verdict, refusal = NULL",
        )
        .bind(name)
        .bind(admission.binding.endorsement.as_str())
        .bind(admission.binding.attestation.as_str())
        // A renewal changes no label.
        .bind(granted)
        .bind(signed(now.0))
        .bind(to_json(&admission.attempt.verdict)?)
        .execute(self.sql())
        .await?;
        sqlx::query("INSERT INTO gateway_ca (key_digest, gateway, issued) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET issued = excluded.issued")
            .bind(admission.ca_key.as_str())
            .bind(name)
            .bind(signed(now.0))
            .execute(self.sql())
            .await?;
        // A join stands for all the keys before it, so that who has a stolen one is out.
        let kept = if admission.token.is_some() { 1 } else { CA_KEYS_MAX };
        sqlx::query(
            "DELETE FROM gateway_ca WHERE gateway = ?1 AND key_digest != ?2 AND rowid NOT IN \
             (SELECT rowid FROM gateway_ca WHERE gateway = ?1 AND key_digest != ?2 ORDER BY issued DESC, rowid DESC LIMIT ?3)",
        )
        .bind(name)
        .bind(admission.ca_key.as_str())
        .bind(kept - 1)
        .execute(self.sql())
        .await?;
        self.keep_certificate(admission.gateway, admission.certificate).await?;
        self.insert_attempt(admission.gateway, admission.attempt).await?;
        let what = if admission.token.is_some() { "joined" } else { "renewed" };
        let text = format!("{what}, hardware {}", admission.attempt.verdict.hardware);
        self.note(By::Gateway, Some(admission.gateway), &text, now).await?;
        Ok(Ok(()))
    }

    async fn insert_attempt(&mut self, gateway: &GatewayName, attempt: &Attempt) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO attempt (gateway, at, verdict, refusal, evidence, event_log, log_digest) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(gateway.as_str())
        .bind(signed(attempt.at.0))
        .bind(to_json(&attempt.verdict)?)
        .bind(attempt.refusal.as_ref().map(to_json).transpose()?)
        .bind(attempt.evidence.as_str())
        .bind(attempt.event_log.as_deref())
        .bind(attempt.event_log.as_deref().map(|log| Digest::of(log).to_string()))
        .execute(self.sql())
        .await?;
        sqlx::query(
            "DELETE FROM attempt WHERE gateway = ?1 AND id NOT IN \
             (SELECT id FROM attempt WHERE gateway = ?1 ORDER BY id DESC LIMIT ?2)",
        )
        .bind(gateway.as_str())
        .bind(ATTEMPTS_MAX)
        .execute(self.sql())
        .await?;
        // Up to 2 MiB, and only the newest can be made a reference.
        sqlx::query(
            "UPDATE attempt SET event_log = NULL WHERE gateway = ?1 AND event_log IS NOT NULL \
             AND id < (SELECT max(id) FROM attempt WHERE gateway = ?1)",
        )
        .bind(gateway.as_str())
        .execute(self.sql())
        .await?;
        Ok(())
    }
}
