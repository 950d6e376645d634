//! Gateways by the page, and as little of each as a question needs.

use edgewarden_names::{Architecture, GatewayName};
use serde::Deserialize;

use super::devices::{Device, DeviceRow, device, select_devices};
use super::{Store, StoreError, from_json, parsed};
use crate::selection::Labels;

impl Store {
    /// At most `limit` gateways whose names come after `after`, by name.
    pub async fn devices_after(
        &self,
        after: Option<&GatewayName>,
        limit: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let rows: Vec<DeviceRow> = sqlx::query_as(select_devices!("WHERE name > ? ORDER BY name LIMIT ?"))
            .bind(after.map_or("", GatewayName::as_str))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.into_iter().map(device).collect()
    }

    /// The labels of every gateway, with its processor if it said that.
    pub async fn device_architectures(&self) -> Result<Vec<(Labels, Option<Architecture>)>, StoreError> {
        #[derive(Deserialize)]
        struct Report {
            architecture: Option<Architecture>,
        }
        let rows: Vec<(String, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT labels, CAST(report AS BLOB) FROM device")
                .fetch_all(&self.readers)
                .await?;
        let read = |(labels, report): (String, Option<Vec<u8>>)| {
            // Not sealed, like all of a report: one that cannot be read says nothing.
            let report = report.and_then(|report| serde_json::from_slice::<Report>(&report).ok());
            Ok((from_json(&labels)?, report.and_then(|report| report.architecture)))
        };
        rows.into_iter().map(read).collect()
    }

    /// The labels of every gateway, by name.
    pub async fn device_labels(&self) -> Result<Vec<(GatewayName, Labels)>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT name, labels FROM device ORDER BY name").fetch_all(&self.readers).await?;
        rows.into_iter().map(|(name, labels)| Ok((parsed(&name)?, from_json(&labels)?))).collect()
    }
}
