//! Waiting.

use std::time::Duration;

const POLL: Duration = Duration::from_millis(50);
const POLLS_MAX: u32 = 600;

/// Waits for what another process or task brings about.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..POLLS_MAX {
        if let Some(found) = probe().await {
            return found;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("waited in vain for: {what}");
}
