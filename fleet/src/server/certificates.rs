//! Tells of certificates of gateways that were not renewed, while nobody asks.

use std::time::Duration;

use edgewarden_names::{ErrorChain, UnixTime};

use crate::store::Store;

const LOOK: Duration = Duration::from_secs(60);

/// Notes an event for each certificate that is overdue or has ended. Runs until it is dropped.
pub async fn tell(store: Store) {
    loop {
        match store.tell_certificates(UnixTime::now()).await {
            Ok(0) => {}
            Ok(changed) => tracing::warn!(
                changed,
                "certificates of gateways are overdue or have ended; see `edgewarden-fleet device list`"
            ),
            Err(error) => {
                tracing::error!(
                    error = %ErrorChain(&error),
                    "certificates that run out are not told; trying again"
                );
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
