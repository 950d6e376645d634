//! What the socket answers. The keystore and the disk are asked apart from the tasks that serve modules.

use std::fmt;
use std::sync::Arc;

use edgewarden_metrics::door::Source;
use edgewarden_metrics::page::{Format, render};
use edgewarden_names::Reason;

use super::{expose, health};
use crate::service::Service;

/// Before each name.
const PREFIX: &str = "edgewarden";

/// The whole of `identityd`, to look at.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Arc<Service>);

impl Source for Told {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        let service = Arc::clone(&self.0);
        let write = move || render(format, PREFIX, move |page| expose::write(page, &service));
        tokio::task::spawn_blocking(write).await.unwrap_or(Err(fmt::Error))
    }

    async fn health(&self) -> Result<(), Reason> {
        let service = Arc::clone(&self.0);
        let judge = move || health::judge(&service);
        tokio::task::spawn_blocking(judge).await.unwrap_or(Err(Reason::Internal))
    }
}
