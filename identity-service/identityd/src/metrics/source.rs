//! Answers of the metrics socket. The keystore and the disk are asked apart from the tasks that serve modules.

use std::fmt;
use std::sync::Arc;

use edgewarden_metrics::door::Source;
use edgewarden_metrics::page::{Format, render};
use edgewarden_names::Reason;

use super::watched::Watched;
use super::{expose, health};

/// Before each name.
const PREFIX: &str = "edgewarden";

pub(crate) struct Told(pub(crate) Arc<Watched>);

impl Source for Told {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        let of = Arc::clone(&self.0);
        let write = move || render(format, PREFIX, move |page| expose::write(page, &of));
        tokio::task::spawn_blocking(write).await.unwrap_or(Err(fmt::Error))
    }

    async fn health(&self) -> Result<(), Reason> {
        let of = Arc::clone(&self.0);
        let check = move || health::check(&of);
        tokio::task::spawn_blocking(check).await.unwrap_or(Err(Reason::Internal))
    }
}
