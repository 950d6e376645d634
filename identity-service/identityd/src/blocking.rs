//! Work that blocks, away from the tasks that must stay quick.

use std::sync::Arc;

use edgewarden_names::Refusal;

use crate::refuse::internal;

/// Runs what blocks on a disk, a chip or the processor.
pub async fn blocking<P: Send + Sync + 'static, T: Send + 'static>(
    parts: &Arc<P>,
    work: impl FnOnce(&P) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let parts = Arc::clone(parts);
    let done = tokio::task::spawn_blocking(move || work(&parts)).await;
    done.unwrap_or_else(|error| Err(internal("identityd", &error)))
}
