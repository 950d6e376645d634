//! Queue before a device: bounded, with three lanes. A chip does a handful of operations a second, so the
//! order matters: the fleet's challenge times out first, then certificates, then the rest.
//!
//! Two promises, which together need more than "the first lane first":
//! * an urgent item waits for one item of the other lanes at most, the one that ran when it came included;
//! * nobody starves: a lane that was passed over [`PASSED_MAX`] times is served next, unless that would break the
//!   first promise, and then as soon as the urgent items that have waited once are gone.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most requests that wait. At a chip's 200 ms an operation this is more than any deadline allows.
pub(crate) const WAITING_MAX: usize = 128;
/// Times that a lane is passed over while something waits in it.
const PASSED_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Urgent.
    Attest,
    Certificate,
    Other,
}

/// One consumer's queue: [`Queue::pop`] also says that what was popped before is done.
pub(super) struct Queue<T> {
    lanes: Mutex<Lanes<T>>,
    filled: Condvar,
}

struct Lanes<T> {
    /// True for those that have waited for an item of another lane.
    attest: VecDeque<(T, bool)>,
    certificate: Lane<T>,
    other: Lane<T>,
    /// An item of another lane than `attest` was popped last, and is not done.
    bulk_runs: bool,
    closed: bool,
}

struct Lane<T> {
    items: VecDeque<T>,
    /// Times in a row that another lane was served while this one waited.
    passed: usize,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self { items: VecDeque::new(), passed: 0 }
    }

    fn pop(&mut self) -> Option<T> {
        self.passed = 0;
        self.items.pop_front()
    }

    fn pass(&mut self) {
        self.passed = if self.items.is_empty() { 0 } else { self.passed.saturating_add(1) };
    }

    fn is_due(&self) -> bool {
        self.passed >= PASSED_MAX && !self.items.is_empty()
    }
}

impl<T> Lanes<T> {
    fn waiting(&self) -> usize {
        self.attest.len() + self.certificate.items.len() + self.other.items.len()
    }

    fn next(&mut self) -> Option<T> {
        self.bulk_runs = false;
        let due = self.certificate.is_due() || self.other.is_due();
        let may_pass_urgent = self.attest.iter().all(|(_, has_waited)| !has_waited);
        if !(due && may_pass_urgent)
            && let Some((item, _)) = self.attest.pop_front()
        {
            self.certificate.pass();
            self.other.pass();
            return Some(item);
        }
        let item = if self.other.is_due() || self.certificate.items.is_empty() {
            self.certificate.pass();
            self.other.pop()
        } else {
            self.other.pass();
            self.certificate.pop()
        };
        if item.is_some() {
            self.bulk_runs = true;
            for (_, has_waited) in &mut self.attest {
                *has_waited = true;
            }
        }
        item
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
            certificate: Lane::new(),
            other: Lane::new(),
            bulk_runs: false,
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
        let has_waited = lanes.bulk_runs;
        match priority {
            Priority::Attest => lanes.attest.push_back((item, has_waited)),
            Priority::Certificate => lanes.certificate.items.push_back(item),
            Priority::Other => lanes.other.items.push_back(item),
        }
        self.filled.notify_one();
        Ok(())
    }

    /// The next item, waiting for one. `None` when the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut lanes = self.lock();
        loop {
            if lanes.closed {
                return None;
            }
            if let Some(item) = lanes.next() {
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
        lanes.certificate.items.clear();
        lanes.other.items.clear();
        self.filled.notify_all();
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push(Priority),
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = |priority| Just(Step::Push(priority));
        // Mostly urgent, so that the other lanes have something to fear.
        let step = prop_oneof![
            4 => push(Priority::Attest),
            1 => push(Priority::Certificate),
            1 => push(Priority::Other),
            4 => Just(Step::Pop),
        ];
        prop::collection::vec(step, 0..2000)
    }

    /// An item, and what was done while it waited.
    #[derive(Debug)]
    struct Waiting {
        number: usize,
        priority: Priority,
        bulk: usize,
        all: usize,
    }

    proptest! {
        #[test]
        fn urgent_items_wait_for_one_bulk_item_and_nobody_starves(steps in steps()) {
            let queue = Queue::new();
            let mut waiting: Vec<Waiting> = Vec::new();
            let mut running: Option<Priority> = None;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(priority) => {
                        let bulk = usize::from(running.is_some_and(|running| running != Priority::Attest));
                        if queue.push(priority, number).is_ok() {
                            waiting.push(Waiting { number, priority, bulk, all: 0 });
                        }
                    }
                    Step::Pop if waiting.is_empty() => {}
                    Step::Pop => {
                        let popped = queue.pop().unwrap();
                        let at = waiting.iter().position(|item| item.number == popped).unwrap();
                        let item = waiting.remove(at);
                        let first_of_lane =
                            waiting.iter().filter(|other| other.priority == item.priority).all(|other| other.number > popped);
                        prop_assert!(first_of_lane, "{item:?} before an older one of its lane");
                        if item.priority == Priority::Attest {
                            prop_assert!(item.bulk <= 1, "{item:?}");
                        }
                        // Those before it in the queue, those let past, and those that had to go before those.
                        prop_assert!(item.all <= (PASSED_MAX + 2) * WAITING_MAX, "{item:?}");
                        let is_bulk = item.priority != Priority::Attest;
                        for other in &mut waiting {
                            other.all += 1;
                            other.bulk += usize::from(is_bulk);
                        }
                        running = Some(item.priority);
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_of_urgent_items_lets_the_others_through() {
        let queue = Queue::new();
        queue.push(Priority::Certificate, Priority::Certificate).unwrap();
        queue.push(Priority::Other, Priority::Other).unwrap();
        let mut order = Vec::new();
        // There is never a moment without an urgent item.
        queue.push(Priority::Attest, Priority::Attest).unwrap();
        for _ in 0..3 * PASSED_MAX {
            queue.push(Priority::Attest, Priority::Attest).unwrap();
            order.push(queue.pop().unwrap());
        }
        let at = |wanted| order.iter().position(|priority| *priority == wanted).unwrap();
        assert!(
            at(Priority::Certificate) <= 2 * PASSED_MAX && at(Priority::Other) <= 2 * PASSED_MAX,
            "{order:?}"
        );
    }
}
