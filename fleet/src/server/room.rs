//! Room for the large bodies of strangers: bounded in all, and for each source, so that slow senders of one source
//! hold up nobody but themselves.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::enrol::sessions::whole_network;

/// Most large bodies at a time: so many that several sources together do not take all, so few that they fit in memory.
pub const BODIES_MAX: usize = 32;
/// Most large bodies of one source at a time.
pub const BODIES_PER_SOURCE_MAX: usize = 4;
/// Longer than bodies in front may take, so that gateways behind one address get their turn.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Places for large bodies: [`BODIES_MAX`] in all, [`BODIES_PER_SOURCE_MAX`] for each source.
#[derive(Debug)]
pub struct Room {
    wait: Duration,
    all: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// Place for one large body, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _source: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        Self::with_wait(WAIT_MAX)
    }
}

impl Room {
    fn with_wait(wait: Duration) -> Self {
        Self { wait, all: Arc::new(Semaphore::new(BODIES_MAX)), sources: Mutex::default() }
    }

    /// Waits for a place of this source; refused as busy when none comes free in time.
    pub async fn enter(&self, source: IpAddr) -> Result<Place, Refusal> {
        let busy = || Refusal::new(Reason::Busy, "enrolment", "too many enrolments at once");
        let both = async {
            // First its own: who waits there takes nothing from others.
            let of_source = self.of(source).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>(Place {
                _source: of_source,
                _all: self.all.clone().acquire_owned().await?,
            })
        };
        match tokio::time::timeout(self.wait, both).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// The source's own. Those that nobody holds or waits for go: connections bound the map.
    fn of(&self, source: IpAddr) -> Arc<Semaphore> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let new = || Arc::new(Semaphore::new(BODIES_PER_SOURCE_MAX));
        sources.entry(whole_network(source)).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test]
    async fn a_source_waits_for_its_own_bodies_only() {
        let room = Room::with_wait(Duration::ZERO);
        let mut slow = Vec::new();
        for _ in 0..BODIES_PER_SOURCE_MAX {
            slow.push(room.enter(source(1)).await.unwrap());
        }
        assert_eq!(room.enter(source(1)).await.unwrap_err().reason, Reason::Busy);
        drop(room.enter(source(2)).await.unwrap());
        slow.pop();
        room.enter(source(1)).await.unwrap();
    }

    #[tokio::test]
    async fn there_is_an_end_to_all_and_nothing_is_remembered() {
        let room = Room::with_wait(Duration::ZERO);
        let mut places = Vec::new();
        for n in 0..BODIES_MAX {
            places.push(room.enter(source(u8::try_from(n / BODIES_PER_SOURCE_MAX).unwrap())).await.unwrap());
        }
        assert_eq!(room.enter(source(200)).await.unwrap_err().reason, Reason::Busy);
        drop(places);
        drop(room.enter(source(200)).await.unwrap());
        drop(room.of(source(201)));
        assert_eq!(room.sources.lock().unwrap().len(), 1);
    }
}
