//! One simulated TPM and many who want it: 64 callers, the urgent one among them, and twenty power cuts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use edgewarden_keystore::{Keystore, open};
use edgewarden_protocol::config;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use edgewarden_tests::{Failure, ensure};

use crate::common::failed;
use crate::number::{Number, Target};

const CALLERS: usize = 64;
/// Operations of each of them.
const EACH: usize = 20;
const CUTS: u32 = 20;

pub fn tpm() -> Result<Vec<Number>, Failure> {
    let folder = tempfile::tempdir()?;
    let mut tpm = SimulatedTpm::start(&folder.path().join("tpm"), Scenario::Normal).map_err(failed)?;
    let address = format!("127.0.0.1:{}", tpm.port()).parse().map_err(failed)?;
    let store = open(&config::Keystore::DangerousSimulatedTpm { address }, &folder.path().join("state"))
        .map_err(failed)?;
    let mut numbers = callers(&*store)?;
    numbers.push(power_cuts(&*store, &mut tpm)?);
    Ok(numbers)
}

/// One operation of one bulk caller: a signature by the gateway CA's key.
fn bulk(store: &dyn Keystore) -> Result<Duration, Failure> {
    let begun = Instant::now();
    store.ca_sign(b"to be signed").map_err(failed)?;
    Ok(begun.elapsed())
}

/// A quote, which goes before the bulk.
fn urgent(store: &dyn Keystore) -> Result<Duration, Failure> {
    let begun = Instant::now();
    store.quote(&[7; 32], &[0, 7]).map_err(failed)?;
    Ok(begun.elapsed())
}

fn callers(store: &dyn Keystore) -> Result<Vec<Number>, Failure> {
    let mut alone = Vec::new();
    let mut urgent_alone = Vec::new();
    for _ in 0..100 {
        alone.push(bulk(store)?);
        urgent_alone.push(urgent(store)?);
    }
    let together = Barrier::new(CALLERS);
    let over = AtomicBool::new(false);
    let (waits, urgents) = thread::scope(|scope| {
        let one = || -> Result<Vec<Duration>, Failure> {
            together.wait();
            (0..EACH).map(|_| bulk(store)).collect()
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(one)).collect();
        let in_between = scope.spawn(|| -> Result<Vec<Duration>, Failure> {
            let mut waits = Vec::new();
            while !over.load(Ordering::Relaxed) {
                waits.push(urgent(store)?);
                thread::sleep(Duration::from_millis(5));
            }
            Ok(waits)
        });
        let join = |result: thread::Result<Result<Vec<Duration>, Failure>>| {
            result.map_err(|_| Failure::new("a caller's thread ended"))?
        };
        let waits: Result<Vec<_>, Failure> = callers.into_iter().map(|caller| join(caller.join())).collect();
        over.store(true, Ordering::Relaxed);
        Ok::<_, Failure>((waits?, join(in_between.join())?))
    })?;
    // How long each caller took for its share: one that starves takes much longer than the middle one.
    let shares: Vec<Duration> = waits.iter().map(|waits| waits.iter().sum()).collect();
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    let none = Target::None;
    Ok(vec![
        Number::of("TPM, a signature, alone", "ms", none, &alone, millis),
        Number::of("TPM, a quote, alone", "ms", none, &urgent_alone, millis),
        Number::of("TPM, 64 callers, 20 signatures each", "ms", none, &shares, millis),
        Number::of("TPM, 64 callers, each signature", "ms", none, &waits.concat(), millis),
        Number::of("TPM, a quote among the 64", "ms", none, &urgents, millis),
    ])
}

/// From power back to the first signature; nothing may count as a failed try at a password.
fn power_cuts(store: &dyn Keystore, tpm: &mut SimulatedTpm) -> Result<Number, Failure> {
    let mut back = Vec::new();
    for _ in 0..CUTS {
        store.quote(&[1; 32], &[0, 7]).map_err(failed)?;
        tpm.power_cut().map_err(failed)?;
        tpm.reboot(Scenario::Normal).map_err(failed)?;
        back.push(bulk(store)?);
    }
    let lockout = store.health().map_err(failed)?.lockout;
    let lockout = lockout.ok_or_else(|| Failure::new("the store says nothing of lockout"))?;
    ensure(!lockout.locked && lockout.failures == 0, || {
        format!("after {CUTS} power cuts the TPM counts {} failed tries", lockout.failures)
    })?;
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    Ok(Number::of("TPM, first signature after each of 20 cuts", "ms", Target::None, &back, millis))
}
