use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::*;

/// A device whose connections fail as they are told to.
struct Device {
    connected: Arc<AtomicUsize>,
    fault: Option<fn() -> Fault>,
}

impl Connector for Device {
    type Connection = ();

    fn name(&self) -> String {
        "a device".into()
    }

    fn connect(&mut self) -> Result<(), Fault> {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.fault.map_or(Ok(()), |fault| Err(fault()))
    }
}

fn device(fault: Option<fn() -> Fault>) -> (Device, Arc<AtomicUsize>) {
    let connected = Arc::new(AtomicUsize::new(0));
    (Device { connected: Arc::clone(&connected), fault }, connected)
}

/// Occupies the owner until the value is dropped.
fn occupy(owner: &Arc<Owner<Device>>, priority: Priority) -> Sender<()> {
    let (free, freed) = channel::<()>();
    let (started, running) = channel();
    let owner = Arc::clone(owner);
    std::thread::spawn(move || {
        owner.request(priority, move |()| {
            let _ = started.send(());
            let _ = freed.recv();
            Ok(())
        })
    });
    running.recv().unwrap();
    free
}

#[test]
fn a_device_that_hangs_costs_callers_their_deadline_and_no_more() {
    let owner = Arc::new(Owner::with_deadline(device(None).0, Duration::from_millis(10)).unwrap());
    let _hangs = occupy(&owner, Priority::Other);
    let mut full = false;
    for _ in 0..WAITING_MAX + 2 {
        let error = owner.request(Priority::Other, |()| Ok(())).unwrap_err();
        assert!(matches!(error, KeystoreError::Timeout { .. } | KeystoreError::Busy { .. }), "{error}");
        full |= matches!(error, KeystoreError::Busy { .. });
    }
    assert!(full);
}

#[test]
fn a_panic_underneath_is_an_error_and_not_the_end() {
    let (device, connected) = device(None);
    let owner = Owner::start(device).unwrap();
    let error = owner
        .request(Priority::Other, |()| -> Result<(), Fault> { panic!("as a slice out of range would") })
        .unwrap_err();
    assert!(matches!(error, KeystoreError::Unreachable { .. }), "{error}");
    owner.request(Priority::Other, |()| Ok(())).unwrap();
    assert_eq!(connected.load(Ordering::Relaxed), 2, "the connection is not used after a panic");
}

#[test]
fn a_request_is_tried_again_as_often_as_it_may_help() {
    let lost = || Fault::Lost("away".into());
    let garbled = || Fault::Garbled(KeystoreError::Answer("nonsense"));
    let fault = || Fault::Final(KeystoreError::Request("impossible"));
    for (fault, attempts) in [
        (lost as fn() -> Fault, usize::try_from(ATTEMPTS_MAX).unwrap()),
        (garbled, usize::try_from(ATTEMPTS_GARBLED_MAX).unwrap()),
        (fault, 1),
    ] {
        let (device, connected) = device(Some(fault));
        let owner = Owner::start(device).unwrap();
        assert!(owner.request(Priority::Other, |()| Ok(())).is_err());
        assert_eq!(connected.load(Ordering::Relaxed), attempts);
    }
}

#[test]
fn a_child_process_does_not_use_its_parents_connection() {
    let (device, connected) = device(None);
    let mut owner = Owner::start(device).unwrap();
    // As the memory of a child is after fork(2): the number is the parent's.
    owner.process = owner.process.wrapping_add(1);
    let error = owner.request(Priority::Other, |()| Ok(())).unwrap_err();
    assert!(matches!(error, KeystoreError::Request(_)), "{error}");
    assert_eq!(connected.load(Ordering::Relaxed), 0);
}

const CALLERS: usize = 64;

/// A request that was done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Done {
    caller: usize,
    priority: Priority,
}

#[test]
fn of_sixty_four_callers_none_starves() {
    let owner = Arc::new(Owner::start(device(None).0).unwrap());
    let done = Arc::new(Mutex::new(Vec::new()));
    let rounds = 20;
    let together = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (owner, done, together) = (&owner, &done, &together);
            // Half of them urgent without a pause: the worst for the others.
            let priority = match caller % 4 {
                0 => Priority::Certificate,
                1 => Priority::Other,
                _ => Priority::Attest,
            };
            scope.spawn(move || {
                together.wait();
                for _ in 0..rounds {
                    let done = Arc::clone(done);
                    owner
                        .request(priority, move |()| {
                            done.lock().unwrap().push(Done { caller, priority });
                            Ok(())
                        })
                        .unwrap();
                }
            });
        }
    });
    let done = done.lock().unwrap();
    assert_eq!(done.len(), CALLERS * rounds);
    for caller in 0..CALLERS {
        assert_eq!(done.iter().filter(|one| one.caller == caller).count(), rounds, "caller {caller}");
    }
}

#[test]
fn an_urgent_request_waits_for_one_bulk_operation_at_most() {
    let owner = Arc::new(Owner::start(device(None).0).unwrap());
    for running in [Priority::Other, Priority::Certificate, Priority::Attest] {
        let done = Arc::new(Mutex::new(Vec::new()));
        let free = occupy(&owner, running);
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (owner, done) = (&owner, &done);
                // The urgent one is the last to come.
                let priority = match caller {
                    63 => Priority::Attest,
                    _ if caller % 2 == 0 => Priority::Other,
                    _ => Priority::Certificate,
                };
                let waiting = owner.queue.waiting();
                scope.spawn(move || {
                    let done = Arc::clone(done);
                    owner
                        .request(priority, move |()| {
                            done.lock().unwrap().push(Done { caller, priority });
                            Ok(())
                        })
                        .unwrap();
                });
                while owner.queue.waiting() == waiting {
                    std::thread::yield_now();
                }
            }
            drop(free);
        });
        let done = done.lock().unwrap();
        let before = done.iter().take_while(|one| one.priority != Priority::Attest).count();
        let bulk = before + usize::from(running != Priority::Attest);
        assert!(bulk <= 1, "{bulk} before it: {:?}", &done[..=before]);
        // And the lanes keep their order within.
        for lane in [Priority::Other, Priority::Certificate] {
            let callers: Vec<_> =
                done.iter().filter(|one| one.priority == lane).map(|one| one.caller).collect();
            assert!(callers.is_sorted(), "{callers:?}");
        }
    }
}
