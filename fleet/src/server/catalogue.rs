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
    pub fn new(all: Vec<Candidate>, carry: Carry) -> Self {
        Self { all, carry, chosen: Mutex::default() }
    }

    pub fn all(&self) -> &[Candidate] {
        &self.all
    }

    /// What a gateway with these labels should run.
    pub fn wanted(&self, labels: &Labels) -> Option<&Candidate> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match chosen.get(labels) {
            Some(place) => *place,
            None => {
                let found = choose(&self.all, labels, self.carry);
                let place = found.and_then(|found| self.all.iter().position(|one| one.id == found.id));
                if chosen.len() < REMEMBERED_MAX {
                    chosen.insert(labels.clone(), place);
                }
                place
            }
        };
        place.and_then(|place| self.all.get(place))
    }
}

/// What is stored now. What was read while it changed is given out and not kept.
#[derive(Debug)]
pub struct Catalogue {
    carry: Carry,
    held: Mutex<Held>,
    /// One reads for all that wait.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    changes: u64,
    deployments: Option<Arc<Deployments>>,
}

impl Catalogue {
    pub fn new(carry: Carry) -> Self {
        Self { carry, held: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn now(&self, store: &Store) -> Result<Arc<Deployments>, StoreError> {
        if let Some(deployments) = self.held().deployments.clone() {
            return Ok(deployments);
        }
        let _reading = self.reading.lock().await;
        let before = {
            let held = self.held();
            if let Some(deployments) = held.deployments.clone() {
                return Ok(deployments);
            }
            held.changes
        };
        let deployments = Arc::new(Deployments::new(store.deployments().await?, self.carry));
        let mut held = self.held();
        if held.changes == before {
            held.deployments = Some(Arc::clone(&deployments));
        }
        Ok(deployments)
    }

    /// Called after each change of what is stored, whether it is known to have succeeded or not.
    pub fn changed(&self) {
        let mut held = self.held();
        held.changes += 1;
        held.deployments = None;
    }
}
