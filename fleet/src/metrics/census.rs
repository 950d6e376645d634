//! Counts of gateways by state. A count takes a look at every gateway, so one serves all who ask for a while, and
//! nobody but the first waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgewarden_names::ErrorChain;

use crate::Problem;
use crate::admin_api::DeviceState;

/// A count is as good as new for so long.
const FRESH: Duration = Duration::from_secs(30);

/// Gateways in each state, in the order of [`DeviceState::ALL`].
pub type Gateways = [u64; DeviceState::ALL.len()];

/// The numbers of one count.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub at: Instant,
    pub gateways: Gateways,
}

/// Cache of the last count of gateways by state. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub struct Census {
    known: Arc<Mutex<Option<Counted>>>,
    /// One counts at a time.
    counting: Arc<tokio::sync::Mutex<()>>,
}

impl Census {
    fn known(&self) -> Option<Counted> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest count. When it is not fresh, `count` makes another, for who asks next.
    pub async fn newest(
        &self,
        count: impl Future<Output = Result<Gateways, Problem>> + Send + 'static,
    ) -> Result<Counted, Problem> {
        let Some(known) = self.known() else {
            let _turn = self.counting.lock().await;
            return match self.known() {
                Some(known) => Ok(known),
                None => Ok(self.note(count.await?)),
            };
        };
        if known.at.elapsed() >= FRESH
            && let Ok(turn) = Arc::clone(&self.counting).try_lock_owned()
        {
            let census = self.clone();
            tokio::spawn(async move {
                let _turn = turn;
                match count.await {
                    Ok(gateways) => {
                        census.note(gateways);
                    }
                    Err(error) => {
                        tracing::warn!(error = %ErrorChain(&error), "the gateways were not counted");
                    }
                }
            });
        }
        Ok(known)
    }

    fn note(&self, gateways: Gateways) -> Counted {
        let counted = Counted { at: Instant::now(), gateways };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
        counted
    }
}
