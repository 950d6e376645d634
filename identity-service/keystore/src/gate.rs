//! Bound of the requests for resident keys that wait at once. Modules cause them, and the queue before a device is
//! bounded: a module that asks without end must not fill it, or certificates and attestation would be refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::KeystoreError;

/// At a chip's half second for loading a key and using it, what waits here is done in a quarter of a request's
/// deadline, so what the gateway itself does at the same priority still comes in time.
const WAITING_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Gate {
    waiting: AtomicUsize,
}

/// One request's place; given back when dropped.
pub(crate) struct Place<'a>(&'a Gate);

impl Gate {
    pub(crate) fn enter(&self) -> Result<Place<'_>, KeystoreError> {
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < WAITING_MAX).then_some(waiting + 1)
        });
        taken.map(|_| Place(self)).map_err(|waiting| KeystoreError::Busy { waiting })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let gate = Gate::default();
        let mut places: Vec<_> = (0..WAITING_MAX).map(|_| gate.enter().unwrap()).collect();
        assert!(matches!(gate.enter(), Err(KeystoreError::Busy { waiting: WAITING_MAX })));
        places.pop();
        let again = gate.enter().unwrap();
        assert!(gate.enter().is_err());
        drop((places, again));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }
}
