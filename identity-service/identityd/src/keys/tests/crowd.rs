//! Many modules at one store: each call that does not fit is refused, and what must not wait has room.

use std::sync::mpsc;
use std::time::Duration;

use edgewarden_names::{ModuleName, Reason};
use edgewarden_workload_wire::keys::Purpose;

use super::super::Who;
use super::super::vault::WAITING_MAX;
use super::crashes::{World, create};

const MODULES: usize = WAITING_MAX + 5;
/// A call that is refused is refused at once; this is for a test that fails.
const LONG: Duration = Duration::from_secs(60);

/// Values are sealed and opened by the chip as signatures are made by it, and count the same.
#[test]
fn a_store_that_stands_still_holds_few_calls_and_refuses_the_others() {
    let world = World::new();
    let keys = world.open().unwrap();
    // Nothing gets past this in the store.
    let still = world.memory.chip.lock().unwrap();
    let (told, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for n in 0..MODULES {
            let (told, keys) = (told.clone(), &keys);
            scope.spawn(move || {
                let module = ModuleName::parse(&format!("m{n}")).unwrap();
                let who = Who { instance: "m-1", module: &module };
                told.send(create(keys, who, "data", Purpose::Encrypt)).unwrap();
            });
        }
        let refused: Vec<_> = (0..MODULES - WAITING_MAX)
            .map(|_| outcomes.recv_timeout(LONG))
            .map(|outcome| outcome.map(|outcome| outcome.unwrap_err().reason))
            .collect();
        drop(still);
        assert!(refused.iter().all(|reason| *reason == Ok(Reason::Busy)), "{refused:?}");
        for _ in 0..WAITING_MAX {
            outcomes.recv_timeout(LONG).unwrap().unwrap();
        }
    });
    assert_eq!(keys.all().len(), WAITING_MAX);
}

/// The audit log is bounded: who makes and deletes without end must not push everything else out of it.
#[test]
fn changes_have_a_measure_of_their_own_and_uses_go_on() {
    let module = ModuleName::parse("alerts").unwrap();
    let who = Who { instance: "alerts-1", module: &module };
    let world = World::new();
    let keys = world.open().unwrap();
    create(&keys, who, "kept", Purpose::Sign).unwrap();
    let by = super::crashes::right(&keys, who, "kept");
    let mut changes = 0;
    let refusal = loop {
        let made = create(&keys, who, "more", Purpose::Encrypt);
        let deleted = made.and_then(|()| {
            keys.delete(who, &super::crashes::right(&keys, who, "more"), super::crashes::TICK).map(drop)
        });
        match deleted {
            Ok(()) => changes += 2,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.reason, Reason::KeyLimit);
    assert!(refusal.rule.contains("changes"), "{refusal}");
    assert!((16..100).contains(&changes), "{changes} changes");
    assert_eq!(keys.certify(who, &by, &[], super::crashes::TICK).unwrap_err().reason, Reason::KeyLimit);
    keys.sign(who, &by, b"message", super::crashes::TICK).unwrap();
    // Another module is not concerned.
    let other = ModuleName::parse("other").unwrap();
    create(&keys, Who { instance: "other-1", module: &other }, "k", Purpose::Encrypt).unwrap();
}
