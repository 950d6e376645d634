//! Counts of gateways by state. A count takes a look at every gateway, so one serves all who ask for a while, and
//! nobody but the first waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Problem;
use crate::admin_api::DeviceState;
use crate::server::state::Shared;
use crate::server::views;
use edgewarden_names::ErrorChain;

/// A count is as good as new for so long.
const FRESH: Duration = Duration::from_secs(30);

/// The numbers of one count.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub at: Instant,
    /// In the order of [`DeviceState::ALL`].
    pub gateways: [u64; DeviceState::ALL.len()],
}

/// Cache of the last count of gateways by state.
#[derive(Debug, Default)]
pub struct Census {
    known: Mutex<Option<Counted>>,
    /// One counts at a time.
    counting: Arc<tokio::sync::Mutex<()>>,
}

impl Census {
    fn known(&self) -> Option<Counted> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest count. When it is not fresh another is begun, for who asks next.
    pub async fn newest(shared: &Arc<Shared>) -> Result<Counted, Problem> {
        let census = &shared.metrics.census;
        let Some(known) = census.known() else {
            let _turn = census.counting.lock().await;
            return match census.known() {
                Some(known) => Ok(known),
                None => count(shared).await,
            };
        };
        if known.at.elapsed() >= FRESH
            && let Ok(turn) = Arc::clone(&census.counting).try_lock_owned()
        {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let _turn = turn;
                if let Err(error) = count(&shared).await {
                    tracing::warn!(error = %ErrorChain(&error), "the gateways were not counted");
                }
            });
        }
        Ok(known)
    }
}

async fn count(shared: &Shared) -> Result<Counted, Problem> {
    let mut gateways = [0; DeviceState::ALL.len()];
    let mut after = None;
    loop {
        let page = views::page(shared, after.as_ref(), views::PAGE_MAX).await?;
        for device in &page.devices {
            let place = DeviceState::ALL.iter().position(|state| *state == device.state);
            if let Some(count) = place.and_then(|place| gateways.get_mut(place)) {
                *count += 1;
            }
        }
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    let counted = Counted { at: Instant::now(), gateways };
    *shared.metrics.census.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
    Ok(counted)
}
