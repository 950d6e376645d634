//! What waits for the TPM: a bounded queue with three lanes. A chip does a handful of operations a second, so the
//! order matters: the fleet's challenge times out first, then certificates, then the rest.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most requests that wait. At a chip's 200 ms an operation this is more than any deadline allows.
pub(super) const WAITING_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Attest,
    Certificate,
    Other,
}

pub(super) struct Queue<T> {
    lanes: Mutex<Lanes<T>>,
    filled: Condvar,
}

struct Lanes<T> {
    attest: VecDeque<T>,
    certificate: VecDeque<T>,
    other: VecDeque<T>,
    closed: bool,
}

impl<T> Lanes<T> {
    fn waiting(&self) -> usize {
        self.attest.len() + self.certificate.len() + self.other.len()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let lanes = Lanes {
            attest: VecDeque::new(),
            certificate: VecDeque::new(),
            other: VecDeque::new(),
            closed: false,
        };
        Self { lanes: Mutex::new(lanes), filled: Condvar::new() }
    }

    /// No code panics while it holds the lock, and lanes are whole at any point.
    fn lock(&self) -> MutexGuard<'_, Lanes<T>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, priority: Priority, item: T) -> Result<(), Refused> {
        let mut lanes = self.lock();
        if lanes.closed {
            return Err(Refused::Closed);
        }
        if lanes.waiting() >= WAITING_MAX {
            return Err(Refused::Full);
        }
        match priority {
            Priority::Attest => lanes.attest.push_back(item),
            Priority::Certificate => lanes.certificate.push_back(item),
            Priority::Other => lanes.other.push_back(item),
        }
        self.filled.notify_one();
        Ok(())
    }

    /// The next item by priority, waiting for one. `None` when the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut lanes = self.lock();
        loop {
            if lanes.closed {
                return None;
            }
            let Lanes { attest, certificate, other, .. } = &mut *lanes;
            if let Some(item) =
                attest.pop_front().or_else(|| certificate.pop_front()).or_else(|| other.pop_front())
            {
                return Some(item);
            }
            lanes = self.filled.wait(lanes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Refuses what comes and drops what waits.
    pub(super) fn close(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        lanes.attest.clear();
        lanes.certificate.clear();
        lanes.other.clear();
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestation_goes_first_and_the_queue_is_bounded() {
        let queue = Queue::new();
        for item in 0..WAITING_MAX - 2 {
            queue.push(Priority::Other, item).unwrap();
        }
        queue.push(Priority::Certificate, 1000).unwrap();
        queue.push(Priority::Attest, 1001).unwrap();
        assert_eq!(queue.push(Priority::Attest, 1002), Err(Refused::Full));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(1001), Some(1000), Some(0)]);
        queue.close();
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.push(Priority::Attest, 1), Err(Refused::Closed));
    }
}
