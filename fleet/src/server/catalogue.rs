//! The stored deployments as the choice needs them, in memory: read once after each change, and not by every gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::selection::{Candidate, Carry, Labels, choose};
use crate::store::{Store, StoreError};

/// Sets of labels whose choice is remembered.
const REMEMBERED_MAX: usize = 4096;

/// All deployments at one moment, oldest first.
#[derive(Debug)]
pub struct Deployments {
    all: Vec<Candidate>,
    carry: Carry,
    /// Gateways with the same labels have the same choice: the place in `all`.
    chosen: Mutex<HashMap<Labels, Option<usize>>>,
}

impl Deployments {
    /// Deployments of one moment; `all` is ordered oldest first.
    pub fn new(all: Vec<Candidate>, carry: Carry) -> Self {
        Self { all, carry, chosen: Mutex::default() }
    }

    /// Every deployment, oldest first.
    pub fn all(&self) -> &[Candidate] {
        &self.all
    }

    /// The deployment for a gateway with these labels, as [`choose`] finds it.
    pub fn wanted(&self, labels: &Labels) -> Option<&Candidate> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = chosen.get(labels).copied().unwrap_or_else(|| {
            let found = choose(&self.all, labels, self.carry);
            let place = found.and_then(|found| self.all.iter().position(|one| one.id == found.id));
            if chosen.len() < REMEMBERED_MAX {
                chosen.insert(labels.clone(), place);
            }
            place
        });
        place.and_then(|place| self.all.get(place))
    }
}

/// Cache of the stored deployments. A list that was read while they changed is given out and not kept.
#[derive(Debug)]
pub struct Catalogue {
    carry: Carry,
    cached: Mutex<Cached>,
    /// One reads for all that wait.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Cached {
    changes: u64,
    deployments: Option<Arc<Deployments>>,
}

impl Catalogue {
    /// An empty cache; the first [`Catalogue::now`] reads the store.
    pub fn new(carry: Carry) -> Self {
        Self { carry, cached: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deployments as they are stored, from memory when they are known.
    pub async fn now(&self, store: &Store) -> Result<Arc<Deployments>, StoreError> {
        if let Some(deployments) = self.cached().deployments.clone() {
            return Ok(deployments);
        }
        let _reading = self.reading.lock().await;
        let before = {
            let cached = self.cached();
            if let Some(deployments) = cached.deployments.clone() {
                return Ok(deployments);
            }
            cached.changes
        };
        let deployments = Arc::new(Deployments::new(store.deployments().await?, self.carry));
        let mut cached = self.cached();
        if cached.changes == before {
            cached.deployments = Some(Arc::clone(&deployments));
        }
        Ok(deployments)
    }

    /// Forgets the cached list. Called after each change of what is stored, whether it is known to have succeeded or
    /// not.
    pub fn changed(&self) {
        let mut cached = self.cached();
        cached.changes += 1;
        cached.deployments = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::deployments::NewDeployment;
    use edgewarden_names::{Digest, UnixTime};

    async fn add(store: &Store, version: u8) {
        let new = NewDeployment {
            digest: &Digest::from_sha256(&[version; 32]),
            name: "all",
            version: version.into(),
            selector: &Labels::new(),
            signer: Some("operator"),
            envelope: b"{}",
        };
        store.add_deployment(&new, UnixTime(1)).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_stored_is_read_once_for_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("fleet.db")).await.unwrap();
        let catalogue = Catalogue::new(Carry::Verified);
        let version = |deployments: &Deployments| deployments.wanted(&Labels::new()).map(|one| one.version);
        let empty = catalogue.now(&store).await.unwrap();
        assert_eq!(version(&empty), None);
        add(&store, 1).await;
        // Until the change is told, everybody has the same: nobody reads.
        assert!(Arc::ptr_eq(&empty, &catalogue.now(&store).await.unwrap()));
        catalogue.changed();
        let first = catalogue.now(&store).await.unwrap();
        assert_eq!((version(&first), version(&first)), (Some(1), Some(1)));
        // What was read before a change that came meanwhile is not kept.
        catalogue.changed();
        let (read, ()) = tokio::join!(catalogue.now(&store), async {
            add(&store, 2).await;
            catalogue.changed();
        });
        drop(read.unwrap());
        assert_eq!(version(&catalogue.now(&store).await.unwrap()), Some(2));
        assert_eq!(version(&first), Some(1), "who holds it has it whole");
    }
}
