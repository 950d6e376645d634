//! Gateways by the page, and as little of each as a question needs.

use edgewarden_names::GatewayName;

use super::devices::{Device, DeviceRow, device};
use super::{Store, StoreError, from_json, parsed};
use crate::selection::Labels;

impl Store {
    /// By name, those after `after`.
    pub async fn devices_after(
        &self,
        after: Option<&GatewayName>,
        limit: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let rows: Vec<DeviceRow> = sqlx::query_as(
            "SELECT name, endorsement, attestation, labels, enrolled, verdict, refusal, seen, CAST(report AS BLOB) \
             FROM device WHERE name > ? ORDER BY name LIMIT ?",
        )
        .bind(after.map_or("", GatewayName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(device).collect()
    }

    /// The labels of every gateway, by name.
    pub async fn device_labels(&self) -> Result<Vec<(GatewayName, Labels)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT name, labels FROM device ORDER BY name").fetch_all(&self.readers).await?;
        rows.into_iter().map(|(name, labels)| Ok((parsed(&name)?, from_json(&labels)?))).collect()
    }
}
